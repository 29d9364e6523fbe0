"""The state of a seed, for Python programs, and lists of the seeds in memory and in the archive."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from crabnet import limits
from crabnet.domain.lifecycle import claim_deadline_s, status_at
from crabnet.domain.local_rules import is_biddable
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
from crabnet.domain.record import Record, claimed_bids, counting_bids


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


_ARCHIVE_CHUNK: Final = 256
"""Archived seeds that are read at a time while few of them fit."""
SeedPlace = tuple[int, str]
"""(created_at, seed id): the place of a seed in lists."""


class ArchivePage(Protocol):
    """Gives archived seeds, newest first."""

    def __call__(
        self, *, status: SeedStatus | None, limit: int, after: SeedPlace | None, owner: str | None = None
    ) -> list[tuple[str, Record]]: ...


class Found(NamedTuple):
    """A seed of a list, and whether it has left memory."""

    created_at: int
    seed_id: str
    record: Record
    archived: bool


class Filter(NamedTuple):
    """Which seeds a list is to have: those that fit all fields that are not None."""

    status: SeedStatus | None = None
    biddable: bool | None = None
    """True: open ones that take bids. False: open ones that do not."""
    creator: str | None = None
    others_than: str | None = None
    """Those of other creators."""
    worker: str | None = None
    """Those that this node has won, in any attempt."""
    needs: Callable[[Record], bool] | None = None
    since_s: int | None = None
    """Those published since then."""
    text: str | None = None
    """Those with this text in title, command or description, whatever the capitals."""

    def fits(self, record: Record, now_s: int) -> bool:
        """Whether a seed is wanted."""
        seed = record.definition
        return (
            seed is not None
            and self.creator in {None, seed.created_by}
            and seed.created_by != self.others_than
            and (self.since_s is None or seed.created_at >= self.since_s)
            and self.status in {None, status_at(record, now_s)}
            and (self.biddable is None or self.biddable is is_biddable(record, now_s))
            and (self.worker is None or any(_won_by(fact.body, self.worker) for fact in record.others))
            and (self.needs is None or self.needs(record))
            and (self.text is None or _mentions(seed, self.text.casefold()))
        )


def _won_by(body: object, worker: str) -> bool:
    return isinstance(body, Claim) and body.worker == worker


def _mentions(seed: Seed, folded: str) -> bool:
    return any(folded in text.casefold() for text in (seed.title, seed.command, seed.description))


def needs_operator(record: Record, node_id: str, now_s: int) -> bool:
    """Whether the next step of a seed is one of this node's operator: to claim, to run or to settle it."""
    seed, status = record.definition, status_at(record, now_s)
    if seed is None:
        return False
    if seed.created_by != node_id:
        return status is SeedStatus.CLAIMED and record.progress.claimed_by == node_id
    if status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
        left = len(counting_bids(record)) > len(claimed_bids(record))
        return left and now_s <= claim_deadline_s(seed, record.progress)
    return status is SeedStatus.DONE


class Search(NamedTuple):
    """A page of seeds, and the id after which the next page begins; None if this is the last one."""

    found: list[Found]
    following: str | None


def search_seeds(
    records: Mapping[str, Record],
    archived: ArchivePage,
    now_s: int,
    wanted: Filter,
    *,
    limit: int,
    after: SeedPlace | None,
) -> Search:
    """Seeds in memory and archived that fit, newest first and then by id, those after the place ``after``.

    It looks at a bounded number of archived ones, so a page may be short although another one follows.
    """
    if wanted.biddable is not None:
        wanted = wanted._replace(status=SeedStatus.OPEN)
    kept: list[Found] = []
    everything = wanted == Filter()
    place, known, looked_at, whole = after, after, 0, False
    while len(kept) <= limit and looked_at < limits.SEEDS_LOOKED_AT_MAX:
        most = min(max(limit + 1 - len(kept), _ARCHIVE_CHUNK), limits.SEEDS_LOOKED_AT_MAX - looked_at)
        rows = archived(status=wanted.status, owner=wanted.creator, limit=most, after=place)
        looked_at += len(rows)
        for seed_id, record in rows:
            seed = record.definition
            place = (0 if seed is None else seed.created_at, seed_id)
            if seed is not None:
                known = place
                if wanted.fits(record, now_s):
                    kept.append(Found(seed.created_at, seed_id, record, True))
        whole = len(rows) < most or (wanted.since_s is not None and place is not None and place[0] < wanted.since_s)
        if whole:
            break
    last = None if whole or place is None else _order(*place)
    live = (
        Found(seed.created_at, seed_id, record, False)
        for seed_id, record in records.items()
        if (seed := record.definition) is not None
        and (after is None or _order(seed.created_at, seed_id) > _order(*after))
        and (last is None or _order(seed.created_at, seed_id) <= last)
        and (everything or wanted.fits(record, now_s))
    )
    kept += heapq.nsmallest(limit + 1, live, key=_place)
    kept.sort(key=_place)
    if len(kept) > limit:
        return Search(kept[:limit], kept[limit - 1].seed_id)
    return Search(kept, None if whole or known is None or known == after else known[1])


def _place(found: Found) -> tuple[int, str]:
    return _order(found.created_at, found.seed_id)


def find_seeds(
    records: Mapping[str, Record],
    archived: ArchivePage,
    now_s: int,
    *,
    status: SeedStatus | None,
    limit: int,
    after: SeedPlace | None,
    wanted: Callable[[Record], bool] = lambda _: True,
) -> list[Found]:
    """Seeds in memory and archived, newest first and then by id, at most ``limit``, those after the place ``after``.

    ``wanted`` selects seeds in memory only.
    """
    live = (
        Found(seed.created_at, seed_id, record, False)
        for seed_id, record in records.items()
        if (seed := record.definition) is not None
        and (status is None or status_at(record, now_s) is status)
        and (after is None or _order(seed.created_at, seed_id) > _order(*after))
        and wanted(record)
    )
    found = heapq.nsmallest(limit, live, key=_place)
    found += [
        Found(seed.created_at, seed_id, record, True)
        for seed_id, record in archived(status=status, limit=limit, after=after)
        if (seed := record.definition) is not None
    ]
    found.sort(key=_place)
    return found[:limit]


def _order(created_at: int, seed_id: str) -> tuple[int, str]:
    return (-created_at, seed_id)
