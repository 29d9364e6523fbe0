"""Talk between neighbours: hello (proof of address), heads (version vectors), requests for parts of feeds.

An answer to a request is the stored envelopes themselves, sent again as they are.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import NodeId
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.payloads import PayloadRefusedError

_Token = Annotated[str, Meta(max_length=64)]
_Seq = Annotated[int, Meta(ge=1)]
_EnvelopeId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class NodeIdentity(Struct, frozen=True):
    """What a node says of itself."""

    node_id: NodeId
    alias: Annotated[str, Meta(max_length=128)] = ""
    agent: Annotated[str, Meta(max_length=128)] = ""


class Hello(Struct, frozen=True):
    """``NodeHello``: ``challenge`` asks the receiver to prove its address, ``echo`` repeats the challenge it sent."""

    identity: NodeIdentity
    challenge: _Token = ""
    echo: _Token = ""


class Head(Struct, frozen=True, array_like=True):
    """``[author, seq, id]``: the last envelope that the sender holds of a feed."""

    author: NodeId
    seq: _Seq
    id: _EnvelopeId


class Heads(Struct, frozen=True):
    """``FeedHeads``: a part of the sender's version vector."""

    heads: Annotated[list[Head], Meta(max_length=limits.SYNC_HEADS_PER_MESSAGE_MAX)]


class Want(Struct, frozen=True, array_like=True):
    """``[author, from_seq, to_seq]``: the envelopes wanted, both ends included."""

    author: NodeId
    from_seq: _Seq
    to_seq: _Seq


class Request(Struct, frozen=True):
    """``FeedRequest``: send these again, please."""

    wants: Annotated[list[Want], Meta(max_length=limits.SYNC_WANTS_PER_MESSAGE_MAX)]


class ForkMark(Struct, frozen=True, array_like=True):
    """``[author, seq]``: a place for which the author signed two envelopes."""

    author: NodeId
    seq: _Seq


class ForkHeads(Struct, frozen=True):
    """``ForkHeads``: forks of which the sender has proof."""

    forks: Annotated[list[ForkMark], Meta(max_length=limits.FORKS_PER_MESSAGE_MAX)]


class ForkRequest(Struct, frozen=True):
    """``ForkRequest``: send these proofs, please. The answer is the document of each (``fork_proof``)."""

    wants: Annotated[list[ForkMark], Meta(max_length=limits.SYNC_WANTS_PER_MESSAGE_MAX)]


class RelayPrune(Struct, frozen=True):
    """``RelayPrune``: the envelopes of these authors come to the sender by another way, too."""

    authors: Annotated[list[NodeId], Meta(max_length=limits.RELAY_PRUNES_PER_MESSAGE_MAX)]


Talk = Hello | Heads | Request | ForkHeads | ForkRequest | RelayPrune
_TYPES: dict[Kind, type[Hello | Heads | Request | ForkHeads | ForkRequest | RelayPrune]] = {
    Kind.NODE_HELLO: Hello,
    Kind.FEED_HEADS: Heads,
    Kind.FEED_REQUEST: Request,
    Kind.FORK_HEADS: ForkHeads,
    Kind.FORK_REQUEST: ForkRequest,
    Kind.RELAY_PRUNE: RelayPrune,
}


def talk_of(envelope: Envelope, kind: Kind) -> Talk:
    """The message inside an admitted envelope that belongs to no feed. Raises ``PayloadRefusedError``."""
    try:
        talk = msgspec.convert(envelope.payload, _TYPES[kind])
    except msgspec.ValidationError as error:
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {error}") from error
    if isinstance(talk, Hello) and talk.identity.node_id != envelope.meta.from_:
        raise PayloadRefusedError(Reason.UNAUTHORISED, f"hello of {envelope.meta.from_} speaks for another node")
    return talk


def payload_of(talk: Talk) -> tuple[Kind, JsonObject]:
    """Kind and payload of a message to a neighbour."""
    kind = next(kind for kind, talk_type in _TYPES.items() if isinstance(talk, talk_type))
    payload: JsonObject = msgspec.to_builtins(talk)
    return kind, payload
