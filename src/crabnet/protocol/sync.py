"""Messages between neighbours: hello (proof of address), heads and digests of version vectors, requests.

A node answers a request for envelopes with the stored envelopes, unchanged. See docs/PROTOCOL.md, section 12.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import Id, Natural, NodeId
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.payloads import PayloadRefusedError

_CHILDREN: Final = 16
_Token = Annotated[str, Meta(max_length=64)]
_Seq = Annotated[int, Meta(ge=1)]
_Digest = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{32})?\Z")]
_Prefix = Annotated[str, Meta(pattern=r"^[0-9a-f]*\Z", max_length=limits.SYNC_BUCKET_DIGITS_MAX)]
_EnvelopeId = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]


class NodeIdentity(Struct, frozen=True):
    """A node's description of itself."""

    node_id: NodeId
    alias: Annotated[str, Meta(max_length=128)] = ""
    agent: Annotated[str, Meta(max_length=128)] = ""


class Hello(Struct, frozen=True):
    """``NodeHello``: ``challenge`` asks the receiver to prove its address, ``echo`` repeats a challenge of it."""

    identity: NodeIdentity
    challenge: _Token = ""
    echo: _Token = ""


class Head(Struct, frozen=True, array_like=True, omit_defaults=True):
    """``[author, seq, id]``: the last envelope that the sender holds of a feed, 0 and "" if it holds none.

    ``end`` is the lowest place for which the sender can prove that the author signed two envelopes, 0 if there is none.
    """

    author: NodeId
    seq: Annotated[int, Meta(ge=0)]
    id: _EnvelopeId
    end: Annotated[int, Meta(ge=0)] = 0


class Bucket(Struct, frozen=True, array_like=True):
    """``[prefix, digests]``: the digests of the sixteen buckets below, "" for an empty one.

    A bucket with few heads has no digests. Its heads are in the same message.
    """

    prefix: _Prefix
    digests: Annotated[list[_Digest], Meta(max_length=_CHILDREN)]


class Want(Struct, frozen=True, array_like=True):
    """``[author, from_seq, to_seq]``: the requested envelopes, both ends included."""

    author: NodeId
    from_seq: _Seq
    to_seq: _Seq


class Named(Struct, frozen=True, array_like=True):
    """``[seed_id, envelope_id]``: an envelope about a seed, requested by its id and not by its place."""

    seed_id: Id
    envelope_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Served(Struct, frozen=True, array_like=True):
    """``[author, from_seq, to_seq]``: the answer to the want that began at ``from_seq`` ended at ``to_seq``."""

    author: NodeId
    from_seq: _Seq
    to_seq: Annotated[int, Meta(ge=0)]


class Heads(Struct, frozen=True, omit_defaults=True):
    """``FeedHeads``: heads that the sender holds, digests of many heads, and where its answers ended.

    ``root`` is the digest of all heads of the sender, or "" if it does not give it. A ``served`` range that ends before
    it begins means that nothing was sent.
    """

    heads: Annotated[list[Head], Meta(max_length=limits.SYNC_HEADS_PER_MESSAGE_MAX)]
    root: _Digest = ""
    buckets: Annotated[list[Bucket], Meta(max_length=limits.SYNC_BUCKETS_PER_MESSAGE_MAX)] = []
    served: Annotated[list[Served], Meta(max_length=limits.SYNC_SERVED_PER_MESSAGE_MAX)] = []


class Request(Struct, frozen=True, omit_defaults=True):
    """``FeedRequest``: a request for the envelopes in ``wants`` and ``names``, and for the content of ``buckets``.

    ``names`` are envelopes that others rest on.
    """

    wants: Annotated[list[Want], Meta(max_length=limits.SYNC_WANTS_PER_MESSAGE_MAX)]
    buckets: Annotated[list[_Prefix], Meta(max_length=limits.SYNC_BUCKETS_PER_MESSAGE_MAX)] = []
    names: Annotated[list[Named], Meta(max_length=limits.SYNC_NAMES_PER_MESSAGE_MAX)] = []


class ForkMark(Struct, frozen=True, array_like=True):
    """``[author, seq]``: a place for which the author signed two envelopes."""

    author: NodeId
    seq: _Seq


class ForkRequest(Struct, frozen=True):
    """``ForkRequest``: a request for fork proofs. The answer is the document of each (``fork_proof``)."""

    wants: Annotated[list[ForkMark], Meta(max_length=limits.SYNC_WANTS_PER_MESSAGE_MAX)]


class RelayPrune(Struct, frozen=True):
    """``RelayPrune``: the sender also gets the envelopes of these authors from another neighbour."""

    authors: Annotated[list[NodeId], Meta(max_length=limits.RELAY_PRUNES_PER_MESSAGE_MAX)]


class BidDeclined(Struct, frozen=True, omit_defaults=True):
    """``BidDeclined``: why the sender does not bid for a seed.

    ``reason`` is one of ``DECLINES``. Later versions may send other words. ``price`` is the least for which the sender
    would bid, if the offered one is the reason.
    """

    seed_id: Id
    reason: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\Z", max_length=limits.DECLINE_WORD_CHARS_MAX)]
    price: Natural | None = None


DECLINES: Final = frozenset(
    {Reason.NOT_ALLOWED, Reason.PRICE, Reason.BUSY, Reason.SCHEDULE, Reason.TRUST, Reason.RESOURCES}
)
"""The Reasons for which a worker does not bid."""
Talk = Hello | Heads | Request | ForkRequest | RelayPrune | BidDeclined
_TYPES: dict[Kind, type[Hello | Heads | Request | ForkRequest | RelayPrune | BidDeclined]] = {
    Kind.NODE_HELLO: Hello,
    Kind.FEED_HEADS: Heads,
    Kind.FEED_REQUEST: Request,
    Kind.FORK_REQUEST: ForkRequest,
    Kind.RELAY_PRUNE: RelayPrune,
    Kind.BID_DECLINED: BidDeclined,
}


def talk_of(envelope: Envelope, kind: Kind) -> Talk:
    """The message inside an admitted envelope that belongs to no feed. Raises ``PayloadRefusedError``."""
    try:
        talk = msgspec.convert(envelope.payload, _TYPES[kind])
    except msgspec.ValidationError as error:
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {error}") from error
    if isinstance(talk, Hello) and talk.identity.node_id != envelope.meta.from_:
        raise PayloadRefusedError(Reason.UNAUTHORISED, f"hello of {envelope.meta.from_} speaks for another node")
    if isinstance(talk, Heads) and any(len(bucket.digests) not in {0, _CHILDREN} for bucket in talk.buckets):
        raise PayloadRefusedError(Reason.MALFORMED, f"a bucket must have {_CHILDREN} digests or none")
    if isinstance(talk, Request) and any(want.to_seq < want.from_seq for want in talk.wants):
        raise PayloadRefusedError(Reason.MALFORMED, "a want ends before it begins")
    if isinstance(talk, Heads) and any(served.to_seq < served.from_seq - 1 for served in talk.served):
        raise PayloadRefusedError(Reason.MALFORMED, "a served range ends more than one place before it begins")
    if isinstance(talk, BidDeclined) and talk.price is not None and talk.reason in DECLINES - {Reason.PRICE}:
        raise PayloadRefusedError(Reason.MALFORMED, f"a decline because of {talk.reason} names no price")
    return talk


def payload_of(talk: Talk) -> tuple[Kind, JsonObject]:
    """Kind and payload of a message to a neighbour."""
    kind = next(kind for kind, talk_type in _TYPES.items() if isinstance(talk, talk_type))
    payload: JsonObject = msgspec.to_builtins(talk)
    return kind, payload
