"""One seed as a row: in checkpoints, in the archive, and in the journal when it comes back from there."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.records import FactRow, fact_of_row, fact_row
from crabnet.domain.lifecycle import Entry, Record
from crabnet.domain.model import EFFECTIVE, FactKind, Judgement, Progress, Verdict
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


_seed_rows: Final = msgspec.json.Decoder(SeedRow)


def seed_row(seed_id: str, record: Record) -> bytes:
    """The row of one seed."""
    entries = [] if record.seed is None else [EntryRow(fact_row(record.seed), EFFECTIVE)]
    entries += [EntryRow(fact_row(entry.fact), entry.judgement) for entry in (*record.bids, *record.others)]
    return _encode(SeedRow(seed_id, record.progress, tuple(entries)))


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
    return Record(seed, tuple(bids), tuple(others), row.progress)


def decode_seed_row(data: bytes) -> SeedRow:
    """A stored row. Raises DataDirDamagedError for what no version wrote."""
    try:
        return _seed_rows.decode(data)
    except msgspec.MsgspecError as error:
        raise DataDirDamagedError(f"a stored seed cannot be read: {error}") from error
