"""The operations of a worker: what it does by its policy, and what it would do (ADR 44)."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason
from crabnet.operations.model import Alone, Empty, Kind, Operation, Request, Route, Scope


class WorkTerms(Struct, frozen=True, kw_only=True):
    """The policy of a worker: its settings. 0 and empty mean no condition."""

    price: int
    price_per_s: float
    price_per_mib: float
    min_price: int
    schedule: str
    only: list[str]
    never: list[str]
    min_settled: float
    max_unsettled: int
    max_load: float
    min_battery: int
    max_timeout_ms: int
    allow: list[str]
    """The commands that it runs."""
    max_running: int


class Declining(Struct, frozen=True, kw_only=True):
    """A reason for which a worker does not bid."""

    reason: str
    count: int
    """Open tasks."""


class Debtor(Struct, frozen=True, kw_only=True):
    """A publisher that has not settled results yet."""

    publisher: str
    results: int
    price: int
    """The sum of their prices."""


class WorkSession(Struct, frozen=True, kw_only=True):
    """What has happened since the node was started."""

    since_ms: int
    bids: int
    """Bids by policy."""
    results: int
    accepted: int
    rejected: int
    forfeited: int
    """Tasks that were taken away from this worker, because it was late or had failed."""
    earned: int
    """The sum of the prices of accepted results."""


class WorkStatus(Struct, frozen=True, kw_only=True):
    """What a worker does."""

    auto_bid: bool
    auto_run: bool
    reason: str | None
    """Why it bids for nothing at the moment. Null: nothing hinders it."""
    detail: str | None
    policy: WorkTerms
    running: int
    queued: int
    open_bids: int
    """Bids that may still be chosen. For a minute a bid takes one of its places."""
    claimed: int
    """Tasks that were claimed for it and are not done."""
    session: WorkSession
    owed: int
    """The sum of the prices of results that are not settled."""
    owed_results: int
    owed_by: Annotated[list[Debtor], Meta(max_length=limits.WORK_DEBTORS_SHOWN_MAX)]
    """Those who owe most."""
    declined: list[Declining]
    """Open tasks for which it has not bid, by reason, as far as it remembers them."""


class OffersRequest(Request, frozen=True, kw_only=True):
    """Which of the open tasks."""

    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class WorkOffer(Struct, frozen=True, kw_only=True):
    """An open task of another node, and what this worker would do with it now."""

    seed_id: str
    title: str
    command: str
    publisher: str
    timeout_ms: int
    reward: int
    bid_deadline_ts: int
    price: int | None
    """The price for which it bids. Null: it does not. With the reason ``price``: the least for which it would."""
    reason: str | None
    """Why it does not bid."""
    detail: str | None
    bid: bool
    """It has bid already."""


class OfferPage(Struct, frozen=True, kw_only=True):
    """A page of open tasks, newest first."""

    offers: list[WorkOffer]
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""


STATUS: Final = Operation(
    name="work.status",
    route=Route("GET", "/work"),
    request=Empty,
    response=WorkStatus,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Show what this node does as a worker, and what it has earned.",
    description="`session` counts from the start of the node. `account.show` counts everything.",
)
OFFERS: Final = Operation(
    name="work.offers",
    route=Route("GET", "/offers"),
    request=OffersRequest,
    response=OfferPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List open tasks of others with the price for which this worker would bid, or why it would not.",
    description=(
        "The policy is that of the node's settings, whether it bids by itself or not. Without a running node, this"
        " worker counts as idle, and its sandbox as working."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
