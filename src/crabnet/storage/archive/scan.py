"""Reading the archive without its index. For processes that must not write an index: they read whole segments."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from crabnet.storage.archive.segment import (
    FIRST_PREVIOUS,
    ArchiveRow,
    PlacedRow,
    SegmentInfo,
    scan_segment,
    segment_path,
)
from crabnet.storage.files import Files, guarded


class ArchiveScan:
    """Answers the same queries as ``Archive``, but slowly. It omits damaged rows. Raises ``StorageFailedError``."""

    def __init__(self, files: Files, data_dir: Path, segments: Sequence[SegmentInfo]) -> None:
        self._files = files
        self._directory = data_dir / "archive"
        self._segments = segments
        self._damages = 0

    def get(self, key: str) -> bytes | None:
        """Return the data of the latest sound row of a key, ``None`` when there is none."""
        return next((row.data for row in self._latest() if row.key == key), None)

    def page(
        self, *, tag: str | None = None, owner: str | None = None, limit: int, after: tuple[int, str] | None = None
    ) -> list[ArchiveRow]:
        """Return the latest row of each key, newest first and then by key.

        ``tag`` and ``owner`` select rows. The page begins after ``after``: ``(created_at, key)`` of a row.
        """
        start = None if after is None else (-after[0], after[1])
        rows = (
            row
            for row in self._latest()
            if tag in {None, row.tag}
            and owner in {None, row.owner}
            and (start is None or (-row.created_at, row.key) > start)
        )
        return heapq.nsmallest(limit, rows, key=lambda row: (-row.created_at, row.key))

    def starting_with(self, prefix: str, limit: int) -> list[ArchiveRow]:
        """Return the latest rows of at most ``limit`` keys that begin with ``prefix``, by key."""
        return heapq.nsmallest(
            limit, (row for row in self._latest() if row.key.startswith(prefix)), key=lambda row: row.key
        )

    @property
    def unreadable(self) -> int:
        """The number of damages that the last query found."""
        return self._damages

    def _latest(self) -> Iterator[ArchiveRow]:
        self._damages = 0
        seen: set[str] = set()
        previous = [FIRST_PREVIOUS, *(each.sha256 for each in self._segments)]
        for info, before in reversed(list(zip(self._segments, previous, strict=False))):
            path = segment_path(self._directory, info.number)
            with guarded("read the archive", path):
                found = list(scan_segment(self._files, path, info, before))
            rows = [each.row for each in found if isinstance(each, PlacedRow)]
            self._damages += len(found) - len(rows)
            for row in reversed(rows):
                if row.key not in seen:
                    seen.add(row.key)
                    yield row
