"""Performs the operations on events."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio
from msgspec import structs

from crabnet.errors import Reason, StorageFailedError
from crabnet.limits import EVENTS_PAGE_MAX, INTEGER_MAX
from crabnet.monitor.query import EventPage, EventQuery, page_of_recent
from crabnet.monitor.reader import EventReader, Index
from crabnet.node.node import Node
from crabnet.node.operations.performing import Send, reads, streams
from crabnet.operations import events
from crabnet.operations.events import Order

_MS: Final = 1000


@reads(events.LIST)
async def list_(node: Node, given: events.EventsRequest) -> events.EventList:
    """A page of events."""
    directory = node.settings.monitor_events.parent
    return await trio.to_thread.run_sync(page_of, directory, given, node.reporting.index)


def page_of(directory: Path, given: events.EventsRequest, index: Index | None = None) -> events.EventList:
    """A page of the events in a directory. Blocks. Raises StorageFailedError if they cannot be read."""
    order = given.order or (Order.NEWEST if given.after is None else Order.OLDEST)
    query = structs.replace(
        query_of(given),
        after=given.after or 0,
        before=INTEGER_MAX if given.before is None else given.before,
        limit=given.limit,
        newest_first=order is Order.NEWEST,
    )
    page = _read(directory, query, index)
    return events.EventList(
        events=page.events,
        next=page.next,
        complete=page.complete,
        order=order,
        first_id=page.first_id,
        last_id=page.last_id,
    )


def query_of(wanted: events.Wanted) -> EventQuery:
    """The conditions of a request, for any range of ids."""
    return EventQuery(
        kinds=frozenset(kind.value for kind in wanted.kind),
        sources=frozenset(wanted.source),
        severities=frozenset(severity.value for severity in wanted.severity),
        reasons=frozenset(reason.value for reason in wanted.reason),
        seed_id=wanted.seed,
        author=wanted.author,
        since_ms=None if wanted.since is None else wanted.since * _MS,
        until_ms=None if wanted.until is None else wanted.until * _MS,
    )


@streams(events.FOLLOW)
async def follow(node: Node, given: events.FollowRequest, send: Send) -> None:
    """Events as they are written. The reader asks for them, so a slow one costs no memory."""
    directory, index = node.settings.monitor_events.parent, node.reporting.index
    query = structs.replace(query_of(given), newest_first=False, limit=EVENTS_PAGE_MAX)
    after = given.after
    while True:
        written = node.reporting.next_written()
        asked = structs.replace(query, after=INTEGER_MAX if after is None else after)
        page = page_of_recent(node.reporting.recent(), asked)
        if page is None:
            page = await trio.to_thread.run_sync(_read, directory, asked, index)
        if after is None:
            after = page.last_id
            await send(events.Followed(id=after))
            continue
        lost = page.lost_after(after)
        if lost is not None:
            after = lost.place
            await send(events.Followed(id=after, gap=events.Gap(first_id=lost.first_id, last_id=lost.last_id)))
            continue
        if page.events:
            await send(*[events.Followed(id=event.id, event=event) for event in page.events])
        after = max(after, page.next)
        if page.complete:
            await written.wait()


def _read(directory: Path, query: EventQuery, index: Index | None) -> EventPage:
    try:
        with EventReader(directory, index=index) as reader:
            return reader.page(query)
    except OSError as error:
        raise StorageFailedError(
            f"the events in {directory} cannot be read: {error.strerror}", Reason.STORAGE_FAILED
        ) from None
