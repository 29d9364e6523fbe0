"""The messages between a node and its libp2p process: length-prefixed msgpack over the lifeline (ADR 43).

Strangers talk to the process, so the node trusts nothing that it says: it verifies each envelope again.
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct as Layout
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits

LENGTH: Final = Layout("<I")
FRAME_BYTES_MAX: Final = 2 * limits.FORK_PROOF_BYTES_MAX
"""A frame holds one message of the greatest size, or several small ones."""
BATCH_BYTES: Final = 64 * 1024
"""Messages of one peer share a frame up to this size."""

PeerId = Annotated[str, Meta(min_length=1, max_length=limits.NODE_ID_CHARS_MAX)]
_Text = Annotated[str, Meta(max_length=limits.EVENT_DETAIL_CHARS)]
_Address = Annotated[str, Meta(max_length=limits.MULTIADDR_CHARS_MAX)]
_Count = Annotated[int, Meta(ge=0)]


class Path(StrEnum):
    """How a message comes or goes."""

    GOSSIP = "gossip"
    SYNC = "sync"
    DIRECT = "direct"
    CONNECTION = "connection"
    """What carries the others: only in ``Misused``."""


class Learnt(StrEnum):
    """How the address of a peer was learnt."""

    CONFIGURED = "configured"
    REMEMBERED = "remembered"
    IDENTIFY = "identify"
    RENDEZVOUS = "rendezvous"
    MDNS = "mdns"
    TOLD = "told"


class Publish(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Publish a message to topics. The answer is ``Published`` with this number."""

    number: int
    topics: list[str]
    data: bytes


class Send(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Send messages to a connected peer over a stream. The answer is ``Sent``, once the stream has taken them."""

    number: int
    peer: PeerId
    path: Path
    messages: list[bytes]


class Block(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Disconnect a peer, and refuse it for a while."""

    peer: PeerId
    duration_ms: _Count


Order = Publish | Send | Block
"""What the node asks of the process."""


class Arrived(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Messages of a peer that are valid as far as their bytes tell. ``topic`` is "" for streams."""

    peer: PeerId
    path: Path
    topic: _Text
    messages: list[bytes]


class Connected(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """A peer has proved its id and speaks the sync protocol."""

    peer: PeerId
    address: _Address
    outbound: bool
    relayed: bool


class Disconnected(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """A peer that was connected is gone."""

    peer: PeerId


class Published(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """A message was given to so many peers. ``reason`` is "" or the Reason why it was given to none."""

    number: int
    peers: _Count
    reason: _Text = ""


class Sent(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """A stream has taken the messages, if ``reason`` is ""; otherwise the Reason."""

    number: int
    reason: _Text = ""
    detail: _Text = ""


class Misused(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """Messages of a peer that were refused. ``hostile``: they count against it."""

    peer: PeerId
    path: Path
    reason: _Text
    detail: _Text
    count: _Count
    size_bytes: _Count
    hostile: bool


class Noted(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """An event to report, with its fields. The node takes those kinds only that it expects of the process."""

    kind: _Text
    fields: dict[str, str | int | bool | None]


class Known(Struct, frozen=True, array_like=True, gc=False):
    """An address of a peer, and what is known of it. Times are wall time in seconds."""

    address: _Address
    peer: PeerId
    learnt: Learnt
    succeeded_s: _Count = 0
    failures: _Count = 0


class Book(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """All addresses to remember over restarts."""

    known: Annotated[list[Known], Meta(max_length=limits.PEERS_REMEMBERED_MAX)]


class TopicState(Struct, frozen=True, array_like=True, gc=False):
    """How many peers subscribe to a topic, and how many of them are in its mesh."""

    topic: _Text
    peers: _Count
    mesh: _Count


class State(Struct, frozen=True, tag=True, array_like=True, gc=False):
    """The state of the process, told regularly. Counts are since its start."""

    connections: _Count
    streams: _Count
    topics: list[TopicState]
    addresses: list[_Address]
    observed: list[_Address]
    reachability: _Text
    relays: list[_Address]
    counters: dict[str, int]


Report = Arrived | Connected | Disconnected | Published | Sent | Misused | Noted | Book | State
"""What the process tells the node."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_ORDERS: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_REPORTS: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)


def frame(message: Order | Report) -> bytes:
    """A message with its length before it."""
    content = _ENCODER.encode(message)
    return LENGTH.pack(len(content)) + content


def order_of(content: bytes) -> Order:
    """Raises msgspec.MsgspecError."""
    return _ORDERS.decode(content)


def report_of(content: bytes) -> Report:
    """Raises msgspec.MsgspecError."""
    return _REPORTS.decode(content)


class Frames:
    """Cuts a stream of bytes into frames. Pure."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, data: bytes) -> list[bytes]:
        """The contents of the frames that are complete now. Raises ValueError for a frame that is too long."""
        self._buffer += data
        found: list[bytes] = []
        at = 0
        buffer = self._buffer
        while len(buffer) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, at)
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length} bytes, at most {FRAME_BYTES_MAX}")
            end = at + LENGTH.size + length
            if len(buffer) < end:
                break
            found.append(bytes(buffer[at + LENGTH.size : end]))
            at = end
        del buffer[:at]
        return found


class Given(Struct, frozen=True, kw_only=True):
    """What the node gives to the process at its start."""

    seed: bytes
    """The node's Ed25519 seed, 32 bytes. It is sent over the inherited descriptor only."""
    namespace: str
    listen: list[str]
    """Multiaddrs. Empty: it only dials."""
    listen_fallback: bool = False
    announce: list[str] = []
    bootstrap: list[str] = []
    """Multiaddrs, ``/dnsaddr/…``, or ``host:port`` for a peer whose id is not known."""
    publish: list[str]
    subscribe: list[str]
    known: list[Known] = []
    network_key: bytes = b""
    """The key of a private network, 32 bytes; empty for the open network."""
    rendezvous: str = "auto"
    """``auto``, ``server``, ``client`` or ``off``."""
    mdns: bool = True
    relay: str = "client"
    """``off``, ``client`` or ``server``."""
    require_signatures: bool = True
    message_ttl_s: int = 43_200
    future_skew_s: int = 300
    messages_per_s: int = 0
    """Messages of one peer over gossip; 0 means no limit."""
    peers_max: int = limits.P2P_CONNECTIONS_MAX
    address_connections_max: int = limits.P2P_ADDRESS_CONNECTIONS_MAX
