"""What the core asks the node to do.

Nothing else may happen before all ``records`` are durable (docs/ARCHITECTURE.md, principle 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from crabnet.core.replica.held import HeldRow
from crabnet.domain.model import Bid, Claim, Seed, SeedStatus, TaskResult

FieldValue = str | int | bool | None


class Notice(Struct, frozen=True, gc=False):
    """Something worth an event; ``kind`` is a name of the event registry."""

    kind: str
    fields: Mapping[str, FieldValue]


class Send(NamedTuple):
    """An envelope to send: to one address, or to all configured targets and confirmed peers when ``to`` is None.

    One that is ``relayed`` is another author's, passed on: it is the first to go when there is too much to send.
    """

    data: bytes
    kind: str
    envelope_id: str
    to: str | None = None
    relayed: bool = False


class Serve(NamedTuple):
    """Stored envelopes to send again, both ends included."""

    author: str
    from_seq: int
    to_seq: int
    to: str


class ServeProof(NamedTuple):
    """The stored proof of a fork, to send to one address."""

    author: str
    seq: int
    to: str


class ServeNamed(NamedTuple):
    """A stored envelope about a seed, by its id, to send to one address."""

    seed_id: str
    envelope_id: str
    to: str


class FeedPlace(Struct, frozen=True, gc=False):
    """A journalled envelope, for the index; ``record_no`` counts within the batch."""

    row: HeldRow
    record_no: int


class EndedClaim(NamedTuple):
    """A claim for this node that is over; ``status`` is what the seed is now."""

    seed_id: str
    claim_id: str
    status: SeedStatus


class RunOrder(NamedTuple):
    """A command that may be run, once the records are durable."""

    seed_id: str
    claim_id: str
    run_id: str
    command: str
    timeout_ms: int
    attempt: int


Reply = Seed | Bid | Claim | RunOrder | TaskResult | None


@dataclass(slots=True)
class Effects:
    """The outputs of one or more inputs, in order."""

    records: list[bytes] = field(default_factory=list)
    places: list[FeedPlace] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    serves: list[Serve] = field(default_factory=list)
    proofs: list[ServeProof] = field(default_factory=list)
    serves_named: list[ServeNamed] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    ended_claims: list[EndedClaim] = field(default_factory=list)
    own_head: tuple[int, str] | None = None
    """Sequence number and id of the last envelope that the node has added to its own feed."""
    reply: Reply = None
    reply_seed_id: str = ""
    alone: bool = False
    """Committed in a frame of its own: a commit that failed may have been due to it."""
