"""The decisions in the journal: one at a time for tools, and in pages for the operation ``seed.trail``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from crabnet import limits
from crabnet.core.replica.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    PurchaseRecord,
    Record,
    RefoldRecord,
    RequestRecord,
    SettledRecord,
    Via,
    decode_frame,
    envelope_of,
    fact_of_row,
    is_frame_of_records,
    record_fact,
)
from crabnet.domain.model import Fact, FactKind
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, UsageError
from crabnet.operations.history import Decision, Trail, TrailRequest
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind
from crabnet.protocol.payloads import PayloadRefusedError, fact_of
from crabnet.storage.files import Files, guarded
from crabnet.storage.journal.segment import Frame
from crabnet.storage.journal.walk import Hole, Segment, walk_journal
from crabnet.storage.layout import Layout, list_segments

DECISIVE: Final = frozenset({FactKind.CLAIM, FactKind.RESULT, FactKind.SETTLE, FactKind.FORFEIT, FactKind.CLOSE})
"""The kinds that the log shows by default: those that decide about a reward."""
REFOLD: Final = "refold"
"""The kind of a row that shows how the end of a feed has changed a seed."""
_KINDS: Final = {kind.value: kind for kind in Kind if kind.value}


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Selects the decisions to show. ``kinds`` None means ``DECISIVE``, and an empty set means all kinds."""

    seed_id: str | None = None
    since_s: int = 0
    after_lsn: int = 0
    kinds: frozenset[str] | None = None

    def wants(self, row: Decision) -> bool:
        """Whether to show a decision."""
        if row.lsn <= self.after_lsn or row.at_s < self.since_s:
            return False
        if self.seed_id is not None and row.seed_id != self.seed_id:
            return False
        kinds = frozenset({REFOLD, *(each.value for each in DECISIVE)}) if self.kinds is None else self.kinds
        return not kinds or row.kind in kinds


def read_log(files: Files, data_dir: Path, wanted: LogFilter, *, until_lsn: int | None = None) -> Iterator[Decision]:
    """The journalled decisions that ``wanted`` wants, in order, up to frame ``until_lsn``.

    Raises DataDirDamagedError at the first damage, StorageFailedError if reading fails, UsageError without a journal.
    """
    for frame in frames_after(files, data_dir, wanted.after_lsn, until_lsn=until_lsn):
        yield from (row for row in decisions_in(frame, wanted.seed_id) if wanted.wants(row))


def read_trail(files: Files, data_dir: Path, given: TrailRequest, until_lsn: int) -> Trail:
    """A page of the decisions about a task, up to frame ``until_lsn``. Blocks on the disk.

    It reads at most TRAIL_BYTES_MAX bytes of the journal. Raises as ``read_log`` does.
    """
    rows: list[Decision] = []
    size, lsn = 0, given.after_lsn
    for frame in frames_after(files, data_dir, given.after_lsn, until_lsn=until_lsn):
        if len(rows) >= given.limit or size >= limits.TRAIL_BYTES_MAX:
            return Trail(decisions=rows, next_lsn=lsn)
        rows += decisions_in(frame, given.seed_id)
        size, lsn = size + len(frame.payload), frame.lsn
    return Trail(decisions=rows, next_lsn=None)


def frames_after(files: Files, data_dir: Path, after_lsn: int, *, until_lsn: int | None) -> Iterator[Frame]:
    """The frames after ``after_lsn`` up to ``until_lsn``, in order. Raises as ``read_log`` does."""
    layout = Layout(data_dir)
    with guarded("read the data dir", data_dir):
        if not list_segments(files, layout):
            raise UsageError(f"there is no journal in {data_dir}", Reason.INVALID_ARGUMENT)
    expected = 0
    for item in walk_journal(files, layout, is_frame_of_records, after_lsn=after_lsn):
        if isinstance(item, Segment):
            continue
        if isinstance(item, Hole):
            if until_lsn is not None and item.after_lsn >= until_lsn:
                return
            raise DataDirDamagedError(
                f"{item.path}, offset {item.offset}: {item.detail}; run `crabnet audit verify` to see all damage"
            )
        if until_lsn is not None and item.lsn > until_lsn:
            return
        if expected and item.lsn != expected:
            raise DataDirDamagedError(f"frames {expected} to {item.lsn - 1} are missing; run `crabnet audit verify`")
        expected = item.lsn + 1
        if item.lsn > after_lsn:
            yield item


def decisions_in(frame: Frame, seed_id: str | None = None) -> Iterator[Decision]:
    """The decisions of a frame. With ``seed_id`` only those about that seed.

    Records are JSON, so a frame about a seed contains its id as text.
    """
    if seed_id is not None and seed_id.encode(errors="replace") not in frame.payload:
        return
    for record in decode_frame(frame.payload):
        row = _decision(record, frame.lsn)
        if row is not None and seed_id in {None, row.seed_id}:
            yield row


def _decision(record: Record, lsn: int) -> Decision | None:
    """The decision in a record; None for a record without one."""
    if isinstance(record, RefoldRecord):
        return _refolded(record, lsn)
    if isinstance(record, ArchiveRecord | PurchaseRecord | SettledRecord | RequestRecord):
        return None
    meta: EnvelopeMeta | None = None
    if isinstance(record, FactRecord):
        fact: Fact | None = fact_of_row(record.fact)
    else:
        envelope = envelope_of(record)
        meta, fact = envelope.meta, _fact(record, envelope)
    decision, reason, status = "rejected", str(Reason.FORK.value), ""
    if isinstance(record, EnvelopeRecord | FactRecord):
        decision, reason = record.outcome.value, "" if record.reason is None else record.reason.value
        seed_id = "" if fact is None else fact.seed_id
        status = next((e.progress.status.value for e in reversed(record.events) if e.seed_id == seed_id), "")
    return Decision(
        lsn=lsn,
        at_s=record.at_s,
        at=_utc(record.at_s),
        kind=fact.kind.value if fact is not None else "" if meta is None else meta.kind,
        author=meta.from_ if meta is not None else "" if fact is None else fact.author,
        seed_id=None if fact is None else fact.seed_id,
        object_id=None if fact is None else fact.key,
        envelope_id=None if meta is None else meta.id,
        seq=None if meta is None else meta.seq or None,
        ts=meta.ts if meta is not None else 0 if fact is None else fact.ts,
        via=_via(record),
        signed=meta is not None and meta.v is not None,
        decision=decision,
        reason=reason or None,
        status=status or None,
    )


def _refolded(record: RefoldRecord, lsn: int) -> Decision | None:
    """A seed that the end of a feed has changed. None for all but the last part, or without a change."""
    if not record.done or not record.events:
        return None
    event = record.events[-1]
    return Decision(
        lsn=lsn,
        at_s=record.at_s,
        at=_utc(record.at_s),
        kind=REFOLD,
        author="",
        seed_id=event.seed_id,
        object_id=None,
        envelope_id=None,
        seq=None,
        ts=record.at_s,
        via=None,
        signed=True,
        decision=Outcome.ACCEPTED.value,
        reason=None,
        status=event.progress.status.value,
    )


def _via(record: EnvelopeRecord | ForkRecord | FactRecord) -> str | None:
    if isinstance(record, EnvelopeRecord):
        return record.via.value
    return Via.IMPORT.value if isinstance(record, FactRecord) else None


def _utc(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"@{at_s}"


def _fact(record: EnvelopeRecord | ForkRecord, envelope: Envelope) -> Fact | None:
    """The fact of an envelope, also if the envelope was refused."""
    try:
        if isinstance(record, EnvelopeRecord) and (record.fact is not None or any(e.adds for e in record.events)):
            return record_fact(record, envelope)
        kind = _KINDS.get(envelope.meta.kind)
        return None if kind is None or envelope.meta.v is None else fact_of(envelope, kind)
    except (CrabnetError, PayloadRefusedError, KeyError, msgspec.MsgspecError):
        return None
