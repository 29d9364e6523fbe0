"""Sync: which parts of feeds are missing, which sources to ask for them, and when to ask again.

Missing entries lie ahead of the head. If a feed was forked, they lie behind it: the node then requests the entries
before the first one that does not link, further and further back, until the envelope at the place of the fork arrives.
Ahead of the head, several ranges of a feed are under way at once, from several sources. ``Flow`` decides how many.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, ItemsView
from enum import Enum, auto
from itertools import islice

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.replica.parking import Parking
from crabnet.core.sync.flow import Flight, Flow
from crabnet.core.sync.gaps import Gaps
from crabnet.core.sync.missing import Missing
from crabnet.core.sync.requests import Requests
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Served, Want


def _any_room(_author: str, _now_ms: int) -> int:
    return limits.SYNC_WANT_ENTRIES_MAX


class _Turn(Enum):
    """The outcome of a feed's turn in a round of requests."""

    DONE = auto()
    """There is nothing to request at the moment."""
    MORE = auto()
    """A range was requested, and there may be more."""
    BLOCKED = auto()
    """No source has room."""


class SyncPlanner:
    """The missing parts of other nodes' feeds. It reads the feeds and the parking place and changes neither.

    ``hungry`` says that ``requests`` would find work before the next tick.
    """

    def __init__(
        self,
        feeds: Feeds,
        parking: Parking,
        *,
        fetch_bytes_per_s: int = 0,
        proven: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._feeds = feeds
        self._gaps = Gaps(feeds, parking)
        self._missing: dict[str, Missing] = {}
        self._told_by: dict[str, dict[str, None]] = {}
        self._given_up: BoundedTable[str, tuple[int, int]] = BoundedTable(limits.SYNC_MISSING_FEEDS_MAX)
        """Feeds that no source delivered: the head that is held, and since when the next envelope is missing."""
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._timers: list[tuple[int, str]] = []
        self.flow = Flow(fetch_bytes_per_s, proven)
        self.hungry = False

    def __len__(self) -> int:
        return len(self._missing)

    def missing(self) -> ItemsView[str, Missing]:
        """The feeds with missing entries, by author. To be read only."""
        return self._missing.items()

    def missing_of(self, author: str) -> Missing | None:
        """What is missing of a feed, None if nothing is. To be read only."""
        return self._missing.get(author)

    def has_told_much(self, source: str) -> bool:
        """True if this source reported so many missing feeds that the node asks it for no more at the moment."""
        return len(self._told_by.get(source, ())) >= limits.SYNC_MISSING_FEEDS_MAX // 2

    def note(
        self, author: str, upto: int, source: str, now_ms: int, *, proven: bool = True, forked_at: int = 0
    ) -> bool:
        """Note that ``source`` has the author's feed up to ``upto`` and this node lacks a part. True if that is new.

        ``forked_at`` is the seq of an envelope that does not link to the held feed. Sources that have not ``proven``
        their address get at most half of the room and evict nothing. Among the others, a source that reports fewer
        feeds evicts a feed of the one that reports most.
        """
        teller = source if proven else ""
        missing = self._missing.get(author)
        news = missing is None
        if missing is None:
            if not self._has_room(teller):
                return False
            head = self._feeds.get(author).head_seq
            held, since_ms = self._given_up.pop(author) or (head, now_ms)
            since_ms = since_ms if held == head else now_ms
            missing = self._missing[author] = Missing(upto, teller, since_ms, now_ms, head, now_ms, [], {})
            self._told_by.setdefault(teller, {})[author] = None
            self._ready[author] = None
        elif teller and not missing.teller:
            self._untell(author, missing)
            missing.teller = teller
            self._told_by.setdefault(teller, {})[author] = None
        if forked_at and (not missing.forked_at or forked_at < missing.forked_at):
            missing.forked_at = forked_at
            missing.attempts = 0
            missing.ask_ms = now_ms
            self._ready[author] = None
        if missing.told(source, upto, now_ms, proven=proven):
            self._ready[author] = None
        return news

    def _has_room(self, teller: str) -> bool:
        """Make room for one more feed. Returns False if there is none.

        The source that reported most feeds loses one, so that no source can fill the table alone.
        """
        if len(self._missing) < limits.SYNC_MISSING_FEEDS_MAX // (1 if teller else 2):
            return True
        own = len(self._told_by.get(teller, ()))
        if not teller or own >= len(self._missing) // len(self._told_by):
            return False  # the common case in a flood, decided without reading all the others
        told = max(self._told_by.values(), key=len)
        if len(told) <= own + 1:
            return False
        author = next(reversed(told))
        self._drop(author, self._missing[author])
        return True

    def _untell(self, author: str, missing: Missing) -> None:
        told = self._told_by[missing.teller]
        del told[author]
        if not told:
            del self._told_by[missing.teller]

    def hear(self, head: Head, source: str, now_ms: int, *, proven: bool = True) -> bool:
        """Compare a neighbour's head with that of this node. True if a newly missing part is found."""
        feed = self._feeds.get(head.author)
        seq = min(head.seq, feed.end - 1) if feed.end else head.seq
        if seq > feed.head_seq:
            news = self.note(head.author, seq, source, now_ms, proven=proven)
            self._reaches(head.author, source, seq, now_ms)
            return news
        if seq < head.seq:
            return False
        self._reaches(head.author, source, head.seq, now_ms)
        held = self._feeds.id_at(head.author, head.seq)
        if held is None or held == head.id:
            return False
        return self.note(head.author, head.seq, source, now_ms, proven=proven, forked_at=head.seq + 1)

    def _reaches(self, author: str, source: str, seq: int, now_ms: int) -> None:
        """Note that a source holds a feed up to ``seq`` and no further, even if it said more before.

        Requests to it beyond that are dropped, because they would only block its window for other feeds. Just after the
        source said more, this is ignored: it may be an older message that arrived late.
        """
        missing = self._missing.get(author)
        holder = None if missing is None else missing.holders.get(source)
        if missing is None or missing.forked_at or holder is None:
            return
        if now_ms < holder.reached_ms + limits.SYNC_STALE_HEAD_MS and seq < holder.reach:
            return
        for flight in [each for each in missing.flights if each.source == source and each.first > seq]:
            missing.flights.remove(flight)
            self.flow.dropped(flight)
            self._ready[author] = None
        missing.reaches(source, seq if seq > self._feeds.get(author).head_seq else 0)
        if not missing.holders:
            self._drop(author, missing)

    def holders(self, author: str, seq: int) -> list[str]:
        """The sources that said that they hold a feed up to ``seq``. The one that reported last is first."""
        missing = self._missing.get(author)
        return [] if missing is None else missing.able(seq)

    def wanted(self, author: str, seq: int) -> bool:
        """True if this node has requested this envelope."""
        missing = self._missing.get(author)
        if missing is None:
            return False
        first, last = missing.behind
        return first <= seq <= last or self._feeds.get(author).head_seq < seq <= missing.asked_upto

    def progressed(self, author: str, now_ms: int, *, size: int = 0) -> tuple[int, int, int] | None:
        """Record that a feed advanced by an envelope of ``size`` bytes.

        Returns (first seq, last seq, milliseconds) of a gap if it is closed by that.
        """
        missing = self._missing.get(author)
        if missing is None:
            return None
        head = self._feeds.get(author).head_seq
        if head <= missing.asked_upto:
            self.flow.came(size)
        missing.moved_ms = now_ms
        if missing.forked_at:
            return None
        missing.attempts = 0
        flights = missing.flights
        landed = False
        while flights and head >= flights[0].last:
            self._landed(missing, flights[0], now_ms)
            landed = True
        if head >= missing.upto:
            self._drop(author, missing)
            return missing.head_then + 1, head, now_ms - missing.since_ms
        if landed or not flights:
            self._wake(author, missing, now_ms)
        elif flights and not self.flow.tells_ends(flights[0].source):
            # If the source does not say where its answers end, an answer is over when no more has arrived for a while.
            flights[0].due_ms = now_ms + limits.SYNC_QUIET_MS
            self._schedule(author, missing, flights[0].due_ms)
        return None

    def arrived(self, author: str, seq: int, now_ms: int) -> None:
        """Record that an envelope arrived and is parked.

        A range has arrived when all its envelopes are here, even if they are parked. It then makes room for other
        requests, which may bring the envelopes that the parked ones wait for.
        """
        missing = self._missing.get(author)
        flights = [] if missing is None else [each for each in missing.flights if each.first <= seq <= each.last]
        if missing is None or not flights:
            return
        missing.moved_ms = now_ms
        for flight in flights:
            if (flight.ended or seq == flight.last) and self._gaps.is_here(flight):
                self._landed(missing, flight, now_ms)
                missing.attempts = 0
                self._wake(author, missing, now_ms)

    def forked(self, author: str, now_ms: int) -> None:
        """Record that the feed ends earlier than known before. The node requests nothing from its end on."""
        missing = self._missing.get(author)
        if missing is None:
            return
        feed = self._feeds.get(author)
        for flight in [each for each in missing.flights if each.last >= feed.end]:
            missing.flights.remove(flight)
            self.flow.dropped(flight)
        missing.forked_at = 0
        missing.head_then = min(missing.head_then, feed.head_seq)
        for source in [each for each, holder in missing.holders.items() if holder.reach >= feed.end]:
            missing.reaches(source, feed.end - 1)
        if missing.upto <= feed.head_seq:
            self._drop(author, missing)
        else:
            self._wake(author, missing, now_ms)

    def ended(self, served: Served, source: str, now_ms: int) -> None:
        """Record how far a source's answer to a request went. Entries that have not arrived by then are lost."""
        flight, passed = self.flow.ended(served.author, served.from_seq, source)
        if flight is None:
            return
        for each in passed:
            self._hasten(each, now_ms + limits.SYNC_QUIET_MS)
        missing = self._missing[served.author]
        if served.to_seq < flight.first:
            self._no_more(missing, flight, now_ms)
            self._wake(served.author, missing, now_ms)
            return
        if served.to_seq < flight.last:
            missing.span = served.to_seq - flight.first + 1
        else:
            missing.span = min(2 * missing.span, limits.SYNC_WANT_ENTRIES_MAX)
        flight.last = min(flight.last, served.to_seq)
        flight.ended = True
        if self._gaps.is_here(flight):
            self._landed(missing, flight, now_ms)
        else:
            self._hasten(flight, now_ms + limits.SYNC_QUIET_MS)
        self._wake(served.author, missing, now_ms)

    def _no_more(self, missing: Missing, flight: Flight, now_ms: int) -> None:
        """Record that the source had no entry of the range."""
        missing.flights.remove(flight)
        self.flow.dropped(flight)
        missing.attempts += 1
        missing.broke_word(flight, now_ms)
        missing.ask_ms = now_ms if missing.has_better(flight.source) else flight.due_ms

    def _landed(self, missing: Missing, flight: Flight, now_ms: int) -> None:
        missing.flights.remove(flight)
        self.flow.landed(flight, now_ms)
        missing.kept_word(flight.source)

    def _hasten(self, flight: Flight, due_ms: int) -> None:
        missing = self._missing.get(flight.author)
        if missing is not None and due_ms < flight.due_ms:
            flight.due_ms = due_ms
            flight.ended = True
            self._schedule(flight.author, missing, due_ms)

    def _drop(self, author: str, missing: Missing) -> None:
        self._release(missing)
        self._untell(author, missing)
        del self._missing[author]
        self._ready.pop(author, None)

    def _release(self, missing: Missing) -> None:
        for flight in missing.flights:
            self.flow.dropped(flight)
        missing.flights.clear()

    def _wake(self, author: str, missing: Missing, now_ms: int) -> None:
        """Allow further requests for a feed at once, because something arrived."""
        if missing.attempts == 0:
            missing.ask_ms = min(missing.ask_ms, now_ms)
        self._ready[author] = None
        self.hungry = True

    def _schedule(self, author: str, missing: Missing, at_ms: int) -> None:
        if missing.timer_ms is None or at_ms < missing.timer_ms:
            missing.timer_ms = at_ms
            heapq.heappush(self._timers, (at_ms, author))

    def requests(
        self, now_ms: int, may_ask: Callable[[str], bool], room: Callable[[str, int], int] = _any_room
    ) -> list[tuple[str, list[Want]]]:
        """The requests that are due, as (source, wants), to sources that ``may_ask`` allows.

        ``room`` returns how many envelopes of an author may come at the moment. Envelopes that would be over its budget
        are not requested.
        """
        self.hungry = False
        while self._timers and self._timers[0][0] <= now_ms:
            at_ms, author = heapq.heappop(self._timers)
            due = self._missing.get(author)
            if due is not None and due.timer_ms == at_ms:
                due.timer_ms = None
                self._ready[author] = None
        if not self.flow.may_ask(now_ms):
            return []
        asked = Requests(self.flow, may_ask, room, now_ms)
        blocked = 0
        turn = list(islice(self._ready, limits.SYNC_FEEDS_PER_ROUND))
        while turn:
            again = []
            for author in turn:
                missing = self._missing.get(author)
                head = self._feeds.get(author).head_seq
                if missing is not None and not missing.flights and asked.is_vain(missing, head + 1):
                    self._ready.move_to_end(author)
                    continue
                answer = _Turn.DONE if missing is None else self._ask(author, missing, now_ms, asked)
                if missing is None or answer is _Turn.DONE:
                    self._ready.pop(author, None)
                    continue
                self._ready.move_to_end(author)
                if answer is _Turn.MORE:
                    again.append(author)
                    continue
                asked.note_exhausted(missing.sources)
                blocked += 1
                if blocked >= limits.SYNC_BLOCKED_FEEDS_PER_ROUND:
                    return asked.messages()
            turn = again
        return asked.messages()

    def _ask(self, author: str, missing: Missing, now_ms: int, asked: Requests) -> _Turn:
        """Request one range of a feed, if one may be requested at the moment.

        The feeds take turns, one range each, because envelopes rest on envelopes of other feeds. These usually lie
        equally far from the beginnings of their feeds.
        """
        self._overdue(author, missing, now_ms)
        over = now_ms - missing.moved_ms > limits.SYNC_MISSING_TTL_MS and missing.attempts > 0
        if over:
            self._given_up.put(author, (self._feeds.get(author).head_seq, missing.since_ms))
        if over or (not missing.forked_at and self._feeds.get(author).head_seq >= missing.upto):
            self._drop(author, missing)
            return _Turn.DONE
        if missing.attempts >= limits.SYNC_FORK_ATTEMPTS_MAX:
            missing.forked_at = 0
        if now_ms < missing.ask_ms:
            self._schedule(author, missing, missing.ask_ms)
            return _Turn.DONE
        entries_max = asked.room(author, now_ms)
        if entries_max < limits.SYNC_WANT_ENTRIES_MAX:
            entries_max -= sum(flight.entries for flight in missing.flights)
        if entries_max < 1:
            self._schedule(author, missing, now_ms + limits.AUTHOR_PAUSE_MS)
            return _Turn.DONE
        gap = self._gaps.following(author, missing, flying=self.flow.flying, feeds=len(self._missing))
        if missing.forked_at and (missing.attempts % 2 == 0 or (gap is None and not missing.flights)):
            return self._ask_behind(author, missing, now_ms, asked)
        if gap is not None:
            source = asked.pick(missing, gap[0])
            if source is None:
                return self._unasked(author, missing, missing.best(gap[0]), now_ms)
            gap = (gap[0], min(gap[1], gap[0] + entries_max - 1, missing.holders[source].reach))
            flight = self.flow.depart(author, *gap, source, now_ms, missing.wait_ms(source))
            asked.add(source, Want(author, *gap))
            missing.flights.append(flight)
            missing.flights.sort(key=_first_seq)
            missing.asked_upto = max(missing.asked_upto, flight.last)
        due_ms = [flight.due_ms for flight in missing.flights]
        self._schedule(author, missing, min(due_ms, default=now_ms + missing.pause_ms()))
        return _Turn.MORE if gap is not None and entries_max >= limits.SYNC_WANT_ENTRIES_MAX else _Turn.DONE

    def _unasked(self, author: str, missing: Missing, able: list[str], now_ms: int) -> _Turn:
        """Handle that no source can be asked. If the reason is not lack of room, retry after a while."""
        if not any(self.flow.room(source) >= 1 for source in able):
            return _Turn.BLOCKED
        self._schedule(author, missing, now_ms + limits.SYNC_REQUEST_RETRY_MS)
        return _Turn.DONE

    def _ask_behind(self, author: str, missing: Missing, now_ms: int, asked: Requests) -> _Turn:
        """Request the entries before the first one that does not link."""
        source = asked.pick_in_turn(missing)
        if source is None:
            return self._unasked(author, missing, missing.sources, now_ms)
        last = max(1, min(missing.forked_at - 1, self._feeds.get(author).head_seq))
        missing.behind = (max(1, last - limits.SYNC_WANT_ENTRIES_MAX + 1), last)
        asked.add(source, Want(author, *missing.behind))
        missing.ask_ms = now_ms + missing.pause_ms()
        missing.attempts += 1
        self._schedule(author, missing, missing.ask_ms)
        return _Turn.DONE

    def _overdue(self, author: str, missing: Missing, now_ms: int) -> None:
        """Drop ranges that are overdue, unless their source is still delivering others."""
        for flight in [each for each in missing.flights if each.due_ms <= now_ms]:
            moving = now_ms - missing.moved_ms < limits.SYNC_QUIET_MS
            if not flight.ended and (moving or self.flow.is_busy(flight, now_ms)):
                flight.due_ms = now_ms + limits.SYNC_QUIET_MS
                continue
            missing.flights.remove(flight)
            if self._feeds.get(author).head_seq >= flight.first and not self.flow.tells_ends(flight.source):
                self.flow.dropped(flight)
                continue
            self.flow.lost(flight, now_ms)
            wait_ms = missing.wait_ms(flight.source)
            if 2 * self._gaps.came(flight) < flight.last - flight.first + 1:
                missing.broke_word(flight, now_ms)
            if missing.moved_ms <= flight.asked_ms:
                at_once = missing.has_better(flight.source) or (flight.ended and not missing.attempts)
                missing.ask_ms = now_ms if at_once else flight.asked_ms + wait_ms
                missing.attempts += 1


def _first_seq(flight: Flight) -> int:
    return flight.first
