"""Answers queries for events, page by page, beside a running writer and without locks. Skips damaged lines."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from crabnet.limits import EVENTS_PAGE_MAX, EVENTS_QUERY_BYTES_MAX, EVENTS_QUERY_STEPS_MAX, INTEGER_MAX
from crabnet.monitor.events import Event
from crabnet.monitor.index.blocks import events_of
from crabnet.monitor.index.sealed import SealedIndex
from crabnet.monitor.index.tables import StaleError, Tables
from crabnet.monitor.query import EventPage, EventQuery, Lost
from crabnet.monitor.snapshot import Portion, Snapshot
from crabnet.storage.files import Files, RealFiles

_FILES: Final = RealFiles()


class Index(Protocol):
    """An index that can be read: ``EventIndex`` or ``SealedIndex``."""

    def reading(self, snapshot: Snapshot) -> AbstractContextManager[Tables]: ...


class EventReader:
    """Answers queries about the events in a directory. Without ``index`` it uses the one that is sealed there, if any.

    The work for one page is bounded (EVENTS_QUERY_BYTES_MAX, EVENTS_QUERY_STEPS_MAX), with and without an index. An
    index that is absent, old or damaged makes pages shorter, never wrong. Use it from one thread at a time.
    """

    def __init__(self, directory: Path, *, files: Files = _FILES, index: Index | None = None) -> None:
        self._directory = directory
        self._files = files
        self._index = index
        self._sealed: SealedIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index, if this reader opened it."""
        sealed, self._sealed = self._sealed, None
        if sealed is not None:
            sealed.close()

    def page(self, query: EventQuery) -> EventPage:
        """The wanted events that are written, at most ``query.limit`` of them; see ``EventPage``.

        A directory without event files gives an empty page. Raises ``OSError`` if an existing file cannot be read.
        """
        with Snapshot(self._files, self._directory) as snapshot:
            last_id = snapshot.last_id()
            index = self._usable(query, last_id)
            if index is not None:
                try:
                    with index.reading(snapshot) as tables:
                        return _collect(snapshot, query, last_id, _with_index(snapshot, query, tables))
                except StaleError:
                    self.close()
            return _collect(snapshot, query, last_id, _ranged(snapshot, query, query.after, query.before))

    def _usable(self, query: EventQuery, last_id: int) -> Index | None:
        """The index, if there is one and the query needs it: a few events are read faster without it."""
        if not query.narrow or min(last_id, query.before) - query.after <= EVENTS_PAGE_MAX:
            return None
        if self._index is not None:
            return self._index
        if self._sealed is not None and not self._sealed.is_current:
            self.close()
        if self._sealed is None:
            self._sealed = SealedIndex.open(self._files, self._directory)
        return self._sealed


def pages(reader: EventReader, query: EventQuery) -> Iterator[EventPage]:
    """All pages of a query, the first ``query.limit`` events at most. There is at least one page."""
    left = query.limit
    while True:
        page = reader.page(msgspec.structs.replace(query, limit=min(left, EVENTS_PAGE_MAX)))
        yield page
        left -= len(page.events)
        if page.complete or left <= 0:
            return
        query = query.continued(page.next)


def follow(reader: EventReader, query: EventQuery) -> Iterator[EventPage | Lost]:
    """Pages of new events without end, oldest first, from ``query.after`` on, and which events in between were deleted.

    A page without events: nothing is new. The caller decides how long it waits after such a page.
    """
    query = msgspec.structs.replace(query, newest_first=False)
    while True:
        page = reader.page(query)
        lost = page.lost_after(query.after)
        yield page if lost is None else lost
        query = query.continued(page.next if lost is None else lost.place)


def read_events(
    directory: Path,
    since_id: int = 0,
    *,
    kinds: Collection[str] | None = None,
    severities: Collection[str] | None = None,
    reasons: Collection[str] | None = None,
    seed_id: str | None = None,
    limit: int = INTEGER_MAX,
    newest: bool = False,
) -> EventPage:
    """The wanted events with an id above ``since_id``, oldest first: the first ``limit``, or with ``newest`` the last.

    All of them are in memory at once. Raises ``OSError`` if an existing file cannot be read.
    """
    query = EventQuery(
        after=since_id,
        limit=limit,
        newest_first=newest,
        kinds=frozenset(kinds or ()),
        severities=frozenset(severities or ()),
        reasons=frozenset(reasons or ()),
        seed_id=seed_id,
    )
    with EventReader(directory) as reader:
        found = list(pages(reader, query))
    events = [event for page in found for event in page.events]
    return msgspec.structs.replace(found[-1], events=events[::-1] if newest else events)


def _collect(snapshot: Snapshot, query: EventQuery, last_id: int, portions: Iterator[Portion]) -> EventPage:
    """Fill a page. It needs one event more than the page has to know that the page is not complete."""
    events: list[Event] = []
    newest_first, limit = query.newest_first, query.page_limit
    reached = query.before if newest_first else query.after
    spent, steps, complete = 0, 0, True
    for portion in portions:
        for event in portion.events:
            if not query.matches(event) or (event.id >= reached if newest_first else event.id <= reached):
                continue
            if len(events) == limit:
                complete = False
                break
            events.append(event)
            reached = event.id
        if not complete:
            break
        reached = min(reached, portion.reached) if newest_first else max(reached, portion.reached)
        spent += portion.bytes
        steps += 1
        if spent >= EVENTS_QUERY_BYTES_MAX or steps >= EVENTS_QUERY_STEPS_MAX:
            complete = False
            break
    last_id = max([last_id, *(event.id for event in events[-1:])])
    return EventPage(events=events, next=reached, complete=complete, first_id=snapshot.first_id, last_id=last_id)


def _ranged(snapshot: Snapshot, query: EventQuery, after: int, before: int) -> Iterator[Portion]:
    return snapshot.backward(after, before) if query.newest_first else snapshot.forward(after, before)


def _with_index(snapshot: Snapshot, query: EventQuery, tables: Tables) -> Iterator[Portion]:
    """What the index knows comes from its blocks, the newer events from the ends of the files."""
    end = tables.indexed_to()
    if query.newest_first and query.before > end + 1:
        yield from snapshot.backward(max(query.after, end), query.before)
    for found in tables.find(query, query.after, min(query.before, end + 1)):
        if isinstance(found, int):
            yield Portion([], found, 0)
            continue
        events = [event for event in events_of(snapshot, found) if query.after < event.id < query.before]
        if query.newest_first:
            yield Portion(events[::-1], found.first_id, found.length)
        else:
            yield Portion(events, min(found.last_id, query.before - 1), found.length)
    if not query.newest_first:
        yield Portion([], min(end, query.before - 1), 0)
        yield from snapshot.forward(max(query.after, end), query.before)
