"""How a seed stands, for Python programs."""

from __future__ import annotations

from msgspec import Struct

from crabnet.domain.lifecycle import Record, counting_bids, status_at
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Claim,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)


class SeedState(Struct, frozen=True, kw_only=True):
    """A seed, its status at the time of asking, and what counts of all that was said about it."""

    seed: Seed
    status: SeedStatus
    progress: Progress
    bids: tuple[Bid, ...]
    """In the order in which they count: (created_at, id)."""
    claims: tuple[Claim, ...]
    runs: tuple[Run, ...]
    results: tuple[TaskResult, ...]
    settlements: tuple[Settlement, ...]
    acknowledgements: tuple[Acknowledgement, ...]
    """The worker's word that it knows of the settlement: its creator cannot take that back."""

    @property
    def result(self) -> TaskResult | None:
        """The result of the current attempt, if there is one."""
        return next((result for result in self.results if result.id == self.progress.result_id), None)


def seed_state(record: Record, now_s: int) -> SeedState:
    """The state of a seed whose definition is known."""
    if record.definition is None:
        raise ValueError("a seed without definition is not shown")
    bodies = [fact.body for fact in record.others]
    return SeedState(
        seed=record.definition,
        status=status_at(record, now_s),
        progress=record.progress,
        bids=tuple(fact.body for fact in counting_bids(record) if isinstance(fact.body, Bid)),
        claims=tuple(body for body in bodies if isinstance(body, Claim)),
        runs=tuple(body for body in bodies if isinstance(body, Run)),
        results=tuple(body for body in bodies if isinstance(body, TaskResult)),
        settlements=tuple(body for body in bodies if isinstance(body, Settlement)),
        acknowledgements=tuple(body for body in bodies if isinstance(body, Acknowledgement)),
    )
