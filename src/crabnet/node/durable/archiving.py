"""Moves seeds at rest from memory to the archive. They are first written durably, then journalled, then removed from
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import SegmentRow
from crabnet.core.replica.rows import SEED_ROW_BYTES_MAX, decode_seed_row, record_of_row, seed_row
from crabnet.domain.lifecycle import status_at
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import Record
from crabnet.node.durable.committer import Committer
from crabnet.node.part import Job, Part
from crabnet.node.seeds import SeedPlace
from crabnet.storage.archive.archive import Archive, ArchiveRow
from crabnet.storage.archive.segment import CREATED_AT_MAX


class Rows(Protocol):
    """Archived rows, newest first, and the number of rows that were left out because they are damaged."""

    def page(self, *, tag: str | None, owner: str | None, limit: int, after: SeedPlace | None) -> list[ArchiveRow]: ...

    def starting_with(self, prefix: str, limit: int) -> list[ArchiveRow]: ...

    @property
    def unreadable(self) -> int: ...


class ReadPages:
    """Archived seeds, for lists. Seeds that have come back into memory are left out."""

    def __init__(self, core: Core, archive: Rows) -> None:
        self._core = core
        self._rows = archive

    def page(
        self, *, status: SeedStatus | None, limit: int, after: SeedPlace | None, owner: str | None = None
    ) -> list[tuple[str, Record]]:
        """A page of at most ``limit`` archived seeds, of the creator ``owner`` if given, newest first.

        Blocks on the disk.
        """
        tag = None if status is None else status.value
        found: list[tuple[str, Record]] = []
        while len(found) < limit:
            rows = self._rows.page(tag=tag, owner=owner, limit=limit, after=after)
            if not rows:
                break
            after = (rows[-1].created_at, rows[-1].key)
            found.extend(self._records(rows))
        return found[:limit]

    def starting_with(self, prefix: str, limit: int) -> list[tuple[str, Record]]:
        """At most ``limit`` archived seeds whose ids begin with ``prefix``, by id. Blocks on the disk."""
        return list(self._records(self._rows.starting_with(prefix, limit)))

    def _records(self, rows: list[ArchiveRow]) -> Iterator[tuple[str, Record]]:
        in_memory = self._core.replica.state.records
        return ((row.key, record_of_row(decode_seed_row(row.data))) for row in rows if row.key not in in_memory)

    @property
    def unreadable(self) -> int:
        """The number of seeds that were left out because their rows are damaged."""
        return self._rows.unreadable


class Archivist(ReadPages, Part):
    """Moves seeds at rest to the archive, and finds them there for lists."""

    def __init__(self, core: Core, archive: Archive, committer: Committer, clock_ms: Callable[[], int]) -> None:
        super().__init__(core, archive)
        self._archive = archive
        self._committer = committer
        self._clock_ms = clock_ms

    def jobs(self) -> Sequence[Job]:
        """The job that archives seeds when they are due."""
        return [Job(self.run)]

    async def run(self) -> None:
        """Archive the seeds that are due, again and again until cancelled. Raises StorageFailedError."""
        while True:
            if not await self.archive_due():
                await trio.sleep(limits.ARCHIVE_CHECK_S)

    async def archive_due(self) -> bool:
        """Archive some of the seeds that are due. Returns False if there were none."""
        now_ms = self._clock_ms()
        found = self._core.archivable(now_ms)
        if not found:
            return False
        await self._committer.submit(Effects())
        rows: list[ArchiveRow] = []
        written: list[tuple[str, Record]] = []
        for seed_id, record in found:
            row = archive_row(seed_id, record, now_ms // 1000)
            if row is not None:
                rows.append(row)
                written.append((seed_id, record))
        if not rows:
            return True
        with trio.CancelScope(shield=True):
            info = await trio.to_thread.run_sync(self._archive.write_segment, rows)
            effects = Effects()
            self._core.archived(SegmentRow(info.number, info.sha256, info.rows), written, now_ms, effects)
            await self._committer.submit(effects)
        return True


def archive_row(seed_id: str, record: Record, now_s: int) -> ArchiveRow | None:
    """The row of a seed; None if the seed must stay in memory.

    A seed stays in memory if its row is so large that it could not be journalled as a whole when it comes back. It also
    stays if the archive cannot sort by its time, which is possible for an unsigned seed.
    """
    seed = record.definition
    row = seed_row(seed_id, record)
    if len(row) > SEED_ROW_BYTES_MAX or (seed is not None and seed.created_at > CREATED_AT_MAX):
        return None
    if seed is None:  # its definition does not count, but may count again
        return ArchiveRow(seed_id, 0, "", "", row)
    return ArchiveRow(seed_id, seed.created_at, status_at(record, now_s).value, seed.created_by, row)
