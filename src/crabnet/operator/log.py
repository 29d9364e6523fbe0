"""``crabnet audit log``: claims, results and settlements with author and time, and the decisions about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.replica.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    Record,
    RefoldRecord,
    RequestRecord,
    SettledRecord,
    Via,
    decode_frame,
    envelope_of,
    fact_of_row,
    record_fact,
)
from crabnet.domain.model import Fact, FactKind
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, UsageError
from crabnet.operator.frames import Hole, Segment, walk_journal
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind
from crabnet.protocol.payloads import PayloadRefusedError, fact_of
from crabnet.storage.files import Files, guarded
from crabnet.storage.layout import Layout, list_segments

DECISIVE: Final = frozenset({FactKind.CLAIM, FactKind.RESULT, FactKind.SETTLE, FactKind.FORFEIT, FactKind.CLOSE})
"""The kinds that the log shows by default: those that decide about a reward."""
REFOLD: Final = "refold"
"""The kind of a row that shows how the end of a feed has changed a seed."""
_KINDS: Final = {kind.value: kind for kind in Kind if kind.value}


class LogRow(Struct, frozen=True, kw_only=True):
    """One journalled decision. ``at_s`` is when this node decided, ``ts`` is the time by the author's clock.

    ``author`` is "" for a consequence of the end of a feed.
    """

    lsn: int
    at_s: int
    at: str
    kind: str
    author: str
    seed_id: str | None
    object_id: str | None
    envelope_id: str | None
    ts: int
    via: str | None
    signed: bool
    decision: str
    reason: str | None
    status: str | None


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Selects the rows to show. ``kinds`` None means ``DECISIVE``, and an empty set means all kinds."""

    seed_id: str | None = None
    since_s: int = 0
    after_lsn: int = 0
    kinds: frozenset[str] | None = None

    def wants(self, row: LogRow) -> bool:
        """Whether to show a row."""
        if row.lsn <= self.after_lsn or row.at_s < self.since_s:
            return False
        if self.seed_id is not None and row.seed_id != self.seed_id:
            return False
        kinds = frozenset({REFOLD, *(each.value for each in DECISIVE)}) if self.kinds is None else self.kinds
        return not kinds or row.kind in kinds


def read_log(files: Files, data_dir: Path, wanted: LogFilter, *, until_lsn: int | None = None) -> Iterator[LogRow]:
    """The journalled decisions that ``wanted`` wants, in order, up to frame ``until_lsn``.

    Raises DataDirDamagedError at the first damage, StorageFailedError if reading fails, UsageError without a journal.
    """
    layout = Layout(data_dir)
    with guarded("read the data dir", data_dir):
        if not list_segments(files, layout):
            raise UsageError(f"there is no journal in {data_dir}", Reason.INVALID_ARGUMENT)
    expected = 0
    for item in walk_journal(files, layout):
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
        for record in decode_frame(item.payload):
            row = log_row(record, item.lsn)
            if row is not None and wanted.wants(row):
                yield row


def newest(rows: Iterable[LogRow], limit: int) -> Iterator[LogRow]:
    """The last ``limit`` rows."""
    return iter(deque(rows, maxlen=limit))


def log_row(record: Record, lsn: int) -> LogRow | None:
    """The row of the log for a record; None for a record without a decision."""
    if isinstance(record, RefoldRecord):
        return _refold_row(record, lsn)
    if isinstance(record, ArchiveRecord | SettledRecord | RequestRecord):
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
    return LogRow(
        lsn=lsn,
        at_s=record.at_s,
        at=_utc(record.at_s),
        kind=fact.kind.value if fact is not None else "" if meta is None else meta.kind,
        author=meta.from_ if meta is not None else "" if fact is None else fact.author,
        seed_id=None if fact is None else fact.seed_id,
        object_id=None if fact is None else fact.key,
        envelope_id=None if meta is None else meta.id,
        ts=meta.ts if meta is not None else 0 if fact is None else fact.ts,
        via=_via(record),
        signed=meta is not None and meta.v is not None,
        decision=decision,
        reason=reason or None,
        status=status or None,
    )


def _refold_row(record: RefoldRecord, lsn: int) -> LogRow | None:
    """The row of a seed that the end of a feed has changed. None for all but the last part, or without a change."""
    if not record.done or not record.events:
        return None
    event = record.events[-1]
    return LogRow(
        lsn=lsn,
        at_s=record.at_s,
        at=_utc(record.at_s),
        kind=REFOLD,
        author="",
        seed_id=event.seed_id,
        object_id=None,
        envelope_id=None,
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


def describe_row(row: LogRow) -> str:
    """One line for people."""
    verdict = row.decision if row.reason is None else f"{row.decision} ({row.reason})"
    parts = [row.at, f"lsn={row.lsn}", row.kind, verdict]
    parts += [f"status={row.status}"] if row.status is not None else []
    parts += [f"seed={row.seed_id}"] if row.seed_id is not None else []
    parts += [f"id={row.object_id}"] if row.object_id not in {None, row.seed_id} else []
    parts += [f"by={row.author}"] if row.author else []
    parts += [f"envelope={row.envelope_id}"] if row.envelope_id is not None else []
    parts += [f"via={row.via}"] if row.via is not None else []
    return " ".join(parts if row.signed else [*parts, "unsigned"])
