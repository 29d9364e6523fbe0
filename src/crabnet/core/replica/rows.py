"""A seed as a row: in checkpoints, in the archive, and in the journal when it comes back from the archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.core.replica.records import FactRow, fact_of_row, fact_row, other_version
from crabnet.domain.model import Fact, Progress, share_ids
from crabnet.domain.record import Record
from crabnet.domain.state import assembled

_encode: Final = msgspec.json.Encoder().encode


class SeedRow(Struct, frozen=True, array_like=True, tag="seed", gc=False):
    """One seed, or a part of a large one."""

    seed_id: str
    progress: Progress
    facts: tuple[FactRow, ...]
    fallen: tuple[FactRow, ...] = ()


SEED_ROW_BYTES_MAX: Final = min(limits.CHECKPOINT_ROW_BYTES_MAX, limits.FRAME_BYTES_MAX) // 8
"""A larger seed has several rows in a checkpoint and is never moved from memory to the archive."""
_seed_rows: Final = msgspec.json.Decoder(SeedRow)


def seed_row(seed_id: str, record: Record) -> bytes:
    """The row of one seed."""
    facts, fallen = map(fact_row, record.facts()), map(fact_row, record.fallen)
    return _encode(SeedRow(seed_id, record.progress, tuple(facts), tuple(fallen)))


def seed_rows(seed_id: str, record: Record) -> Iterator[bytes]:
    """The rows of one seed: one, or several so that each is well within the bounds of a checkpoint's row."""
    row = seed_row(seed_id, record)
    if len(row) <= SEED_ROW_BYTES_MAX:
        yield row
        return
    for part in _parts(record.facts()):
        yield _encode(SeedRow(seed_id, record.progress, part))
    for part in _parts(record.fallen):
        yield _encode(SeedRow(seed_id, record.progress, (), part))


def _parts(facts: Iterable[Fact]) -> Iterator[tuple[FactRow, ...]]:
    part: list[FactRow] = []
    size = 0
    for row in map(fact_row, facts):
        row_bytes = len(_encode(row))
        if part and size + row_bytes > SEED_ROW_BYTES_MAX:
            yield tuple(part)
            part, size = [], 0
        part.append(row)
        size += row_bytes
    if part:
        yield tuple(part)


def joined(before: Record | None, record: Record) -> Record:
    """The record of a seed after adding one more of its rows."""
    if before is None:
        return record
    facts, fallen = (*before.facts(), *record.facts()), (*before.fallen, *record.fallen)
    return assembled(facts, record.progress, fallen)


def record_of_row(row: SeedRow) -> Record:
    """The record of a row."""
    share_ids(row.progress)
    return assembled(map(fact_of_row, row.facts), row.progress, map(fact_of_row, row.fallen))


def decode_seed_row(data: bytes) -> SeedRow:
    """Decode a stored row. Raises DataDirDamagedError if this version cannot read it."""
    try:
        return _seed_rows.decode(data)
    except msgspec.MsgspecError as error:
        raise other_version("the row of a seed holds", error) from error
