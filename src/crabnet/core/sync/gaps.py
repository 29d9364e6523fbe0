"""Which range of a feed is asked for next: one that is neither held, nor under way, nor here and waiting."""

from __future__ import annotations

from crabnet import limits
from crabnet.core.replica.parking import Parking
from crabnet.core.sync.flow import Flight
from crabnet.core.sync.missing import Missing
from crabnet.protocol.feed import Feeds


class Gaps:
    """Reads feeds and parking place, changes neither."""

    def __init__(self, feeds: Feeds, parking: Parking) -> None:
        self._feeds = feeds
        self._parking = parking

    def is_here(self, flight: Flight) -> bool:
        """True if all of a range is held or waits."""
        return self.came(flight) > flight.last - flight.first

    def came(self, flight: Flight) -> int:
        """How many entries of a range are held or wait for those before them."""
        held = max(0, min(self._feeds.get(flight.author).head_seq, flight.last) - flight.first + 1)
        return held + sum(flight.first + held <= seq <= flight.last for seq in self._parking.seqs(flight.author))

    def following(self, author: str, missing: Missing, *, flying: int, feeds: int) -> tuple[int, int] | None:
        """The first range ahead of the head that neither is under way nor waits for the entries before it.

        ``flying`` entries are under way, of all ``feeds`` that lack something. While room is short, or will be when all
        is here that is under way, nothing is asked for of a feed whose next entry is here and lacks what it rests on:
        that could only wait, in the place of what is lacked, and several such feeds would hold each other up.
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
        """How far beyond its head a feed is asked for. While some wait for what is in others, all advance side by side:
        they share the room for what waits.
        """
        if not self._parking.any_lacking:
            return limits.PARKED_ENVELOPES_PER_FEED_MAX
        share = limits.PARKED_ENVELOPES_MAX // 2 // max(1, feeds)
        return min(max(share, limits.SYNC_WANT_ENTRIES_MAX), limits.PARKED_ENVELOPES_PER_FEED_MAX)

    def _waits(self, author: str, seq: int, head: int) -> bool:
        """True if the entry at ``seq`` is here already, and only waits for others."""
        if seq == head + 1:
            return self._parking.lacks_parent(author, seq)
        return seq in self._parking.seqs(author)
