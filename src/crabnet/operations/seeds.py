"""The operations on tasks."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.operations.model import SIGNING, Alone, Empty, Kind, Operation, Request, Resume, Route, Scope, Writing
from crabnet.operations.objects import Answer, Bid, Claim, ListedSeed, LocalRun, Result, Seed, Story
from crabnet.operations.purchases import PurchaseTerms

_LIFECYCLE: Final = frozenset(
    {
        Reason.UNKNOWN_SEED,
        Reason.UNAUTHORISED,
        Reason.WRONG_STATE,
        Reason.WRONG_PARENT,
        Reason.DEADLINE_PASSED,
        Reason.EQUIVOCATOR,
    }
)
_RUNNER: Final = frozenset(
    {
        Reason.COMMAND_NOT_ALLOWED,
        Reason.COMMAND_TOO_LONG,
        Reason.SHELL_OPERATOR,
        Reason.WORKDIR_OUTSIDE_ROOT,
        Reason.WORKDIR_MISSING,
        Reason.SANDBOX_UNAVAILABLE,
        Reason.PROFILE_NOT_ALLOWED,
    }
)


# What these say is checked, with better messages, where the objects are made. Here it is for schemas.
Milliseconds = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": limits.TIMEOUT_MS_MAX})]
Amount = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": limits.INTEGER_MAX})]
Title = Annotated[str, Meta(extra_json_schema={"maxLength": limits.TITLE_CHARS_MAX})]
Description = Annotated[str, Meta(extra_json_schema={"maxLength": limits.DESCRIPTION_CHARS_MAX})]
Command = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": limits.COMMAND_CHARS_MAX})]
Rules = Annotated[str, Meta(extra_json_schema={"maxLength": limits.RULES_CHARS_MAX})]
Notes = Annotated[str, Meta(extra_json_schema={"maxLength": limits.NOTES_CHARS_MAX})]


class PublishRequest(Writing, frozen=True, kw_only=True):
    """A task to offer. Windows begin now, are 1 ms to 7 days long, and are rounded up to whole seconds."""

    title: Title
    command: Command
    description: Description = ""
    timeout_ms: Milliseconds = 120_000
    """How long the command may run."""
    bid_window_ms: Milliseconds = 60_000
    claim_window_ms: Milliseconds | None = None
    """How long after the bid window a bid may be claimed. Null: one hour."""
    exec_deadline_ms: Milliseconds | None = None
    """From the claim to the result. Null: the timeout and 10 minutes."""
    min_price: Amount = 0
    max_bids: Amount = 0
    """Most bids that count. 0: no limit."""
    reward: Amount = 0
    rules: Rules = ""
    acceptance: Acceptance | None = None
    """Conditions by which everybody can judge the result. All that are given must hold."""
    settle_window_ms: Milliseconds | None = None
    """How long after the result this node may take to settle before it is shown as overdue. Null: one day."""
    terms: PurchaseTerms | None = None
    """How the node goes on with it by itself. Null: you claim and settle it, unless the settings say otherwise."""
    announce: bool = True
    """Send the envelope at once. Otherwise sync transfers it."""


class Published(Answer, frozen=True, kw_only=True):
    """The new task."""

    seed: Seed
    warnings: list[str]


class BidRequest(Writing, frozen=True, kw_only=True):
    """An offer to run a task."""

    seed_id: str
    price: Amount
    notes: Notes = ""
    announce: bool = True
    """Send the envelope at once. Otherwise sync transfers it."""
    force: bool = False
    """Bid even if this node would refuse to run the task."""


class BidMade(Answer, frozen=True, kw_only=True):
    """The new bid."""

    bid: Bid
    warnings: list[str]


class ClaimRequest(Writing, frozen=True, kw_only=True):
    """The choice of a bid."""

    seed_id: str
    bid_id: str
    announce: bool = True
    """Send the envelope at once. Otherwise sync transfers it."""


class Claimed(Answer, frozen=True, kw_only=True):
    """The new claim."""

    claim: Claim


class RunRequest(Writing, frozen=True, kw_only=True):
    """A claimed task to run here."""

    seed_id: str
    announce: bool = True
    """Send the envelopes at once. Otherwise sync transfers them."""


class RunEnded(Answer, frozen=True, kw_only=True):
    """The result of the run."""

    result: Result


class CancelRequest(Writing, frozen=True, kw_only=True):
    """A task to withdraw, or a run to end."""

    seed_id: str
    note: Rules = ""
    """The reason, for the worker of a withdrawn task."""
    announce: bool = True
    """Send the envelope at once. Otherwise sync transfers it."""


class Cancelled(Answer, frozen=True, kw_only=True):
    """What was ended."""

    cancelled: str
    """``seed``: a task of this node is withdrawn. ``run``: a run was ended. ``queued``: a run that had not begun."""
    seed: Seed


Outcome = Annotated[SeedStatus, Meta(extra_json_schema={"enum": ["Accepted", "Rejected", "Forfeited", "Expired"]})]


class SettleRequest(Writing, frozen=True, kw_only=True):
    """The creator's decision."""

    seed_id: str
    outcome: Outcome
    """``Accepted``, ``Rejected``, ``Forfeited``, or ``Expired`` to withdraw the task."""
    note: Rules = ""
    announce: bool = True
    """Send the envelope at once. Otherwise sync transfers it."""


class Settled(Answer, frozen=True, kw_only=True):
    """The task after the decision."""

    seed: Seed


class ListRequest(Request, frozen=True, kw_only=True):
    """Which tasks: those that fit all given fields."""

    status: SeedStatus | None = None
    biddable: bool | None = None
    """True: open tasks that take bids. False: open tasks that take none any more."""
    mine: bool | None = None
    """True: only tasks that this node has published. False: only those of others."""
    creator: str | None = None
    """The node id of the publisher."""
    worker: str | None = None
    """The node id of a worker: only tasks that it has won."""
    needs_me: bool | None = None
    """True: only tasks whose next step is one of this node's operator: to claim a bid, to run, to settle."""
    since: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)] | None = None
    """Only tasks published at or after this time, in seconds since 1970."""
    text: Annotated[str, Meta(min_length=1, max_length=limits.FILTER_TEXT_CHARS_MAX)] | None = None
    """Only tasks with this text in title, command or description, whatever the capitals."""
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class SeedPage(Struct, frozen=True, kw_only=True):
    """A page of tasks, newest first."""

    seeds: list[ListedSeed]
    """A page may be short, or empty, because it looks at a bounded number of archived tasks."""
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""
    node_id: str
    """This node."""
    unreadable: int = 0
    """Archived tasks that are damaged and left out."""


class FindRequest(Request, frozen=True, kw_only=True):
    """The beginning of an id."""

    kind: Annotated[str, Meta(pattern="^(seed|bid|node)$")] = "seed"
    """What it names: ``seed``, ``bid`` or ``node``."""
    text: Annotated[str, Meta(max_length=limits.NODE_ID_CHARS_MAX)] = ""
    """The beginning. ``@last`` is the task that this node has published last. An id of a node may leave out its first
    eight characters, which all have, be its end, or have ``…`` for its middle."""
    seed_id: str | None = None
    """The task of the bid. Needed for bids."""
    limit: Annotated[int, Meta(ge=1, le=limits.IDS_FOUND_MAX)] = 10


class FoundId(Struct, frozen=True, kw_only=True):
    """An id, and what it names."""

    id: str
    kind: str
    title: str
    """The title of a task, the bidder and the price of a bid. Empty for a node."""
    status: SeedStatus | None
    """Of a task."""


class IdPage(Struct, frozen=True, kw_only=True):
    """The ids that begin so: tasks newest first, others in order. An id that is the whole text comes alone."""

    found: list[FoundId]
    more: bool
    """There are more than ``limit``."""


class ShowRequest(Request, frozen=True, kw_only=True):
    """A task, and which of its bids."""

    seed_id: str
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_ROWS_MAX)] = limits.SEED_ROWS_DEFAULT
    after: str | None = None
    """The ``next`` of the page of bids before."""


class WatchRequest(Request, frozen=True, kw_only=True):
    """A task to watch."""

    seed_id: str
    seen: str = ""
    """The mark of the caller's last view. If the task has not changed since, the first item is the next change."""


class Watched(Story, frozen=True, kw_only=True):
    """A task after a change."""

    mark: str
    """Differs whenever anything but the elapsed time differs."""


class RunRow(Struct, frozen=True, kw_only=True):
    """A run on this node."""

    seed_id: str
    claim_id: str
    publisher: str
    command: str
    timeout_ms: int
    local_run: LocalRun


class RunList(Struct, frozen=True, kw_only=True):
    """The runs on this node: those that go on, then those that wait, in the order of their turns."""

    runs: list[RunRow]
    running_max: int
    queued_max: int
    paused: bool
    """No run starts until `runs.resume`."""
    draining: bool
    """The node is about to end: it makes no bid and starts no run."""


PUBLISH: Final = Operation(
    name="seed.publish",
    route=Route("POST", "/seeds"),
    request=PublishRequest,
    response=Published,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    creates=True,
    summary="Publish a task.",
    description="The node signs the task and sends it. Workers may bid until the bid window ends.",
    reasons=SIGNING | {Reason.TOO_MANY_OPEN_SEEDS, Reason.UNWORKABLE},
)
BID: Final = Operation(
    name="seed.bid",
    route=Route("POST", "/seeds/{seed_id}/bids"),
    request=BidRequest,
    response=BidMade,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Bid for a task.",
    description="The node refuses to bid for a task that it would not run itself. `force` bids all the same.",
    reasons=SIGNING | _LIFECYCLE | _RUNNER | {Reason.PRICE_TOO_LOW, Reason.TOO_MANY_BIDS, Reason.TOO_MANY_OWN_BIDS},
)
CLAIM: Final = Operation(
    name="seed.claim",
    route=Route("POST", "/seeds/{seed_id}/claims"),
    request=ClaimRequest,
    response=Claimed,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Claim a bid on a task of this node.",
    description="If the worker of the current attempt says that it failed, the node states the forfeit first.",
    reasons=SIGNING | _LIFECYCLE | {Reason.UNKNOWN_BID, Reason.TOO_MANY_OWN_STEPS},
)
RUN: Final = Operation(
    name="seed.run",
    route=Route("POST", "/seeds/{seed_id}/runs"),
    request=RunRequest,
    response=RunEnded,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    waits=True,
    summary="Run a task that was claimed for this node.",
    description=(
        "Answers when the task has ended. The run may have to wait for its turn. A task that fails or is refused by the"
        " runner has a result, too. If the run ends because its claim is over, the error is `claim_over`; if it leaves"
        " the queue, `run_cancelled`."
    ),
    reasons=SIGNING
    | _LIFECYCLE
    | {
        Reason.UNKNOWN_CLAIM,
        Reason.RUN_IN_PROGRESS,
        Reason.RUN_CANCELLED,
        Reason.CLAIM_OVER,
        Reason.QUEUE_FULL,
        Reason.TOO_MANY_OWN_STEPS,
    },
)
CANCEL: Final = Operation(
    name="seed.cancel",
    route=Route("POST", "/seeds/{seed_id}/cancel"),
    request=CancelRequest,
    response=Cancelled,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    waits=True,
    summary="Withdraw a task of this node, or end this node's run of another's task.",
    description="A run is ended with a result that says so. A task is withdrawn permanently, claimed or not.",
    reasons=SIGNING | _LIFECYCLE | {Reason.TOO_MANY_OWN_STEPS},
)
SETTLE: Final = Operation(
    name="seed.settle",
    route=Route("POST", "/seeds/{seed_id}/settlements"),
    request=SettleRequest,
    response=Settled,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Accept or reject a result, forfeit an attempt, or withdraw a task.",
    description=(
        "`Expired` withdraws a task. It is refused once a result has come, unless the result says that the worker"
        " failed. Such a result cannot be accepted or rejected; `Forfeited` needs no deadline then."
    ),
    reasons=SIGNING
    | _LIFECYCLE
    | {Reason.NOT_DUE, Reason.UNKNOWN_RESULT, Reason.UNKNOWN_CLAIM, Reason.TOO_MANY_OWN_STEPS},
)
LIST: Final = Operation(
    name="seed.list",
    route=Route("GET", "/seeds"),
    request=ListRequest,
    response=SeedPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List tasks, newest first.",
    description="A page holds tasks in memory and archived ones. `next` leads to the next page.",
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
FIND: Final = Operation(
    name="id.find",
    route=Route("GET", "/ids"),
    request=FindRequest,
    response=IdPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Find the ids that begin with a text.",
    description="Of tasks, in memory and archived, of the bids on a task, or of nodes whose feeds are known.",
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
SHOW: Final = Operation(
    name="seed.show",
    route=Route("GET", "/seeds/{seed_id}"),
    request=ShowRequest,
    response=Story,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show a task with all statements about it that count.",
    description=(
        "What does not count is left out; events report it when it comes. Bids come in pages of `limit`, in the order"
        " of `created_at` and `id`."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.UNKNOWN_BID}),
)
WATCH: Final = Operation(
    name="seed.watch",
    route=Route("GET", "/seeds/{seed_id}/watch"),
    request=WatchRequest,
    response=Watched,
    scope=Scope.READ,
    kind=Kind.STREAMS,
    alone=Alone.FAILS,
    waits=True,
    resume=Resume("seen", "mark"),
    summary="Show a task now and after each change, until it is over.",
    description="The stream ends after the item in which the task has one of the final states.",
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
RUNS: Final = Operation(
    name="run.list",
    route=Route("GET", "/runs"),
    request=Empty,
    response=RunList,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="List the runs on this node.",
    description="Those that go on come first, then those that wait, in the order of their turns.",
)
