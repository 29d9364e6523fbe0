"""Effects: the actions that the core requests from the node.

The node must make all ``records`` durable before it carries out anything else (docs/ARCHITECTURE.md, principle 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from crabnet.core.budgets.sources import Block
from crabnet.core.replica.held import HeldRow
from crabnet.domain.model import Bid, Claim, Seed, SeedStatus, TaskResult

FieldValue = str | int | bool | None


class Notice(Struct, frozen=True, gc=False):
    """The content of an event. ``kind`` is a name in the event registry."""

    kind: str
    fields: Mapping[str, FieldValue]


class Send(NamedTuple):
    """An envelope to send to one address, or to all configured targets and confirmed peers if ``to`` is None.

    A ``relayed`` envelope is one of another author that this node passes on. If there is too much to send, relayed
    envelopes are dropped first. ``concerns`` are the nodes that wait for it: it is sent to them directly too, if they
    are connected.
    """

    data: bytes
    kind: str
    envelope_id: str
    to: str | None = None
    relayed: bool = False
    concerns: tuple[str, ...] = ()


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
    """A stored envelope about a seed, named by its id, to send to one address."""

    seed_id: str
    envelope_id: str
    to: str


class FeedPlace(Struct, frozen=True, gc=False):
    """A journalled envelope, for the index. ``record_no`` counts within the batch."""

    row: HeldRow
    record_no: int


class EndedClaim(NamedTuple):
    """A claim of a bid of this node that is over. ``status`` is the present status of the seed."""

    seed_id: str
    claim_id: str
    status: SeedStatus


class RunOrder(NamedTuple):
    """A command that may run once the records are durable."""

    seed_id: str
    claim_id: str
    run_id: str
    command: str
    timeout_ms: int
    attempt: int


class CheckOrder(NamedTuple):
    """A check to run on the result of an own seed, once the records are durable. ``Checked`` gives its outcome back."""

    seed_id: str
    result_id: str
    command: str


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
    blocks: list[Block] = field(default_factory=list)
    """Sources that are refused for a while from now on."""
    ended_claims: list[EndedClaim] = field(default_factory=list)
    checks: list[CheckOrder] = field(default_factory=list)
    own_head: tuple[int, str] | None = None
    """Sequence number and id of the last envelope that the node has added to its own feed."""
    reply: Reply = None
    reply_seed_id: str = ""
    alone: bool = False
    """True if it must be committed in a frame of its own, because it may have caused a failed commit."""
