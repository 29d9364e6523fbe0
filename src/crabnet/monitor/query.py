"""Queries for events: which events are wanted, the terms by which the index finds them, and the pages of an answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import google_crc32c
import msgspec

from crabnet.limits import EVENTS_PAGE_DEFAULT, EVENTS_PAGE_MAX, EVENTS_QUERY_WORDS_MAX, INTEGER_MAX
from crabnet.monitor.events import Event, PayloadValue
from crabnet.monitor.registry import EventKind

AUTHOR_FIELDS: Final = ("author", "worker", "peer")
"""The payload fields that name a node. An event is about each of these nodes."""
SEED_FIELD: Final = "seed_id"
"""The payload field that names a seed."""
_ID: Final = attrgetter("id")
_OWN: Final = EventKind.ENVELOPE_CREATED.value


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted, and in which order. All conditions must hold; an empty set or ``None`` is no condition.

    ``after`` and ``before`` are ids and exclusive. ``since_ms`` is inclusive, ``until_ms`` exclusive; both are compared
    with ``ts_ms``. ``author`` is a node id (see ``authors_of``). A page has at most ``limit`` events, and never more
    than EVENTS_PAGE_MAX.
    """

    after: int = 0
    before: int = INTEGER_MAX
    limit: int = EVENTS_PAGE_DEFAULT
    newest_first: bool = True
    kinds: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    seed_id: str | None = None
    author: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def page_limit(self) -> int:
        """The number of events that a page may have."""
        return max(0, min(self.limit, EVENTS_PAGE_MAX))

    def continued(self, reached: int) -> EventQuery:
        """The query for the next page: ``reached`` is ``next`` of this one."""
        if self.newest_first:
            return msgspec.structs.replace(self, before=reached)
        return msgspec.structs.replace(self, after=reached)

    def matches(self, event: Event) -> bool:
        """Whether ``event`` is wanted. Ids are not compared."""
        payload = event.payload
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.sources or event.source in self.sources)
            and (not self.severities or event.severity in self.severities)
            and (not self.reasons or payload.get("reason") in self.reasons)
            and (self.seed_id is None or payload.get(SEED_FIELD) == self.seed_id)
            and (self.author is None or self.author in authors_of(event))
            and (self.since_ms is None or event.ts_ms >= self.since_ms)
            and (self.until_ms is None or event.ts_ms < self.until_ms)
        )

    def terms(self) -> list[list[int]]:
        """What the index must contain about a block: of each list at least one term.

        A condition with more than EVENTS_QUERY_WORDS_MAX words has no list, so it costs no work in the index.
        """
        words: list[tuple[str, Collection[str]]] = [
            (SEED_FIELD, () if self.seed_id is None else (self.seed_id,)),
            ("author", () if self.author is None else (self.author,)),
            ("reason", self.reasons),
            ("kind", self.kinds),
            ("source", self.sources),
            ("severity", self.severities),
        ]
        return [
            sorted({term(field, word) for word in given})
            for field, given in words
            if 0 < len(given) <= EVENTS_QUERY_WORDS_MAX
        ]

    @property
    def narrow(self) -> bool:
        """Whether an index helps: more is asked than a range of ids."""
        return self.since_ms is not None or self.until_ms is not None or bool(self.terms())


class Lost(NamedTuple):
    """Ids of events that do not exist any more. A reader continues behind ``place``."""

    first_id: int
    last_id: int
    place: int


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a query.

    ``events`` are in the order asked for. ``complete`` is true if the page has all wanted events that are left.
    Otherwise a limit ended it: the number of events, or the work that one query may cause. It may then have few events
    or none, and the query continues with ``before=next`` (newest first) or ``after=next`` (oldest first).

    For oldest first, ``next`` is also where to continue when new events are written: all events up to it were examined.
    ``first_id`` and ``last_id`` are the ids of the oldest and the newest event that exist, 0 if there are none.
    """

    events: list[Event]
    next: int
    complete: bool
    first_id: int
    last_id: int

    def lost_after(self, after: int) -> Lost | None:
        """The events behind ``after`` that do not exist any more; None if none are missing."""
        if self.first_id and after + 1 < self.first_id:
            return Lost(after + 1, self.first_id - 1, place=self.first_id - 1)
        if after > self.last_id:  # these ids were given out before the log was lost
            return Lost(self.last_id + 1, after, place=self.last_id)
        return None


def page_of_recent(recent: Sequence[Event], query: EventQuery) -> EventPage | None:
    """The first wanted events behind ``query.after``, from the newest events, which have no gap.

    None if these are not all that exist behind it, or if ``query.after`` was never given out.
    """
    if not recent or not recent[0].id - 1 <= query.after <= recent[-1].id:
        return None
    wanted = [event for event in recent[bisect_right(recent, query.after, key=_ID) :] if query.matches(event)]
    page, last_id = wanted[: query.page_limit], recent[-1].id
    complete = len(page) == len(wanted)
    reached = last_id if complete else max([query.after, *(event.id for event in page[-1:])])
    return EventPage(events=page, next=reached, complete=complete, first_id=recent[0].id, last_id=last_id)


def authors_of(event: Event) -> set[str]:
    """The node ids that an event is about: its fields ``author``, ``worker`` and ``peer``.

    An ``envelope_created`` event has none of these fields. Its author is the node that reports it.
    """
    payload = event.payload
    found = {value for name in AUTHOR_FIELDS if isinstance(value := payload.get(name), str)}
    if event.kind == _OWN:
        found.add(event.node_id)
    return found


def terms_of(events: Iterable[Event]) -> set[int]:
    """The terms of a block of events: what ``EventQuery.terms`` is compared with."""
    kinds: set[PayloadValue] = set()
    sources: set[PayloadValue] = set()
    severities: set[PayloadValue] = set()
    reasons: set[PayloadValue] = set()
    seeds: set[PayloadValue] = set()
    authors: set[PayloadValue] = set()
    for event in events:  # once for every event that is written, so it calls little
        given = event.payload.get
        kinds.add(event.kind)
        sources.add(event.source)
        severities.add(event.severity)
        reasons.add(given("reason"))
        seeds.add(given(SEED_FIELD))
        for name in AUTHOR_FIELDS:
            authors.add(given(name))
        if event.kind == _OWN:
            authors.add(event.node_id)
    found = (
        *(("kind", kinds), ("source", sources), ("severity", severities)),
        *(("reason", reasons), (SEED_FIELD, seeds), ("author", authors)),
    )
    return {term(field, word) for field, words in found for word in words if isinstance(word, str)}


def term(field: str, value: str) -> int:
    """A 32-bit number for a field with a value. Two values may share one: then blocks are read in vain."""
    return int(google_crc32c.value(f"{field}\0{value}".encode("utf-8", "surrogatepass")))
