"""The operations on purchases: tasks of this node that it goes on with by itself (ADR 44)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.market.policies import Accepting, AwardRule
from crabnet.operations.model import Alone, Kind, Operation, Request, Resume, Route, Scope, Writing
from crabnet.operations.objects import Result

Amount = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": limits.INTEGER_MAX})]


class PurchaseTerms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the node does by itself with a task of its own."""

    award: AwardRule | None = AwardRule.CHEAPEST
    """How to choose among the bids that fit. Null: you claim."""
    bid_wait_ms: Annotated[int, Meta(ge=0, le=limits.TIMEOUT_MS_MAX)] = limits.BID_WAIT_MS_DEFAULT
    """How long to collect bids before one is chosen. `first` does not wait."""
    price_max: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)] | None = None
    """Bids above it do not fit."""
    worker: Annotated[str, Meta(min_length=1, max_length=limits.NODE_ID_CHARS_MAX)] | None = None
    """Only bids of this node fit."""
    tries_max: Annotated[int, Meta(ge=1, le=limits.PURCHASE_ATTEMPTS_MAX)] = 3
    """Most tries in all: after a forfeit or a rejected result another worker is tried."""
    accept: Accepting = Accepting.AUTO
    """`auto`: settle by the conditions of the task, and accept a result if it has none. `check`: settle by conditions
    only. `never`: you settle."""


class Stage(StrEnum):
    """How far a purchase is."""

    PUBLISHED = "published"
    """No bid has come."""
    BIDS = "bids"
    """Bids have come, and none is claimed."""
    AWARDED = "awarded"
    """A bid is claimed, and its worker has not begun."""
    RUNNING = "running"
    JUDGING = "judging"
    """The result has come, and the node judges it."""
    ASKS = "asks"
    """The result has come, and you have to settle it."""
    SETTLED = "settled"
    """The result is accepted. The purchase is over."""
    FAILED = "failed"
    """The purchase is over without an accepted result; `reason` and `status` say why."""


class Purchase(Struct, frozen=True, kw_only=True):
    """A purchase. It may take several tasks, one after the other: each has the same content."""

    seed_id: str
    """The present task of it."""
    stage: Stage
    status: SeedStatus
    title: str
    terms: PurchaseTerms | None
    """Null if the node does nothing more by itself, or only by its settings."""
    tries: int
    """Claims so far."""
    bids: int
    worker: str | None
    price: int | None
    """Of the claimed bid."""
    since_ts: int
    """When the stage began, in seconds since 1970."""
    until_ms: int | None
    """When the stage ends at the latest, in milliseconds since 1970. Null if nothing ends it but you."""
    reason: str | None
    """Why it has failed, or what it waits for; a name of docs/PROBLEMS.md."""
    detail: str
    """The same for people."""


class PurchaseProgress(Purchase, frozen=True, kw_only=True):
    """A purchase after a change."""

    heard_by: int
    """Peers to which the task was sent."""
    result: Result | None
    """The result of the present task, once there is one to look at: in `asks`, `settled` and `failed`."""
    mark: str
    """Differs whenever anything else differs."""


class PurchaseWatchRequest(Request, frozen=True, kw_only=True):
    """A task of this node to watch, or one that it has followed with another since."""

    seed_id: str
    seen: str = ""
    """The mark of the caller's last view. If nothing has changed since, the first item is the next change."""


class ChangeRequest(Writing, frozen=True, kw_only=True):
    """A task of this node, and its new terms."""

    seed_id: str
    terms: PurchaseTerms | None
    """Null: the node does nothing more with the task by itself."""


class PurchaseListRequest(Request, frozen=True, kw_only=True):
    """Which page."""

    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class PurchasePage(Struct, frozen=True, kw_only=True):
    """A page of purchases, oldest first."""

    purchases: list[Purchase]
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""


WATCH: Final = Operation(
    name="purchase.watch",
    route=Route("GET", "/purchases/{seed_id}/watch"),
    request=PurchaseWatchRequest,
    response=PurchaseProgress,
    scope=Scope.READ,
    kind=Kind.STREAMS,
    alone=Alone.FAILS,
    waits=True,
    resume=Resume("seen", "mark"),
    summary="Show a purchase now and after each change, until it is over.",
    description=(
        "The stream follows the purchase from a task to the one that takes it up again. It ends after the item with the"
        " stage `settled` or `failed`."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.UNAUTHORISED}),
)
CHANGE: Final = Operation(
    name="purchase.change",
    route=Route("POST", "/purchases/{seed_id}/terms"),
    request=ChangeRequest,
    response=Purchase,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Replace the terms of a task of this node.",
    description="Any own task that is not over may get terms. Without terms, you claim and settle it yourself.",
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.UNAUTHORISED, Reason.WRONG_STATE, Reason.REQUEST_CONFLICT}),
)
LIST: Final = Operation(
    name="purchase.list",
    route=Route("GET", "/purchases"),
    request=PurchaseListRequest,
    response=PurchasePage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List the open purchases of this node, oldest first.",
    description="A purchase is a task with terms. It leaves the list when it is over.",
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
