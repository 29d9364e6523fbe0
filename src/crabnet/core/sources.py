"""Step 1 of verification: may this source speak at all? A window of one second per source, and a block after misuse."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from crabnet import limits
from crabnet.errors import Reason


class _Source(NamedTuple):
    window_s: int
    datagrams: int
    blocked_until_ms: int


class SourceGate:
    """Counts datagrams per source. ``threshold_per_s`` 0 turns it off."""

    def __init__(self, *, threshold_per_s: int, block_ms: int) -> None:
        self._threshold_per_s = threshold_per_s
        self._block_ms = block_ms
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._dropped: Counter[str] = Counter()

    def check(self, source: str, now_ms: int) -> Reason | None:
        """None if the source may speak. ``rate_limited`` is said once, when a block begins; then ``source_blocked``."""
        if not self._threshold_per_s:
            return None
        known = self._sources.get(source, _Source(0, 0, 0))
        if now_ms < known.blocked_until_ms:
            if source in self._dropped or len(self._dropped) < limits.SOURCES_REPORTED_MAX:
                self._dropped[source] += 1
            return Reason.SOURCE_BLOCKED
        window_s = now_ms // 1000
        count = known.datagrams + 1 if window_s == known.window_s else 1
        over = count > self._threshold_per_s
        self._sources[source] = _Source(window_s, count, now_ms + self._block_ms if over else 0)
        self._sources.move_to_end(source)
        if len(self._sources) > limits.SOURCES_MAX:
            self._sources.popitem(last=False)
        return Reason.RATE_LIMITED if over else None

    def take_dropped(self) -> list[tuple[str, int]]:
        """(source, datagrams) dropped unread since the last call."""
        dropped, self._dropped = self._dropped, Counter()
        return list(dropped.items())
