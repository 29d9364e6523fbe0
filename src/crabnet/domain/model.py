"""The objects of the protocol: seeds, bids, claims, runs, results, settlements, acknowledgements.

``Seed``, ``Bid``, ``Claim`` and ``TaskResult`` have the field names and types of the baseline's wire format. Optional
fields of this program follow them. Times named ``*_at`` and ``*_ts`` are whole seconds since the epoch. ``*_ms`` are
milliseconds.
"""

from __future__ import annotations

from base64 import b64decode
from enum import StrEnum
from sys import intern
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from crabnet import limits
from crabnet.domain.acceptance import Acceptance

Id = Annotated[str, Meta(min_length=1, max_length=limits.NODE_ID_CHARS_MAX)]
NodeId = Annotated[str, Meta(min_length=1, max_length=limits.NODE_ID_CHARS_MAX)]
EnvelopeId = Annotated[str, Meta(max_length=64, extra_json_schema={"pattern": r"^(?:[0-9a-f]{64})?\Z"})]
"""The id of the envelope that a step rests on. "" for a step that is unsigned and has no place in a feed.

``is_envelope_id`` checks the ids that strangers send. A pattern here would cost as much as all other fields together.
"""
Natural = Annotated[int, Meta(ge=0)]
Word = Annotated[str, Meta(max_length=limits.RUN_WORD_CHARS_MAX)]


class SeedStatus(StrEnum):
    """The status of a seed. The values are those of the baseline."""

    __hash__ = str.__hash__  # that of enum.Enum is a function call in Python, and these are keys of hot tables

    OPEN = "Open"
    EXPIRED = "Expired"
    CLAIMED = "Claimed"
    RUNNING = "Running"
    DONE = "Done"
    ACCEPTED = "Accepted"
    REJECTED = "Rejected"
    FORFEITED = "Forfeited"
    DISPUTED = "Disputed"


RANK: Final[dict[SeedStatus, int]] = {
    SeedStatus.OPEN: 0,
    SeedStatus.EXPIRED: 1,
    SeedStatus.CLAIMED: 2,
    SeedStatus.RUNNING: 3,
    SeedStatus.DONE: 4,
    SeedStatus.ACCEPTED: 5,
    SeedStatus.REJECTED: 5,
    SeedStatus.FORFEITED: 5,
    SeedStatus.DISPUTED: 6,
}
"""Order of progress within one attempt."""

FINAL: Final = frozenset({SeedStatus.EXPIRED, SeedStatus.ACCEPTED, SeedStatus.REJECTED, SeedStatus.DISPUTED})
"""The statuses that a seed does not leave again. Forfeited is none of them: it ends an attempt, not the seed."""


class Seed(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The definition of a task. Its creator cannot change it."""

    id: Id
    title: Annotated[str, Meta(max_length=limits.TITLE_CHARS_MAX)]
    description: Annotated[str, Meta(max_length=limits.DESCRIPTION_CHARS_MAX)] = ""
    command: Annotated[str, Meta(min_length=1, max_length=limits.COMMAND_CHARS_MAX)]
    timeout_ms: Natural
    bid_deadline_ts: Natural
    exec_deadline_ms: Natural
    min_price: Natural = 0
    max_bids: Natural = 0
    reward: Natural = 0
    rules: Annotated[str, Meta(max_length=limits.RULES_CHARS_MAX)] = ""
    created_by: NodeId
    created_at: Natural
    claim_deadline_ts: Natural | None = None
    acceptance: Acceptance | None = None
    settle_window_s: Natural | None = None
    """How long after the result its creator may take to settle."""
    follows: Id | None = None
    """The seed that this one takes up again, after its result was rejected."""

    @property
    def seed_id(self) -> str:
        """The id of the seed. All bodies have this field."""
        return self.id

    @property
    def rests_on(self) -> str | None:
        """A definition rests on nothing."""
        return None

    @property
    def claim_deadline_s(self) -> int:
        """Last second at which a claim may be made."""
        if self.claim_deadline_ts is not None:
            return self.claim_deadline_ts
        return self.bid_deadline_ts + limits.CLAIM_WINDOW_S_DEFAULT

    @property
    def settle_within_s(self) -> int:
        """How long after the result its creator may take to settle, in seconds."""
        return limits.SETTLE_WINDOW_S_DEFAULT if self.settle_window_s is None else self.settle_window_s


class Bid(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An offer of a worker to run a seed for a price."""

    id: Id
    seed_id: Id
    bidder: NodeId
    price: Natural
    notes: Annotated[str, Meta(max_length=limits.NOTES_CHARS_MAX)] = ""
    created_at: Natural
    rests_on: EnvelopeId | None = None


class Claim(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The creator's choice of a bid. ``attempt`` counts from 1 and grows after a forfeit."""

    id: Id
    seed_id: Id
    bid_id: Id
    worker: NodeId
    created_at: Natural
    attempt: Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    rests_on: EnvelopeId | None = None


class Run(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The worker says that it has begun to run the command of a claim, or that it still runs it (``renews``).

    ``lease_ms`` is how long the run may be silent from then on until the creator's node reports it.
    """

    id: Id
    seed_id: Id
    claim_id: Id
    worker: NodeId
    created_at: Natural
    renews: Id | None = None
    lease_ms: Natural | None = None
    rests_on: EnvelopeId | None = None


class TerminationCause(StrEnum):
    """The causes for the end of a run that this version knows. Newer peers may send others."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"
    SPAWN_FAILED = "spawn_failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    MEMORY = "memory"
    CPU = "cpu"
    FILE_SIZE = "file_size"
    DISK = "disk"
    PROCESSES = "processes"
    LOST = "lost"


_NEVER_BEGAN: Final = frozenset({TerminationCause.REFUSED.value, TerminationCause.SPAWN_FAILED.value})


class Termination(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """How a run ended: the cause, the last signal sent or received, and the time and memory that the run used.

    ``cause`` is mostly a ``TerminationCause``. ``memory_bytes`` is the peak. ``limits_hit`` names the limits that the
    run reached.
    """

    cause: Annotated[str, Meta(min_length=1, max_length=limits.RUN_WORD_CHARS_MAX)]
    signal: Annotated[str, Meta(max_length=32)] | None = None
    escalated: bool = False
    wall_ms: Natural = 0
    cpu_ms: Natural = 0
    grace_ms: Natural = 0
    memory_bytes: Natural = 0
    limits_hit: Annotated[tuple[Word, ...], Meta(max_length=limits.RUNNER_LIMITS_HIT_MAX)] = ()


class Failure(StrEnum):
    """Whose failure ended a run. A result without one is a success, or its author's version is too old to say it."""

    TASK = "task"
    """The command failed, was too slow, or reached a limit that its publisher had agreed to."""
    WORKER = "worker"
    """The worker could not run the command to its end. Another worker may be able to."""


class OutputFile(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A regular file that a run left in its work dir. ``name`` is relative; ``sha256`` is in hexadecimal."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.RUNNER_FILE_NAME_BYTES_MAX)]
    size: Natural
    sha256: Annotated[str, Meta(max_length=64)]


Base64 = Annotated[str, Meta(max_length=limits.OUTPUT_BASE64_CHARS_MAX, pattern=r"^[A-Za-z0-9+/]*={0,2}\Z")]


class TaskResult(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The result of a run. ``output_hash`` is the hex SHA-256 of the whole raw stdout followed by the whole raw stderr.

    Output that is not UTF-8 is in ``stdout_base64`` and ``stderr_base64``, and the texts are empty. ``failed`` is
    mostly a ``Failure``. Newer peers may send others.
    """

    id: Id
    seed_id: Annotated[str, Meta(max_length=limits.NODE_ID_CHARS_MAX)]
    worker: Annotated[str, Meta(max_length=limits.NODE_ID_CHARS_MAX)]
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
    timed_out: bool
    stdout: Annotated[str, Meta(max_length=limits.OUTPUT_CHARS_MAX)] = ""
    stderr: Annotated[str, Meta(max_length=limits.OUTPUT_CHARS_MAX)] = ""
    output_hash: Annotated[str, Meta(max_length=128)]
    duration_ms: Natural
    claim_id: Id | None = None
    created_at: Natural | None = None
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_base64: Base64 = ""
    stderr_base64: Base64 = ""
    termination: Termination | None = None
    refusal: Annotated[str, Meta(max_length=64)] | None = None
    sandbox: Word | None = None
    profile: Word | None = None
    files: Annotated[tuple[OutputFile, ...], Meta(max_length=limits.RUNNER_FILES_MAX)] = ()
    files_omitted: Natural = 0
    failed: Annotated[str, Meta(min_length=1, max_length=limits.RUN_WORD_CHARS_MAX)] | None = None
    rests_on: EnvelopeId | None = None

    @property
    def worker_failed(self) -> bool:
        """True if the worker says that it failed, not the task. Then the attempt is forfeited, not settled."""
        return self.failed == Failure.WORKER

    @property
    def whose_failure(self) -> str | None:
        """``failed``, or ``task`` for a failed run whose author's version is too old to say it. None for a success."""
        return self.failed or (Failure.TASK.value if self.exit_code != 0 or self.timed_out else None)

    @property
    def began(self) -> bool:
        """False if the result says that the command was never started."""
        return self.termination is None or self.termination.cause not in _NEVER_BEGAN

    @property
    def raw_stdout(self) -> bytes:
        """The kept part of stdout, as bytes."""
        return _raw(self.stdout, self.stdout_base64)

    @property
    def raw_stderr(self) -> bytes:
        """The kept part of stderr, as bytes."""
        return _raw(self.stderr, self.stderr_base64)


def _raw(text: str, base64: str) -> bytes:
    try:
        return b64decode(base64, validate=True) if base64 else text.encode()
    except ValueError:
        return b""  # the worker sent something that is not base64


class Settlement(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The creator's decision that ends a seed, or one attempt at it."""

    id: Id
    seed_id: Id
    outcome: SeedStatus
    claim_id: Id | None = None
    result_id: Id | None = None
    attempt: Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    note: Annotated[str, Meta(max_length=limits.RULES_CHARS_MAX)] = ""
    created_at: Natural
    rests_on: EnvelopeId | None = None


class Acknowledgement(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The worker says that it has seen a settlement. From then on the creator cannot take the settlement back."""

    id: Id
    seed_id: Id
    worker: NodeId
    created_at: Natural
    rests_on: EnvelopeId | None = None


Body = Seed | Bid | Claim | Run | TaskResult | Settlement | Acknowledgement


class FactKind(StrEnum):
    """The kind of a fact. A settlement is one of three kinds, because their rules differ."""

    __hash__ = str.__hash__  # that of enum.Enum is a function call in Python, and these are keys of hot tables

    SEED = "seed"
    BID = "bid"
    CLAIM = "claim"
    STARTED = "started"
    RESULT = "result"
    SETTLE = "settle"
    FORFEIT = "forfeit"
    CLOSE = "close"
    ACKNOWLEDGED = "acknowledged"


class Fact(Struct, frozen=True, gc=False, kw_only=True):
    """One statement of one author about one seed.

    ``seq`` is the place in the author's feed. It orders the author's facts. ``signed`` is False for baseline envelopes.
    Their ``seq`` is the order of their arrival here. ``envelope`` is the id of the envelope, or "" if there is none.
    """

    kind: FactKind
    author: NodeId
    seq: int
    ts: int
    body: Body
    signed: bool = True
    envelope: str = ""

    @property
    def key(self) -> str:
        """The object's id, unique within a seed."""
        return self.body.id

    @property
    def ref(self) -> str:
        """The name of the fact within a seed: the id of its envelope, or of its object if it has no envelope."""
        return self.envelope or self.body.id

    @property
    def seed_id(self) -> str:
        """The seed that the fact is about."""
        return self.body.seed_id

    @property
    def rests_on(self) -> str:
        """The id of the envelope that it rests on. "" if that one is unsigned or there is none."""
        return self.body.rests_on or ""


class Progress(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The outcome of all effective facts of a seed."""

    status: SeedStatus = SeedStatus.OPEN
    attempt: int = 1
    claim_id: str | None = None
    claimed_by: str | None = None
    claimed_at: int | None = None
    run_id: str | None = None
    result_id: str | None = None
    settled_at: int | None = None
    note: str = ""
    renewals: int = 0
    renewed_at: int | None = None

    @property
    def version(self) -> int:
        """``attempt`` and rank in one number. It only grows as long as no fork is found."""
        return self.attempt * 10 + RANK[self.status]


_SHARED: Final[dict[type, tuple[str, ...]]] = {  # only ids that several objects name: to intern a new one is costly
    Seed: ("id", "created_by"),
    Bid: ("seed_id", "bidder", "rests_on"),
    Claim: ("id", "seed_id", "worker", "rests_on"),
    Run: ("seed_id", "claim_id", "worker", "rests_on"),
    TaskResult: ("seed_id", "claim_id", "worker", "rests_on"),
    Settlement: ("seed_id", "claim_id", "rests_on"),
    Acknowledgement: ("seed_id", "worker", "rests_on"),
    Progress: ("claim_id", "claimed_by"),
}


def is_envelope_id(text: str) -> bool:
    """True for the 64 lower-case hex digits of an envelope's id."""
    try:
        return len(text) == 64 and bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def share_ids(named: Body | Progress) -> None:
    """Let all objects that name the same id hold the same string, because a decoder makes a new string each time.

    This halves the memory that a seed needs. ``share_with`` does it for facts from the network.
    """
    for name in _SHARED[type(named)]:
        value = getattr(named, name)
        if value is not None:
            force_setattr(named, name, intern(value))


def share_with(fact: Fact, parent: Fact | None) -> None:
    """Let a fact hold the strings of the fact that it rests on, which has most of them.

    Looking up each string in the table of all strings would cost several times as much.
    """
    body = fact.body
    if isinstance(body, Seed):
        force_setattr(body, "created_by", fact.author)
        return
    if parent is None:
        return
    known = parent.body
    force_setattr(body, "seed_id", parent.seed_id)
    force_setattr(body, "rests_on", parent.envelope)
    if isinstance(body, Bid):
        force_setattr(body, "bidder", fact.author)
    elif not isinstance(body, Settlement):
        worker = parent.author if isinstance(body, Claim) else fact.author
        if body.worker == worker:
            force_setattr(body, "worker", worker)
    if isinstance(body, Run | TaskResult | Settlement):
        claim_id = known.id if isinstance(known, Claim) else getattr(known, "claim_id", None)
        if body.claim_id == claim_id:
            force_setattr(body, "claim_id", claim_id)
