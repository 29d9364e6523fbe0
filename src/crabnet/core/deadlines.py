"""Time: which of the operator's seeds have passed a deadline (docs/PROTOCOL.md, section 10), and which are at rest."""

from __future__ import annotations

import heapq

from crabnet.domain.lifecycle import claim_deadline_s, execution_deadline_ms
from crabnet.domain.model import FINAL, FactKind, SeedStatus
from crabnet.domain.record import Record


def due_at_ms(record: Record, grace_ms: int) -> tuple[int, FactKind] | None:
    """When its creator should close or forfeit a seed, and which; None if time does not change it."""
    seed, progress = record.definition, record.progress
    if seed is None:
        return None
    if progress.status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
        return (claim_deadline_s(seed, progress) + 1) * 1000, FactKind.CLOSE
    if progress.status is SeedStatus.DONE and record.worker_failed:
        return 0, FactKind.FORFEIT
    if progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING} and progress.claimed_at is not None:
        # Statements are dated in whole seconds: within the second of the deadline a forfeit is not due yet.
        deadline_s = -(-execution_deadline_ms(seed, progress.claimed_at) // 1000)
        return deadline_s * 1000 + grace_ms, FactKind.FORFEIT
    return None


def at_rest_since_ms(record: Record) -> int | None:
    """Since when nothing more is expected of a seed: settled or closed, or open past its claim deadline.

    Of one whose definition does not stand any more: since the last that was said about it.
    """
    seed, progress = record.definition, record.progress
    if seed is None:
        return max((fact.ts for fact in record.fallen), default=0) * 1000 or None
    if progress.status in FINAL and progress.settled_at is not None:
        return progress.settled_at * 1000
    return seed.claim_deadline_s * 1000 if progress.status is SeedStatus.OPEN else None


class Agenda:
    """Seeds by the time at which to look at them again. Stale entries are harmless: whoever looks decides anew."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_ms: int, seed_id: str) -> None:
        """Look at a seed at ``at_ms`` or later."""
        heapq.heappush(self._heap, (at_ms, seed_id))

    def count_due(self, now_ms: int) -> int:
        """How many seeds' time has come."""
        return len({seed_id for at_ms, seed_id in self._heap if at_ms <= now_ms})

    def due(self, now_ms: int, seeds_max: int = 64) -> list[str]:
        """Seeds whose time has come, each once; these entries are off the agenda."""
        ids: dict[str, None] = {}
        while self._heap and self._heap[0][0] <= now_ms and len(ids) < seeds_max:
            ids[heapq.heappop(self._heap)[1]] = None
        return list(ids)
