"""What operations show of tasks: seeds, bids, claims, runs, results, settlements.

Names that end in ``_ts`` and ``_at`` are whole seconds since 1970 (UTC). ``_ms`` are milliseconds. Prices and rewards
are whole numbers without a unit.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import OutputFile, SeedStatus, Termination


class Seed(Struct, frozen=True, kw_only=True):
    """A task: its definition, and what has become of it."""

    id: str
    title: str
    description: str
    command: str
    timeout_ms: int
    bid_deadline_ts: int
    exec_deadline_ms: int
    """From the claim to the result."""
    min_price: int
    max_bids: int
    """Most bids that count; 0: no limit."""
    reward: int
    rules: str
    status: SeedStatus
    created_by: str
    created_at: int
    claimed_by: str | None
    claimed_at: int | None
    claim_id: str | None
    result_id: str | None
    price: int | None
    """Of the bid that is claimed; null before."""
    claim_deadline_ts: int
    acceptance: Acceptance | None
    """The conditions by which everybody can judge the result."""
    settle_window_s: int
    """How long after the result the creator may take to settle."""
    settle_by: int | None
    """Last second at which the creator settles the result in time. Null if no result awaits that."""
    overdue: bool
    """That time is over."""
    follows: str | None
    """The task that this one takes up again, after its result was rejected."""
    attempt: int
    """Counts from 1."""
    version: int
    """Grows with the progress of the task, as long as no fork is found."""
    biddable: bool
    """A bid that is made now may count."""
    bid_count: int
    note: str
    """Of the settlement, or why the task is disputed."""
    started_at: int | None
    """When the current run began."""
    heard_at: int | None
    """When this node last heard of the current run."""
    lease_until: int | None
    """When this node should hear of the current run again."""
    renewals: int
    exit_code: int | None
    """Of the result that counts; null without one. The same holds for the next three."""
    timed_out: bool | None
    refusal: str | None
    """Why the worker's runner did not run the command."""
    failed: str | None
    """Whose failure it is: ``task`` or ``worker``. Null if the command succeeded."""


class ListedSeed(Seed, frozen=True, kw_only=True):
    """A task in a list."""

    archived: bool
    """It has left memory."""
    needs_me: bool
    """The next step is one of this node's operator: to claim a bid, to run it, to settle it."""
    equivocator: bool
    """Its creator is proved to have forked its feed."""


class ShownSeed(Seed, frozen=True, kw_only=True):
    """A task with the envelope that published it."""

    envelope_id: str | None
    equivocator: bool
    """Its creator is proved to have forked its feed."""


class Bid(Struct, frozen=True, kw_only=True):
    """An offer of a worker."""

    id: str
    seed_id: str
    bidder: str
    price: int
    notes: str
    created_at: int
    rests_on: str | None
    """The envelope that it answers."""


class ShownBid(Bid, frozen=True, kw_only=True):
    """An offer among the others for its task."""

    envelope_id: str | None
    counts: bool
    """It is among the bids that may be claimed."""
    claimed: bool
    equivocator: bool
    """The bidder is proved to have forked its feed."""


class Claim(Struct, frozen=True, kw_only=True):
    """The creator's choice of a bid."""

    id: str
    seed_id: str
    bid_id: str
    worker: str
    created_at: int
    attempt: int
    rests_on: str | None


class ShownClaim(Claim, frozen=True, kw_only=True):
    """A claim that counts."""

    envelope_id: str | None
    signed: bool
    """False for an envelope of the old protocol."""


class ShownRun(Struct, frozen=True, kw_only=True):
    """The worker has begun, or continues (``renews``)."""

    id: str
    seed_id: str
    claim_id: str
    worker: str
    created_at: int
    renews: str | None
    lease_ms: int | None
    """The longest time for which the run intends to be silent."""
    rests_on: str | None
    envelope_id: str | None
    signed: bool


class Result(Struct, frozen=True, kw_only=True):
    """The result of a run."""

    id: str
    seed_id: str
    worker: str
    exit_code: int
    timed_out: bool
    stdout: str
    """With bytes replaced that are not UTF-8."""
    stderr: str
    output_hash: str
    """Hex SHA-256 of the whole raw stdout, then the whole raw stderr."""
    duration_ms: int
    claim_id: str | None
    created_at: int | None
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_base64: str
    """The bytes of output that is not UTF-8, else empty."""
    stderr_base64: str
    termination: Termination | None
    refusal: str | None
    """The reason, when the runner did not run the command."""
    sandbox: str | None
    profile: str | None
    files: tuple[OutputFile, ...]
    """Files that the run left."""
    files_omitted: int
    failed: str | None
    """``task`` or ``worker``: whose failure it is. Null if the command succeeded."""
    rests_on: str | None


class ShownResult(Result, frozen=True, kw_only=True):
    """A result that counts."""

    envelope_id: str | None
    signed: bool


class ShownSettlement(Struct, frozen=True, kw_only=True):
    """The creator's decision that ends a task, or one attempt at it."""

    id: str
    seed_id: str
    outcome: SeedStatus
    claim_id: str | None
    result_id: str | None
    attempt: int
    note: str
    created_at: int
    rests_on: str | None
    envelope_id: str | None
    signed: bool


class ShownAcknowledgement(Struct, frozen=True, kw_only=True):
    """The worker has seen the settlement."""

    id: str
    seed_id: str
    worker: str
    created_at: int
    rests_on: str | None
    envelope_id: str | None
    signed: bool


class LocalRun(Struct, frozen=True, kw_only=True):
    """The run of a task on this node. Other nodes do not see it."""

    stage: str
    """``queued``, ``starting``, ``running`` or ``ending``."""
    position: int | None
    """In the queue, from 1."""
    since_ms: int
    """Age of the stage."""


class Totals(Struct, frozen=True, kw_only=True):
    """How many there are in all."""

    bids: int


class Story(Struct, frozen=True, kw_only=True):
    """A task with all statements about it that count, and a page of its bids in the order in which they count."""

    seed: ShownSeed
    claims: tuple[ShownClaim, ...]
    runs: tuple[ShownRun, ...]
    results: tuple[ShownResult, ...]
    settlements: tuple[ShownSettlement, ...]
    acknowledgements: tuple[ShownAcknowledgement, ...]
    bids: tuple[ShownBid, ...]
    totals: Totals
    next: str | None
    """The value of ``after`` for the next page of bids."""
    local_run: LocalRun | None


class Announced(Struct, frozen=True, kw_only=True):
    """Where this node has sent an envelope of its own. It does not say whether the envelope arrived."""

    peers: int
    """Target addresses from which the node has heard lately."""
    unheard: int
    """Other target addresses."""
    broadcast: bool
    """Sent to everybody on the local network, too."""
    failed: int
    """Targets for which the envelope did not even leave this machine."""
    detail: str
    """Why they failed, or why there are no targets."""


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answers to operations that sign an envelope have in common."""

    announced: Announced | UnsetType | None = UNSET
    """Null if the envelope still waited after two seconds. Left out if it was not to be announced."""
