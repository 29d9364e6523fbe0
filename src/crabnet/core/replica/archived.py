"""Archived seeds, which are not in memory. They come back into memory when a late fact concerns them (ADR 13)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Raw

from crabnet.core.replica.records import SegmentRow
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.domain.record import Record
from crabnet.domain.state import State

ReadRow = Callable[[str], bytes | None]
"""Returns the archived row of a seed that is not in memory, or None if there is none."""


def _nothing_archived(_: str) -> bytes | None:
    return None


class ArchivedSeeds:
    """The archive as a replica sees it. ``segments`` are the segments that the journal names."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.segments: list[SegmentRow] = []
        self.read_row: ReadRow = _nothing_archived

    def holds(self, seed_id: str) -> bool:
        """True if a seed is archived and not in memory."""
        return seed_id not in self._state.records and self.read_row(seed_id) is not None

    def peek(self, seed_id: str) -> Record | None:
        """The archived record of a seed, or None. The seed stays in the archive."""
        return next((record_of_row(decode_seed_row(row)) for row in self._rows((seed_id,))), None)

    def stored(self, seed_id: str) -> Record | None:
        """The record that the archive has of a seed, or None. A seed in memory may have another one by now."""
        row = self.read_row(seed_id)
        return None if row is None else record_of_row(decode_seed_row(row))

    def readmit(self, seed_ids: Iterable[str]) -> tuple[Raw, ...]:
        """Put the archived ones of these seeds back into memory. Returns their rows, for the journal."""
        rows = []
        for row in self._rows(seed_ids):
            self.readmit_row(row)
            rows.append(Raw(row))
        return tuple(rows)

    def readmit_row(self, row: bytes) -> None:
        """Put a seed back into memory from its row. Raises DataDirDamagedError."""
        seed = decode_seed_row(row)
        self._state.readmit(seed.seed_id, record_of_row(seed))

    def undo(self, seed_id: str, rows: tuple[Raw, ...]) -> None:
        """Undo ``readmit``: the seed stays archived, because nothing changed it."""
        if rows:
            self._state.evict(seed_id)

    def archive(self, segment: SegmentRow, seed_ids: Iterable[str]) -> None:
        """Remove seeds from memory that a durable segment holds."""
        self.segments.append(segment)
        for seed_id in seed_ids:
            self._state.evict(seed_id)

    def _rows(self, seed_ids: Iterable[str]) -> Iterator[bytes]:
        for seed_id in seed_ids:
            if seed_id in self._state.records or seed_id in self._state.erased or not seed_id:
                continue
            row = self.read_row(seed_id)
            if row is not None:
                yield row
