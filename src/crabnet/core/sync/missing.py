"""A feed with missing entries: which sources said that they hold it, and how reliably each delivered (ADR 24)."""

from __future__ import annotations

from msgspec import Struct

from crabnet import limits
from crabnet.core.sync.flow import Flight

NO_RANGE = (1, 0)
FAILURES_MAX = (limits.SYNC_REQUEST_RETRY_MS_MAX // limits.SYNC_REQUEST_RETRY_MS).bit_length() - 1
"""More failures than this do not lengthen the wait for a source."""


class Holder(Struct):
    """A source that said, at ``reached_ms``, that it holds the feed up to ``reach``.

    ``failures`` is how often in a row it delivered less than half of a requested range, the last time at ``failed_ms``.
    It is at most FAILURES_MAX, so that a source that returns soon ranks equal to sources that never deliver.
    """

    reach: int
    reached_ms: int
    failures: int = 0
    failed_ms: int = 0


class Missing(Struct):
    """A feed with missing entries. It reaches ``upto``, according to its ``holders``.

    Each holder is asked only up to its own reach, so a false claim delays no other source. ``forked_at`` is the lowest
    seq that does not link. ``flights`` are the ranges ahead of the head that are under way, in order. All entries up to
    ``asked_upto`` were requested. ``teller`` is the source that reported it first, "" for sources that have not proved
    their address. ``span`` is how many entries an answer holds, as far as the last ones show. A longer request would
    leave a hole, because the answer is cut short. ``attempts`` counts failed requests, to any source, since the feed
    last advanced.
    """

    upto: int
    teller: str
    since_ms: int
    moved_ms: int
    head_then: int
    ask_ms: int
    flights: list[Flight]
    holders: dict[str, Holder]
    asked_upto: int = 0
    span: int = limits.SYNC_WANT_ENTRIES_MAX
    behind: tuple[int, int] = NO_RANGE
    forked_at: int = 0
    attempts: int = 0
    timer_ms: int | None = None

    @property
    def sources(self) -> list[str]:
        """All sources that hold entries of the feed. The one that reported last is first."""
        return list(reversed(self.holders))

    def told(self, source: str, upto: int, now_ms: int, *, proven: bool) -> bool:
        """Record that ``source`` holds the feed up to ``upto``. True if it said less before.

        There is room for few sources. The one with the most failures, of these the one that reported longest ago, is
        evicted. A source that has not ``proven`` its address evicts none and comes after all others.
        """
        known = self.holders.get(source)
        if known is None:
            if len(self.holders) >= limits.SYNC_SOURCES_PER_FEED_MAX:
                if not proven:
                    return False
                del self.holders[max(self.holders, key=lambda each: self.holders[each].failures)]
            known = Holder(0, now_ms)
            if not proven:
                self.holders = {source: known, **self.holders}
        if proven:
            self.holders.pop(source, None)
            self.holders[source] = known
        news = upto > known.reach
        if news:
            known.reach, known.reached_ms = upto, now_ms
        self.upto = max(holder.reach for holder in self.holders.values())
        return news

    def reaches(self, source: str, seq: int) -> None:
        """Record that ``source`` holds the feed up to ``seq`` and no further. 0 means none of it."""
        if seq:
            self.holders[source].reach = seq
        else:
            del self.holders[source]
        self.upto = max((holder.reach for holder in self.holders.values()), default=0)

    def able(self, seq: int) -> list[str]:
        """The sources that said that they hold the feed up to ``seq``."""
        return [source for source in self.sources if self.holders[source].reach >= seq]

    def best(self, seq: int) -> list[str]:
        """The sources with the fewest failures among those that said that they hold the feed up to ``seq``."""
        able = self.able(seq)
        least = min((self.failures(source) for source in able), default=0)
        return [source for source in able if self.failures(source) == least]

    def failures(self, source: str) -> int:
        """How often in a row the source has failed to deliver."""
        holder = self.holders.get(source)
        return 0 if holder is None else holder.failures

    def preference(self, source: str) -> tuple[int, int]:
        """A sort key. The source to ask first has the fewest failures, and failed longest ago among equals."""
        holder = self.holders[source]
        return holder.failures, holder.failed_ms if holder.failures else 0

    def kept_word(self, source: str) -> None:
        """Record that the source delivered what was requested from it."""
        holder = self.holders.get(source)
        if holder is not None:
            holder.failures = 0

    def broke_word(self, flight: Flight, now_ms: int) -> None:
        """Record that most of a range did not arrive. Ranges that were under way at the same time count once."""
        holder = self.holders.get(flight.source)
        if holder is not None and (not holder.failures or flight.asked_ms >= holder.failed_ms):
            holder.failures = min(holder.failures + 1, FAILURES_MAX)
            holder.failed_ms = now_ms

    def has_better(self, source: str) -> bool:
        """True if another source has failed less often than this one."""
        own = self.failures(source)
        return any(holder.failures < own for holder in self.holders.values())

    def wait_ms(self, source: str) -> int:
        """Milliseconds until a range requested from the source is overdue. They double after each failure."""
        return _doubled_ms(self.failures(source))

    def pause_ms(self) -> int:
        """Milliseconds until the next request. They double each time that all sources have had their turn."""
        return _doubled_ms(self.attempts // max(1, len(self.holders)))


def _doubled_ms(times: int) -> int:
    return min(limits.SYNC_REQUEST_RETRY_MS << min(times, 16), limits.SYNC_REQUEST_RETRY_MS_MAX)
