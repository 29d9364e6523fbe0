"""Why a task is where it is: for each of its stages, what has happened or what is waited for. Pure."""

from __future__ import annotations

from crabnet.domain.lifecycle import status_at
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.wording import standing_of
from crabnet.market.stages import Here, Stage, StageState, View
from crabnet.market.stages_of_purchase import awarding, bidding, publication
from crabnet.market.stages_of_work import acknowledgement, result, settlement, start


def why(record: Record, here: Here) -> tuple[Stage, ...]:
    """All stages of a task. Raises ValueError if its definition is not known."""
    seed = record.definition
    if seed is None:
        raise ValueError("a task without definition cannot be explained")
    at = View(record, seed, here)
    return (
        publication(at),
        bidding(at),
        awarding(at),
        start(at),
        result(at),
        settlement(at),
        acknowledgement(at),
    )


def headline(record: Record, stages: tuple[Stage, ...], now_s: int) -> str:
    """One sentence: what has become of the task, or what it waits for."""
    seed = record.definition
    seed_id = "" if seed is None else seed.id
    pending = next((stage for stage in stages if stage.state in {StageState.FAILED, StageState.WAITING}), None)
    if pending is not None and pending.text:
        return f"task {seed_id}: {pending.text}"
    if record.progress.status is SeedStatus.OPEN and status_at(record, now_s) is SeedStatus.EXPIRED:
        return f"task {seed_id} was not claimed in time and is over"
    return standing_of(seed_id, record.progress)
