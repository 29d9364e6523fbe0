"""The one sweeper: which of the operator's own seeds have passed a deadline (design section 5)."""

from __future__ import annotations

import heapq

from crabnet.domain.lifecycle import Record, execution_deadline_ms
from crabnet.domain.model import FactKind, SeedStatus


def due_at_ms(record: Record, grace_ms: int) -> tuple[int, FactKind] | None:
    """When its creator should close or forfeit a seed, and which; None if time does not change it."""
    seed, progress = record.definition, record.progress
    if seed is None:
        return None
    if progress.status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
        return (seed.claim_deadline_s + 1) * 1000, FactKind.CLOSE
    if progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING} and progress.claimed_at is not None:
        return execution_deadline_ms(seed, progress.claimed_at) + grace_ms, FactKind.FORFEIT
    return None


class Deadlines:
    """Own seeds by their next deadline. Stale entries are skipped when they come up."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self._heap: list[tuple[int, str]] = []

    def watch(self, seed_id: str, record: Record) -> None:
        """Note the next deadline of a seed that has changed."""
        due = due_at_ms(record, self._grace_ms)
        if due is not None:
            heapq.heappush(self._heap, (due[0], seed_id))

    def due(self, now_ms: int, seeds_max: int = 64) -> list[str]:
        """Seeds whose noted deadline has passed; look at them again with ``due_at_ms``."""
        ids: list[str] = []
        while self._heap and self._heap[0][0] <= now_ms and len(ids) < seeds_max:
            ids.append(heapq.heappop(self._heap)[1])
        return ids

    def action(self, record: Record, now_ms: int) -> FactKind | None:
        """What is to be done with a seed now."""
        due = due_at_ms(record, self._grace_ms)
        return due[1] if due is not None and due[0] <= now_ms else None
