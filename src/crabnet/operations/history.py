"""The operations that show what was decided: the audit trail of a task, and bids."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.operations.model import Alone, Kind, Operation, Request, Route, Scope
from crabnet.operations.objects import Bid


class Decision(Struct, frozen=True, kw_only=True):
    """One journalled decision."""

    lsn: int
    """The journal frame."""
    at_s: int
    """When this node decided, in seconds since 1970."""
    at: str
    """The same as ISO 8601 in UTC."""
    kind: str
    """The kind of fact, or ``refold``: the end of a feed has changed the task."""
    author: str
    """Empty for a consequence of the end of a feed."""
    seed_id: str | None
    object_id: str | None
    envelope_id: str | None
    seq: int | None
    """The place of the envelope in the feed of its author. Null without an envelope, and for those of old programs."""
    ts: int
    """The time by the author's clock, in seconds since 1970."""
    via: str | None
    """``live``, ``sync``, ``local`` or ``import``: how it came."""
    signed: bool
    decision: str
    """``accepted``, ``ignored`` or ``rejected``."""
    reason: str | None
    status: str | None
    """The status of the task after it."""


class TrailRequest(Request, frozen=True, kw_only=True):
    """A task, and which part of its trail."""

    seed_id: str
    after_lsn: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)] = 0
    """The ``next_lsn`` of the page before."""
    limit: Annotated[int, Meta(ge=1, le=limits.TRAIL_PAGE_MAX)] = 100


class Trail(Struct, frozen=True, kw_only=True):
    """A page of the journal's decisions about a task, oldest first."""

    decisions: list[Decision]
    """At least ``limit`` on most pages. A page may be short, or empty, because a page reads a bounded part of the
    journal."""
    next_lsn: int | None
    """The value of ``after_lsn`` for the next page. Null: this was the last page."""


class BidsRequest(Request, frozen=True, kw_only=True):
    """Which bids: those that fit all given fields."""

    own: bool | None = None
    """True: only bids of this node. False: only those of others."""
    seed_id: str | None = None
    worker: str | None = None
    """The node id of the worker."""
    status: SeedStatus | None = None
    """The status of the task."""
    chosen: bool | None = None
    """True: only bids that were claimed. False: only others."""
    limit: Annotated[int, Meta(ge=1, le=limits.SEED_LIST_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class ListedBid(Bid, frozen=True, kw_only=True):
    """A bid that counts, with its task."""

    own: bool
    chosen: bool
    """It was claimed, in this or an earlier attempt."""
    title: str
    """The title of the task."""
    publisher: str
    status: SeedStatus
    """The status of the task."""


class BidPage(Struct, frozen=True, kw_only=True):
    """A page of bids: those on the newest task first, and on one task in the order in which they count."""

    bids: list[ListedBid]
    """A page may be short, or empty, because it looks at a bounded number of bids."""
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""


TRAIL: Final = Operation(
    name="seed.trail",
    route=Route("GET", "/seeds/{seed_id}/trail"),
    request=TrailRequest,
    response=Trail,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the journal's decisions about a task: who stated what, when, and what this node made of it.",
    description=(
        "Also what was ignored or rejected, if it was journalled. All decisions of one journal frame are on one page."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.DATA_DIR_DAMAGED}),
)
BIDS: Final = Operation(
    name="bid.list",
    route=Route("GET", "/bids"),
    request=BidsRequest,
    response=BidPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List bids, with the tasks that they are for.",
    description="Only bids that count, on tasks in memory and archived ones.",
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.UNKNOWN_BID}),
)
