"""Messages of the Kademlia protocol, checked and bounded. Pure but for the generated protobuf code of libp2p."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from msgspec import Struct
from multiaddr import Multiaddr as Address

from crabnet import limits


class Ask(Enum):
    """What a message asks. Values of the DHT are not among it: this node keeps none."""

    ADD_PROVIDER = Message.ADD_PROVIDER
    GET_PROVIDERS = Message.GET_PROVIDERS
    FIND_NODE = Message.FIND_NODE
    PING = Message.PING


class Named(Struct, frozen=True):
    """A peer that a message names. The addresses are what the sender says, and not checked."""

    peer: bytes
    addresses: list[str]


class Kad(Struct, frozen=True):
    """A message."""

    ask: Ask
    key: bytes = b""
    closer: list[Named] = []
    providers: list[Named] = []


class MalformedKadError(Exception):
    """The bytes are no message of this protocol, or one that this node does not take."""


_ASKS: Final = {each.value: each for each in Ask}


def kad_of(data: bytes) -> Kad:
    """Raises MalformedKadError."""
    try:
        message = Message.FromString(data)
    except DecodeError as error:
        raise MalformedKadError("no message of the DHT") from error
    ask = _ASKS.get(message.type)
    if ask is None:
        raise MalformedKadError("this node keeps no values")
    if len(message.key) > limits.KAD_KEY_BYTES_MAX:
        raise MalformedKadError("a key that is too long")
    return Kad(ask, message.key, _named(message.closerPeers), _named(message.providerPeers))


def bytes_of(kad: Kad) -> bytes:
    """The message as bytes."""
    message = Message(type=kad.ask.value, key=kad.key)
    for named, peers in ((kad.closer, message.closerPeers), (kad.providers, message.providerPeers)):
        for each in named:
            peers.add(id=each.peer, addrs=[Address(text).to_bytes() for text in each.addresses])
    return message.SerializeToString()


def _named(peers: Iterable[Message.Peer]) -> list[Named]:
    found: list[Named] = []
    for each in peers:
        if len(found) >= limits.KAD_TOLD_MAX:
            break
        if is_peer_id(each.id):
            texts = map(_text, each.addrs[: limits.KAD_ADDRESSES_READ_MAX])
            found.append(Named(each.id, [text for text in texts if text]))
    return found


def _text(data: bytes) -> str:
    if len(data) > limits.MULTIADDR_CHARS_MAX:
        return ""
    try:
        return str(Address(data))
    except Exception:  # noqa: BLE001 - the library raises many kinds of errors for bytes of strangers
        return ""


def is_peer_id(data: bytes) -> bool:
    """True for the bytes of a peer id with its key inside (Ed25519, secp256k1), or of the hash of a longer key."""
    if len(data) > limits.KAD_KEY_BYTES_MAX or len(data) < 2:
        return False
    return data[0] in (0x00, 0x12) and data[1] == len(data) - 2


def name_of(peer: bytes) -> str:
    """A peer id as text."""
    return str(ID(peer))
