"""The requests of one round, by source: which source to ask, and what goes into one message."""

from __future__ import annotations

from collections.abc import Callable

from crabnet import limits
from crabnet.core.sync.flow import Flow
from crabnet.core.sync.missing import FAILURES_MAX, Missing
from crabnet.protocol.sync import Want


class Requests:
    """Collects the requests of one round. ``room`` returns how many envelopes of an author may come at the moment."""

    def __init__(
        self, flow: Flow, may_ask: Callable[[str], bool], room: Callable[[str, int], int], now_ms: int
    ) -> None:
        self.room = room
        self._now_ms = now_ms
        self._flow = flow
        self._may_ask = may_ask
        self._wants: dict[str, list[Want]] = {}
        self._refused: set[str] = set()
        self.exhausted: set[str] = set()
        """Sources that have no room. Feeds with only such sources can be skipped in this round."""

    def note_exhausted(self, sources: list[str]) -> None:
        """Record which sources of a feed that could not be requested have no room."""
        self.exhausted.update(source for source in sources if source in self._refused or self._flow.room(source) < 1)

    def is_vain(self, missing: Missing, seq: int) -> bool:
        """True if it is already known that no source can be asked for this entry."""
        if not self.exhausted:
            return False
        if self.exhausted.issuperset(missing.holders):
            return True
        best = missing.best(seq)
        return bool(best) and all(source in self.exhausted and self._delivers(source) for source in best)

    def pick(self, missing: Missing, seq: int) -> str | None:
        """The source to ask for this entry and the following ones. None if there is none at the moment.

        This is the source with the fewest failures, and of several the one with the most room. While it is delivering
        and so has no room, no source with more failures is asked instead: if it did not deliver, it would delay the
        feed.
        """
        able = missing.able(seq)
        able.sort(key=lambda source: (missing.preference(source), -self._flow.room(source)))
        waits_at = FAILURES_MAX
        for source in able:
            if missing.failures(source) > waits_at:
                return None
            if self._flow.room(source) < 1:
                waits_at = missing.failures(source) if self._delivers(source) else waits_at
            elif self._allowed(source):
                return source
        return None

    def _delivers(self, source: str) -> bool:
        return self._flow.is_delivering(source, self._now_ms)

    def pick_in_turn(self, missing: Missing) -> str | None:
        """A source to ask for entries behind the head. Each attempt begins with the next source."""
        sources = missing.sources
        turn = missing.attempts % len(sources) if sources else 0
        in_turn = sources[turn:] + sources[:turn]
        return next((source for source in in_turn if self._flow.room(source) >= 1 and self._allowed(source)), None)

    def _allowed(self, source: str) -> bool:
        if len(self._wants.get(source, ())) % limits.SYNC_WANTS_PER_MESSAGE_MAX:
            return True
        if source in self._refused:
            return False
        if self._may_ask(source):
            return True
        self._refused.add(source)
        return False

    def add(self, source: str, want: Want) -> None:
        """Add a want."""
        self._wants.setdefault(source, []).append(want)

    def messages(self) -> list[tuple[str, list[Want]]]:
        """The messages to send, as (source, wants)."""
        most = limits.SYNC_WANTS_PER_MESSAGE_MAX
        return [
            (source, wants[at : at + most])
            for source, wants in self._wants.items()
            for at in range(0, len(wants), most)
        ]
