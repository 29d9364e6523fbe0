"""Deadlines: which of the operator's seeds have passed one (docs/PROTOCOL.md, section 10), and which are at rest."""

from __future__ import annotations

import heapq

from crabnet import limits
from crabnet.domain.lifecycle import claim_deadline_s, execution_deadline_ms
from crabnet.domain.model import FINAL, FactKind, SeedStatus, TaskResult
from crabnet.domain.record import Record


def due_at_ms(record: Record, grace_ms: int) -> tuple[int, FactKind] | None:
    """When the creator of a seed should close or forfeit it, and which of both. None if no deadline applies to it.

    All times are in milliseconds.
    """
    seed, progress = record.definition, record.progress
    if seed is None:
        return None
    if progress.status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
        return (claim_deadline_s(seed, progress) + 1) * 1000, FactKind.CLOSE
    if progress.status is SeedStatus.DONE and record.worker_failed:
        return 0, FactKind.FORFEIT
    if progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING} and progress.claimed_at is not None:
        # Statements have times in whole seconds. So a forfeit is not due within the second of the deadline.
        deadline_s = -(-execution_deadline_ms(seed, progress.claimed_at) // 1000)
        return deadline_s * 1000 + grace_ms, FactKind.FORFEIT
    return None


def why_failed(record: Record) -> str:
    """The reason that the worker gives for its failure, as one line for the note of the forfeit."""
    result = None if record.result is None else record.result.body
    if not isinstance(result, TaskResult):
        return "the worker failed"
    said = " ".join(result.stderr.split())[: limits.EVENT_DETAIL_CHARS]
    cause = "no reason given" if result.termination is None else result.termination.cause
    return f"the worker failed: {said if result.refusal and said else cause}"


def at_rest_since_ms(record: Record) -> int | None:
    """Since when a seed is at rest, in milliseconds: settled or closed, or open past its claim deadline.

    A seed whose definition no longer stands is at rest since the time of the last fact about it. None if it is not at
    rest.
    """
    seed, progress = record.definition, record.progress
    if seed is None:
        return max((fact.ts for fact in record.fallen), default=0) * 1000 or None
    if progress.status in FINAL and progress.settled_at is not None:
        return progress.settled_at * 1000
    return seed.claim_deadline_s * 1000 if progress.status is SeedStatus.OPEN else None


class Agenda:
    """Seeds by the time at which to check them again. Stale entries are harmless: the caller decides anew."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_ms: int, seed_id: str) -> None:
        """Schedule a check of a seed at ``at_ms`` or later."""
        heapq.heappush(self._heap, (at_ms, seed_id))

    def next_ms(self) -> int | None:
        """The time of the first check, in milliseconds since the epoch. None if there is none."""
        return self._heap[0][0] if self._heap else None

    def count_due(self, now_ms: int) -> int:
        """The number of seeds that are due."""
        return len({seed_id for at_ms, seed_id in self._heap if at_ms <= now_ms})

    def due(self, now_ms: int, seeds_max: int = 64) -> list[str]:
        """Remove and return the seeds that are due, at most ``seeds_max``, each once."""
        ids: dict[str, None] = {}
        while self._heap and self._heap[0][0] <= now_ms and len(ids) < seeds_max:
            ids[heapq.heappop(self._heap)[1]] = None
        return list(ids)
