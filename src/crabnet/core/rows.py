"""One seed as a row: in checkpoints, in the archive, and in the journal when it comes back from there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.core.records import FactRow, fact_of_row, fact_row
from crabnet.domain.lifecycle import Entry, Record
from crabnet.domain.model import EFFECTIVE, FactKind, Judgement, Progress, Verdict, share_ids
from crabnet.errors import DataDirDamagedError

_encode: Final = msgspec.json.Encoder().encode


class EntryRow(Struct, frozen=True, array_like=True, gc=False):
    """A fact and its judgement."""

    fact: FactRow
    judgement: Judgement


class SeedRow(Struct, frozen=True, array_like=True, tag="seed", gc=False):
    """One seed."""

    seed_id: str
    progress: Progress
    entries: tuple[EntryRow, ...]


SEED_ROW_BYTES_MAX: Final = min(limits.CHECKPOINT_ROW_BYTES_MAX, limits.FRAME_BYTES_MAX) // 8
"""A seed with more to it has several rows in a checkpoint, and never leaves memory for the archive."""
_seed_rows: Final = msgspec.json.Decoder(SeedRow)


def seed_row(seed_id: str, record: Record) -> bytes:
    """The row of one seed."""
    return _encode(SeedRow(seed_id, record.progress, tuple(_entries(record))))


def _entries(record: Record) -> Iterator[EntryRow]:
    if record.seed is not None:
        yield EntryRow(fact_row(record.seed), EFFECTIVE)
    for entry in (*record.bids, *record.others):
        yield EntryRow(fact_row(entry.fact), entry.judgement)


def seed_rows(seed_id: str, record: Record) -> Iterator[bytes]:
    """The rows of one seed: one, or as many as it takes to keep each well within the bounds of a checkpoint's row."""
    row = seed_row(seed_id, record)
    if len(row) <= SEED_ROW_BYTES_MAX:
        yield row
        return
    entries: list[EntryRow] = []
    size = 0
    for entry in _entries(record):
        entry_bytes = len(_encode(entry))
        if entries and size + entry_bytes > SEED_ROW_BYTES_MAX:
            yield _encode(SeedRow(seed_id, record.progress, tuple(entries)))
            entries, size = [], 0
        entries.append(entry)
        size += entry_bytes
    yield _encode(SeedRow(seed_id, record.progress, tuple(entries)))


def joined(before: Record | None, record: Record) -> Record:
    """The record of a seed after one more of its rows."""
    if before is None:
        return record
    return Record(before.seed, before.bids + record.bids, before.others + record.others, record.progress)


def record_of_row(row: SeedRow) -> Record:
    """The record of a row, as it was judged then."""
    seed = None
    bids: list[Entry] = []
    others: list[Entry] = []
    for item in row.entries:
        fact = fact_of_row(item.fact)
        effective = item.judgement.verdict is Verdict.EFFECTIVE
        entry = Entry(fact, EFFECTIVE if effective else item.judgement)
        if fact.kind is FactKind.SEED:
            seed = fact
        elif fact.kind is FactKind.BID:
            bids.append(entry)
        else:
            others.append(entry)
    share_ids(row.progress)
    return Record(seed, tuple(bids), tuple(others), row.progress)


def decode_seed_row(data: bytes) -> SeedRow:
    """A stored row. Raises DataDirDamagedError for what no version wrote."""
    try:
        return _seed_rows.decode(data)
    except msgspec.MsgspecError as error:
        raise DataDirDamagedError(f"a stored seed cannot be read: {error}") from error
