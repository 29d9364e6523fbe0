"""How much the node requests at once: a window of entries for each source, and a rate limit for all together.

A window grows with every range that arrived completely and halves when entries were lost. So socket buffers do not
overflow and a fast source does not wait. Sources that have not proved their address share half of the entries that may
be under way.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable


class Flight(Struct):
    """A requested range of a feed that has not arrived completely. ``ended``: the source says that it has sent it.

    ``entries`` is how many were requested. ``last`` is lowered when the source says that its answer ended earlier.
    """

    author: str
    first: int
    last: int
    source: str
    number: int
    asked_ms: int
    due_ms: int
    entries: int
    ended: bool = False
    unproven: bool = False


class _Source(Struct):
    window: float = limits.SYNC_WINDOW_ENTRIES_START
    flying: int = 0
    flights: dict[int, Flight] = {}
    landed_ms: int = -limits.SYNC_REQUEST_RETRY_MS_MAX
    slowed_ms: int = -limits.SYNC_REQUEST_RETRY_MS_MAX
    slow_start: bool = True
    tells_ends: bool = False


class Flow:
    """Ranges in flight, by source. ``bytes_per_s`` 0 means no limit.

    Ranges of an evicted source are no longer counted. They still arrive or become overdue like others.
    """

    def __init__(self, bytes_per_s: int = 0, proven: Callable[[str], bool] = lambda _: True) -> None:
        self._proven = proven
        self._sources: BoundedTable[str, _Source] = BoundedTable(limits.PEERS_MAX)
        self._number = 0
        self._bytes_per_s = bytes_per_s
        self._tokens = float(bytes_per_s)
        self._earned_ms = 0
        self.flying = 0
        self._flying_unproven = 0

    def room(self, source: str) -> float:
        """How many more entries may be requested from a source at the moment. None while too many are under way."""
        if self.flying >= limits.SYNC_ENTRIES_IN_FLIGHT_MAX:
            return 0
        if self._flying_unproven >= limits.SYNC_ENTRIES_IN_FLIGHT_MAX // 2 and not self._proven(source):
            return 0
        known = self._sources.get(source)
        return limits.SYNC_WINDOW_ENTRIES_START if known is None else known.window - known.flying

    def may_ask(self, now_ms: int) -> bool:
        """False while more bytes arrived recently than the rate limit allows."""
        if not self._bytes_per_s:
            return True
        earned = max(0, now_ms - self._earned_ms) * self._bytes_per_s / 1000
        self._tokens = min(float(self._bytes_per_s), self._tokens + earned)
        self._earned_ms = now_ms
        return self._tokens > 0

    def came(self, size: int) -> None:
        """Count ``size`` requested bytes that arrived."""
        self._tokens -= size

    def depart(self, author: str, first: int, last: int, source: str, now_ms: int, wait_ms: int) -> Flight:
        """Record a requested range. It is overdue after ``wait_ms``."""
        known = self._sources.get(source)
        if known is None:
            known = _Source(flights={})
        for _, gone in self._sources.put(source, known):
            self.flying -= gone.flying
            self._flying_unproven -= sum(flight.entries for flight in gone.flights.values() if flight.unproven)
        self._sources.hold(source)
        self._number += 1
        flight = Flight(
            author,
            first,
            last,
            source,
            self._number,
            now_ms,
            now_ms + wait_ms,
            last - first + 1,
            unproven=not self._proven(source),
        )
        known.flights[flight.number] = flight
        known.flying += flight.entries
        self.flying += flight.entries
        self._flying_unproven += flight.entries * flight.unproven
        return flight

    def tells_ends(self, source: str) -> bool:
        """True if the source says where its answers end. Answers of others are over when nothing more arrives."""
        known = self._sources.get(source)
        return known is not None and known.tells_ends

    def landed(self, flight: Flight, now_ms: int) -> None:
        """Record that the whole range arrived."""
        known = self._remove(flight)
        if known is not None:
            known.landed_ms = now_ms
            step = 1.0 if known.slow_start else limits.SYNC_WANT_ENTRIES_MAX / known.window
            known.window = min(known.window + step * flight.entries, float(limits.SYNC_WINDOW_ENTRIES_MAX))

    def lost(self, flight: Flight, now_ms: int) -> None:
        """Record that entries of the range did not arrive."""
        known = self._remove(flight)
        if known is not None and now_ms - known.slowed_ms >= limits.SYNC_SLOW_DOWN_MS:
            known.slowed_ms = now_ms
            known.slow_start = False
            known.window = max(float(limits.SYNC_WINDOW_ENTRIES_MIN), known.window / 2)

    def dropped(self, flight: Flight) -> None:
        """Remove a range that is no longer wanted."""
        self._remove(flight)

    def _remove(self, flight: Flight) -> _Source | None:
        known = self._sources.get(flight.source)
        if known is None or known.flights.pop(flight.number, None) is None:
            return None
        known.flying -= flight.entries
        self.flying -= flight.entries
        self._flying_unproven -= flight.entries * flight.unproven
        if not known.flights:
            self._sources.release(flight.source)
        return known

    def is_delivering(self, source: str, now_ms: int) -> bool:
        """True if the source has delivered a range within SYNC_REQUEST_RETRY_MS."""
        known = self._sources.get(source)
        return known is not None and now_ms - known.landed_ms < limits.SYNC_REQUEST_RETRY_MS

    def is_busy(self, flight: Flight, now_ms: int) -> bool:
        """True if the source is still delivering earlier requests, so that this range only waits for its turn."""
        recent = self.is_delivering(flight.source, now_ms)
        return recent and now_ms - flight.asked_ms < limits.SYNC_REQUEST_RETRY_MS_MAX

    def ended(self, author: str, first: int, source: str) -> tuple[Flight | None, list[Flight]]:
        """Record that a source says that it answered the want of ``author`` from ``first`` on.

        Returns the range in flight, or None, and the earlier ranges that the source must have skipped: answers come in
        the order of the requests.
        """
        known = self._sources.get(source)
        if known is None:
            return None, []
        known.tells_ends = True
        flight = next((each for each in known.flights.values() if each.author == author and each.first == first), None)
        if flight is None:
            return None, []
        passed = [each for each in known.flights.values() if each.number < flight.number and not each.ended]
        return flight, passed
