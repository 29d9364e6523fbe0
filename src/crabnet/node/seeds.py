"""The state of a seed, for Python programs, and lists of the seeds in memory and in the archive."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct

from crabnet.domain.lifecycle import is_biddable, status_at
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
from crabnet.domain.record import Record, counting_bids


class SeedState(Struct, frozen=True, kw_only=True):
    """A seed, its status at the time of the request, and all statements about it that count."""

    seed: Seed
    status: SeedStatus
    progress: Progress
    bids: tuple[Bid, ...]
    """The bids that count, ordered by (created_at, id)."""
    claims: tuple[Claim, ...]
    runs: tuple[Run, ...]
    results: tuple[TaskResult, ...]
    settlements: tuple[Settlement, ...]
    acknowledgements: tuple[Acknowledgement, ...]
    """The worker's statements that it knows the settlement. After that the publisher cannot take it back."""

    @property
    def result(self) -> TaskResult | None:
        """The result of the current attempt, if there is one."""
        return next((result for result in self.results if result.id == self.progress.result_id), None)


def seed_state(record: Record, now_s: int) -> SeedState:
    """The state of a seed whose definition is known. Raises ValueError without a definition."""
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


SeedPlace = tuple[int, str]
"""(created_at, seed id): the place of a seed in lists."""


class ArchivePage(Protocol):
    """Gives archived seeds, newest first."""

    def __call__(
        self, *, status: SeedStatus | None, limit: int, after: SeedPlace | None
    ) -> list[tuple[str, Record]]: ...


class Found(NamedTuple):
    """A seed of a list, and whether it has left memory."""

    created_at: int
    seed_id: str
    record: Record
    archived: bool


def find_seeds(
    records: Mapping[str, Record],
    archived: ArchivePage,
    now_s: int,
    *,
    status: SeedStatus | None,
    limit: int,
    after: SeedPlace | None,
    biddable: bool | None = None,
    wanted: Callable[[Record], bool] = lambda _: True,
) -> list[Found]:
    """Seeds in memory and archived, newest first and then by id, at most ``limit``, those after the place ``after``.

    ``biddable``: only open ones that take bids at ``now_s``, or only open ones that do not. Those are never archived.
    ``wanted`` selects seeds in memory only.
    """
    if biddable is not None:
        status = SeedStatus.OPEN
    live = (
        Found(seed.created_at, seed_id, record, False)
        for seed_id, record in records.items()
        if (seed := record.definition) is not None
        and (status is None or status_at(record, now_s) is status)
        and (biddable is None or is_biddable(record, now_s) is biddable)
        and (after is None or _order(seed.created_at, seed_id) > _order(*after))
        and wanted(record)
    )
    found = heapq.nsmallest(limit, live, key=lambda item: _order(item.created_at, item.seed_id))
    found += [
        Found(seed.created_at, seed_id, record, True)
        for seed_id, record in archived(status=status, limit=limit, after=after)
        if (seed := record.definition) is not None
    ]
    found.sort(key=lambda item: _order(item.created_at, item.seed_id))
    return found[:limit]


def _order(created_at: int, seed_id: str) -> tuple[int, str]:
    return (-created_at, seed_id)
