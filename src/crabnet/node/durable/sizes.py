"""How much room the data dir takes and has left, for the metrics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.errors import CrabnetError
from crabnet.storage.files import Files
from crabnet.storage.layout import Layout, list_segments
from crabnet.storage.ledger import Ledger


class DiskSizes(NamedTuple):
    """Free space and size of the file system, the size of all segments of the journal, and their number."""

    free_bytes: int
    size_bytes: int
    is_low: bool
    journal_bytes: int
    journal_segments: int


class DiskLook:
    """Looks at the disk in a thread. If the disk does not answer, there is one waiting thread and not more."""

    def __init__(self, files: Files, ledger: Ledger) -> None:
        self._files = files
        self._ledger = ledger
        self._layout = Layout(ledger.data_dir)
        self._limiter = trio.CapacityLimiter(1)
        self._listed_at: int | None = -1
        self._closed_bytes = 0
        self._closed_segments = 0
        self._last: Path | None = None

    async def sizes(self) -> DiskSizes | None:
        """The sizes at the moment; None if the disk has not answered within METRICS_DISK_MS, or has failed."""
        with trio.move_on_after(limits.METRICS_DISK_MS / 1000):
            return await trio.to_thread.run_sync(self._look, abandon_on_cancel=True, limiter=self._limiter)
        return None

    def _look(self) -> DiskSizes | None:
        try:
            space = self._ledger.disk_space()
            file_system = os.statvfs(self._ledger.data_dir)
            self._list_segments()
            last_bytes = None if self._last is None else self._files.size(self._last)
        except (CrabnetError, OSError):
            return None
        return DiskSizes(
            space.free_bytes,
            file_system.f_blocks * file_system.f_frsize,
            space.is_low,
            self._closed_bytes + (last_bytes or 0),
            self._closed_segments + (self._last is not None),
        )

    def _list_segments(self) -> None:
        """Look at all segments. Only a checkpoint begins a segment, and only the last one grows."""
        lsn = self._ledger.checkpoint_lsn
        if lsn == self._listed_at:
            return
        paths = [path for _, path in list_segments(self._files, self._layout)]
        self._closed_bytes = sum(self._files.size(path) or 0 for path in paths[:-1])
        self._closed_segments = max(0, len(paths) - 1)
        self._last = paths[-1] if paths else None
        self._listed_at = lsn
