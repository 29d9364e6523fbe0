"""The archive for the audit: checks every segment, and gives the seeds that count for the state hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from crabnet.core.replica.records import SegmentRow
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.domain.record import Record
from crabnet.storage.archive.archive import SegmentInfo, verify_archive
from crabnet.storage.archive.segment import FIRST_PREVIOUS, PlacedRow, scan_segment, segment_path
from crabnet.storage.files import Files, guarded
from crabnet.storage.journal.survey import Damage

_DIRECTORY: Final = "archive"


def archive_damages(files: Files, data_dir: Path, segments: Sequence[SegmentRow]) -> Iterator[Damage]:
    """All damages of the segments that the journal names. Raises StorageFailedError."""
    return verify_archive(files, data_dir, [SegmentInfo(each.number, each.sha256, each.rows) for each in segments])


def archived_seeds(
    files: Files, data_dir: Path, segments: Sequence[SegmentRow], stale: Callable[[str], bool]
) -> Iterator[tuple[str, Record]]:
    """The seeds that are only in the archive, each as it was last archived. ``stale`` says which were restored since.

    Damaged seeds are left out. Raises StorageFailedError, DataDirDamagedError.
    """
    newer: set[str] = set()
    previous = [FIRST_PREVIOUS, *(each.sha256 for each in segments)]
    for segment, before in reversed(list(zip(segments, previous, strict=False))):
        path = segment_path(data_dir / _DIRECTORY, segment.number)
        with guarded("read the archive", path):
            info = SegmentInfo(segment.number, segment.sha256, segment.rows)
            for placed in scan_segment(files, path, info, before):
                if isinstance(placed, PlacedRow) and placed.row.key not in newer and not stale(placed.row.key):
                    yield placed.row.key, record_of_row(decode_seed_row(placed.row.data))
                    newer.add(placed.row.key)


def archived_only(files: Files, data_dir: Path, replica: Replica) -> Iterator[tuple[str, Record]]:
    """The seeds of a replica that are in the archive but not in memory. Raises the errors of ``archived_seeds``."""
    records, erased = replica.state.records, replica.state.erased
    return archived_seeds(files, data_dir, replica.archived.segments, lambda key: key in records or key in erased)
