"""Finds the next range of a feed to request: entries that are not held, not under way and not parked."""

from __future__ import annotations

from crabnet import limits
from crabnet.core.replica.parking import Parking
from crabnet.core.sync.flow import Flight
from crabnet.core.sync.missing import Missing
from crabnet.protocol.feed import Feeds


class Gaps:
    """Reads the feeds and the parking place and changes neither."""

    def __init__(self, feeds: Feeds, parking: Parking) -> None:
        self._feeds = feeds
        self._parking = parking

    def is_here(self, flight: Flight) -> bool:
        """True if all entries of a range are held or parked."""
        return self.came(flight) > flight.last - flight.first

    def came(self, flight: Flight) -> int:
        """How many entries of a range are held or parked."""
        held = max(0, min(self._feeds.get(flight.author).head_seq, flight.last) - flight.first + 1)
        return held + sum(flight.first + held <= seq <= flight.last for seq in self._parking.seqs(flight.author))

    def following(self, author: str, missing: Missing, *, flying: int, feeds: int) -> tuple[int, int] | None:
        """The first range ahead of the head that is neither under way nor parked. None if there is none to request.

        ``flying`` entries are under way, of all ``feeds`` with missing entries. If parking room is short, or will be
        when these have arrived, the node requests nothing of some feeds: of those whose next entry is parked and lacks
        the envelope that it rests on. Further entries could only be parked, and would take the room of the lacked
        envelopes. Several such feeds would block each other.
        """
        head = self._feeds.get(author).head_seq
        crowded = self._parking.crowded or len(self._parking) + flying > limits.PARKED_ENVELOPES_MAX // 4
        if crowded and self._parking.lacks_parent(author, head + 1):
            return None
        first = head + 1
        last = min(missing.upto, head + self._ahead(feeds))
        parked = self._parking.seqs(author)
        for flight in missing.flights:
            while first < flight.first and self._waits(author, first, head):
                first += 1
            if flight.first > first:
                last = min(last, flight.first - 1)
                break
            first = max(first, flight.last + 1)
        while self._waits(author, first, head):
            first += 1
        last = min(last, min((seq for seq in parked if seq > first), default=last + 1) - 1)
        last = min(last, first + missing.span - 1)
        return (first, last) if first <= last else None

    def _ahead(self, feeds: int) -> int:
        """How many entries beyond its head a feed is requested.

        While some feeds wait for envelopes of others, all feeds advance together and share the parking room.
        """
        if not self._parking.any_lacking:
            return limits.PARKED_ENVELOPES_PER_FEED_MAX
        share = limits.PARKED_ENVELOPES_MAX // 2 // max(1, feeds)
        return min(max(share, limits.SYNC_WANT_ENTRIES_MAX), limits.PARKED_ENVELOPES_PER_FEED_MAX)

    def _waits(self, author: str, seq: int, head: int) -> bool:
        """True if the entry at ``seq`` is parked already."""
        if seq == head + 1:
            return self._parking.lacks_parent(author, seq)
        return seq in self._parking.seqs(author)
