"""One feed of which something is missing: who said that it holds it, and how well each of them kept its word."""

from __future__ import annotations

from msgspec import Struct

from crabnet import limits
from crabnet.core.sync.flow import Flight

NO_RANGE = (1, 0)
FAILURES_MAX = (limits.SYNC_REQUEST_RETRY_MS_MAX // limits.SYNC_REQUEST_RETRY_MS).bit_length() - 1
"""After so many failures nobody is waited for any longer."""


class Holder(Struct):
    """Somebody who said, at ``reached_ms``, that it holds the feed up to ``reach``.

    ``failures`` is how often in a row, the last time at ``failed_ms``, it brought less than half of what was asked;
    no higher than makes a difference, so that who comes back is soon on a par with those that never give anything.
    """

    reach: int
    reached_ms: int
    failures: int = 0
    failed_ms: int = 0


class Missing(Struct):
    """The feed reaches ``upto``, so its ``holders`` said, each of them up to its reach: who promises what nobody
    holds keeps only itself busy. ``forked_at`` is the lowest seq that does not link.

    ``flights`` are the ranges ahead of the head that are under way, in order; up to ``asked_upto`` all was asked for.
    ``teller`` is who told of it first, "" for sources that have not proved their address.
    ``span`` is how many entries an answer holds, as the last ones went: what is cut short leaves a hole behind it.
    ``attempts`` counts what was asked in vain since the feed last moved, of whomever.
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
        """All who hold some of it; who told last is first."""
        return list(reversed(self.holders))

    def told(self, source: str, upto: int, now_ms: int, *, proven: bool) -> bool:
        """``source`` holds the feed up to there. True if it said less before.

        There is room for few: who has failed most, and told longest ago, goes. Who has not ``proven`` its address
        displaces nobody, and comes after all others.
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
        """``source`` holds the feed up to there and no further; 0: none of it."""
        if seq:
            self.holders[source].reach = seq
        else:
            del self.holders[source]
        self.upto = max((holder.reach for holder in self.holders.values()), default=0)

    def able(self, seq: int) -> list[str]:
        """Who said that it holds the feed up to there."""
        return [source for source in self.sources if self.holders[source].reach >= seq]

    def best(self, seq: int) -> list[str]:
        """Of those who said that they hold the feed up to there, who has failed least."""
        able = self.able(seq)
        least = min((self.failures(source) for source in able), default=0)
        return [source for source in able if self.failures(source) == least]

    def failures(self, source: str) -> int:
        """How often in a row the source has not kept its word."""
        holder = self.holders.get(source)
        return 0 if holder is None else holder.failures

    def preference(self, source: str) -> tuple[int, int]:
        """Lowest for who is to be asked first: who has failed least, of several the one that failed longest ago."""
        holder = self.holders[source]
        return holder.failures, holder.failed_ms if holder.failures else 0

    def kept_word(self, source: str) -> None:
        """What was asked of the source came."""
        holder = self.holders.get(source)
        if holder is not None:
            holder.failures = 0

    def broke_word(self, flight: Flight, now_ms: int) -> None:
        """Most of a range did not come. What was under way at the same time counts once."""
        holder = self.holders.get(flight.source)
        if holder is not None and (not holder.failures or flight.asked_ms >= holder.failed_ms):
            holder.failures = min(holder.failures + 1, FAILURES_MAX)
            holder.failed_ms = now_ms

    def has_better(self, source: str) -> bool:
        """True if somebody has failed less often than this source."""
        own = self.failures(source)
        return any(holder.failures < own for holder in self.holders.values())

    def wait_ms(self, source: str) -> int:
        """Until a range asked of the source is overdue: twice as long after each failure."""
        return _doubled_ms(self.failures(source))

    def pause_ms(self) -> int:
        """Until somebody is asked again: twice as long each time that all sources have had their turn."""
        return _doubled_ms(self.attempts // max(1, len(self.holders)))


def _doubled_ms(times: int) -> int:
    return min(limits.SYNC_REQUEST_RETRY_MS << min(times, 16), limits.SYNC_REQUEST_RETRY_MS_MAX)
