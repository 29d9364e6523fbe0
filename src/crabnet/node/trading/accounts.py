"""Counts the archive in the accounts, once after a start, in the background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.core.trading.histories import ArchivedTask, Place, archived_task
from crabnet.errors import CrabnetError
from crabnet.node.part import Job, Part
from crabnet.storage.archive.archive import Archive

_LOOK_S: Final = 5.0
"""How often to look whether the accounts have to be made anew, or a failed disk answers again."""


class AccountKeeper(Part):
    """Reads the archive page by page in a thread, and has the core count it."""

    def __init__(self, core: Core, archive: Archive) -> None:
        self._core = core
        self._archive = archive

    def jobs(self) -> Sequence[Job]:
        """The job that counts the archive."""
        return [Job(self._run, "accounts")]

    async def _run(self) -> None:
        while True:
            if self._core.trading.histories.archive_done or not await self._count_some():
                await trio.sleep(_LOOK_S)
            await trio.sleep(limits.HISTORIES_PAUSE_MS / 1000)

    async def _count_some(self) -> bool:
        """Count the next page. False if the disk did not give it."""
        histories = self._core.trading.histories
        place = histories.archive_place
        try:
            tasks = await trio.to_thread.run_sync(partial(archived_tasks, self._archive, place))
        except CrabnetError:
            return False
        if self._core.trading.histories is histories:  # not made anew meanwhile
            self._core.add_archived(tasks)
        return True


def archived_tasks(archive: Archive, place: Place | None) -> list[ArchivedTask]:
    """The next tasks of the archive after a place. Blocks. Raises DataDirDamagedError, StorageFailedError."""
    after = None if place is None else (-place[0], place[1])
    rows = archive.page(limit=limits.HISTORIES_PAGE_ROWS, after=after)
    return [archived_task(row.key, record_of_row(decode_seed_row(row.data))) for row in rows]
