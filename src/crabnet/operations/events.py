"""The operations on events."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason
from crabnet.monitor.events import Event
from crabnet.monitor.registry import EventKind, Severity
from crabnet.operations.model import Alone, Kind, Operation, Request, Resume, Route, Scope

Few = Meta(max_length=limits.EVENTS_QUERY_WORDS_MAX)
EventId = Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)]
Moment = Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX // 1000)]


class Order(StrEnum):
    """The order of a page of events."""

    NEWEST = "newest"
    OLDEST = "oldest"


class Wanted(Request, frozen=True, kw_only=True):
    """Which events: those that fit all given fields. A field with several values fits any of them."""

    kind: Annotated[tuple[EventKind, ...], Few] = ()
    source: Annotated[tuple[Annotated[str, Meta(max_length=limits.EVENT_STRING_CHARS_MAX)], ...], Few] = ()
    """The part of the node that reports it."""
    severity: Annotated[tuple[Severity, ...], Few] = ()
    reason: Annotated[tuple[Reason, ...], Few] = ()
    seed: Annotated[str, Meta(max_length=limits.EVENT_STRING_CHARS_MAX)] | None = None
    """The id of a task."""
    author: Annotated[str, Meta(max_length=limits.EVENT_STRING_CHARS_MAX)] | None = None
    """The id of a node that the event is about."""
    since: Moment | None = None
    """Seconds since 1970, inclusive."""
    until: Moment | None = None
    """Seconds since 1970, exclusive."""


class EventsRequest(Wanted, frozen=True, kw_only=True):
    """A page of events."""

    after: EventId | None = None
    """Only events with a higher id."""
    before: EventId | None = None
    """Only events with a lower id."""
    limit: Annotated[int, Meta(ge=1, le=limits.EVENTS_PAGE_MAX)] = limits.EVENTS_PAGE_DEFAULT
    order: Order | None = None
    """Null: oldest first if ``after`` is given, else newest first."""


class EventList(Struct, frozen=True, kw_only=True):
    """A page of events, in the order asked for."""

    events: list[Event]
    next: int
    """The value of ``before`` (newest first) or ``after`` (oldest first) for the next page."""
    complete: bool
    """All events that fit are in this page and those before. Otherwise the next page may have more, even if this one is
    short: the work for one page is bounded."""
    order: Order
    first_id: int
    """The oldest event that exists. 0: none."""
    last_id: int
    """The newest event that exists. 0: none."""


class FollowRequest(Wanted, frozen=True, kw_only=True):
    """Events to follow."""

    after: EventId | None = None
    """Only events with a higher id. Null: only those to come."""


class Gap(Struct, frozen=True, kw_only=True):
    """Events that were asked for and do not exist any more."""

    first_id: int
    last_id: int


class Followed(Struct, frozen=True, kw_only=True):
    """An event, or a gap before the next one. Neither is set in the first item of a stream without ``after``:
    its ``id`` is the place at which the stream begins.
    """

    id: int
    """The value of ``after`` to continue behind this item."""
    event: Event | None = None
    gap: Gap | None = None


LIST: Final = Operation(
    name="events.list",
    route=Route("GET", "/events"),
    request=EventsRequest,
    response=EventList,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="A page of events.",
    description=(
        "Only events that are written are shown. A page costs the same however many events there are. `seed`, `author`"
        " and the other fields compare the payload as EVENTS.md says."
    ),
)
FOLLOW: Final = Operation(
    name="events.follow",
    route=Route("GET", "/events/stream"),
    request=FollowRequest,
    response=Followed,
    scope=Scope.READ,
    kind=Kind.STREAMS,
    alone=Alone.FAILS,
    waits=True,
    resume=Resume("after", "id"),
    summary="Events as they are written, by increasing id.",
    description=(
        "Each event that fits comes exactly once. After an interruption, also by a restart of the node, a caller"
        " continues with the `id` of its last item. If events that it asked for were deleted meanwhile, a `gap`"
        " says so first."
    ),
)
