"""Facts that sleep, for a replica without a journal: their envelopes are kept in memory."""

from __future__ import annotations

from crabnet.core.applied import Applied
from crabnet.core.replica import Replica


class Sleepers:
    """Keeps what a replica lets sleep, and wakes it. A node does so from its disk instead: ``node.waking``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._held: dict[tuple[str, int], tuple[str, bytes]] = {}

    def keep(self, applied: Applied, raw: bytes) -> None:
        """Take note of what became of the envelope ``raw``."""
        meta = applied.meta
        if meta is None or not (applied.in_feed or applied.woken):
            return
        if applied.proof is not None:
            behind = [place for place in self._held if place[0] == meta.from_ and place[1] >= meta.seq]
            for place in behind:
                del self._held[place]
        self._held.pop((meta.from_, meta.seq), None)
        if applied.asleep:
            self._held[meta.from_, meta.seq] = (applied.asleep, raw)

    def wake(self, now_s: int) -> None:
        """Wake all that may count by now."""
        restless = self._replica.dormancy.restless
        while restless:
            parent = next(iter(restless))
            since = self._replica.dormancy.moves
            for _, (waits_for, raw) in sorted(self._held.items()):
                woken = self._replica.wake(raw, parent, now_s) if waits_for == parent else None
                if woken is not None:
                    self.keep(woken, raw)
            self._replica.dormancy.calmed(parent, since)
