"""The records of the journal: envelopes with the decisions on them (docs/STORAGE.md)."""

from __future__ import annotations

from enum import StrEnum
from sys import intern
from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from crabnet.core.replica.held import HeldRow, Role
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    Settlement,
    TaskResult,
    share_ids,
)
from crabnet.domain.prefixes import shortened
from crabnet.domain.state import Outcome, SeedEvent
from crabnet.errors import DataDirDamagedError, Reason
from crabnet.market.policies import Terms
from crabnet.protocol.envelope import FEED_KINDS, Envelope, Kind, shape
from crabnet.protocol.payloads import PayloadRefusedError, Stated, fact_of


class Via(StrEnum):
    """How an envelope arrived at this node."""

    LOCAL = "local"
    LIVE = "live"
    SYNC = "sync"
    IMPORT = "import"


NO_ANSWER: Final = Raw(b"null")
BODY_TYPES: Final[dict[FactKind, type[Stated | Settlement]]] = {
    FactKind.SEED: Seed,
    FactKind.BID: Bid,
    FactKind.CLAIM: Claim,
    FactKind.STARTED: Run,
    FactKind.RESULT: TaskResult,
    FactKind.SETTLE: Settlement,
    FactKind.FORFEIT: Settlement,
    FactKind.CLOSE: Settlement,
    FactKind.ACKNOWLEDGED: Acknowledgement,
}


class FactRow(Struct, frozen=True, array_like=True, gc=False):
    """A stored fact, used where its envelope is not stored with it or does not contain everything."""

    kind: FactKind
    author: str
    seq: int
    ts: int
    signed: bool
    body: Raw
    envelope: str = ""


class EventRow(Struct, frozen=True, array_like=True, gc=False):
    """A stored ``SeedEvent``. ``adds`` says that it adds the fact of the record's envelope.

    ``removed`` and ``returned`` name facts by their short form from ``prefixes.shortened``, among the facts that
    counted or had fallen before.
    """

    seed_id: str
    adds: bool
    removed: tuple[str, ...]
    progress: Progress
    added: tuple[FactRow, ...] = ()
    returned: tuple[str, ...] = ()


class EnvelopeRecord(Struct, frozen=True, array_like=True, tag="envelope", gc=False):
    """One journalled envelope. ``at_s`` is the time of the decision in seconds.

    ``behind``: it lies behind the end of its feed and is held because others rest on it. ``pins``: it needed a fold,
    because it pins facts behind an end. A ``RefoldRecord`` then holds the consequences.
    """

    raw: Raw
    at_s: int
    via: Via
    outcome: Outcome
    reason: Reason | None
    events: tuple[EventRow, ...]
    behind: bool = False
    pins: bool = False
    role: Role = Role.NEVER
    arrival: int = 0
    fact: FactRow | None = None
    readmitted: tuple[Raw, ...] = ()
    """Rows of archived seeds that came back into memory for this decision."""


class ForkRecord(Struct, frozen=True, array_like=True, tag="fork", gc=False):
    """One of two envelopes for the same place.

    ``head_id`` is the id of the entry before. It is None for mere evidence, which the next record completes.
    """

    raw: Raw
    at_s: int
    head_id: str | None


class RefoldRecord(Struct, frozen=True, array_like=True, tag="refold", gc=False):
    """The change of a seed by the end of a feed, or a part of it. ``done`` names the seed in the last part."""

    at_s: int
    done: tuple[str, ...]
    events: tuple[EventRow, ...]
    readmitted: tuple[Raw, ...] = ()


class SettledRecord(Struct, frozen=True, array_like=True, tag="settled", gc=False):
    """States that all consequences of the end of a feed at ``end`` are journalled."""

    at_s: int
    author: str
    end: int


class SegmentRow(Struct, frozen=True, array_like=True, gc=False):
    """A segment of the archive, as the journal names it."""

    number: int
    sha256: str
    rows: int


class ArchiveRecord(Struct, frozen=True, array_like=True, tag="archive", gc=False):
    """Seeds that were moved from memory to a segment of the archive."""

    segment: SegmentRow
    at_s: int
    seed_ids: tuple[str, ...]


class FactRecord(Struct, frozen=True, array_like=True, tag="fact", gc=False):
    """An unsigned fact of an imported baseline state, which has no envelope, and the decision on it."""

    fact: FactRow
    at_s: int
    outcome: Outcome
    reason: Reason | None
    events: tuple[EventRow, ...]


class RequestRecord(Struct, frozen=True, array_like=True, tag="request", gc=False):
    """A request with an id of its caller. ``digest`` stands for its content.

    It comes before the envelope with the id ``envelope_id`` about the seed ``seed_id`` that the request states, and
    again with the ``answer``. The ids are "" if it states none.
    """

    request_id: str
    operation: str
    digest: str
    at_s: int
    seed_id: str = ""
    envelope_id: str = ""
    answer: Raw = NO_ANSWER


class PurchaseRecord(Struct, frozen=True, array_like=True, tag="purchase", gc=False):
    """The terms of a seed of this node, from now on. None: the node does nothing more with it by itself."""

    seed_id: str
    terms: Terms | None


class _RecordHead(Struct, frozen=True, array_like=True, gc=False):
    """The first fields of any record: its kind, and for some kinds the envelope."""

    tag: str
    raw: Raw


Record = (
    EnvelopeRecord
    | ForkRecord
    | RefoldRecord
    | SettledRecord
    | ArchiveRecord
    | FactRecord
    | RequestRecord
    | PurchaseRecord
)
REFS_PER_PART: Final = 4_096
PART_BYTES: Final = 512 * 1024
_WITH_ENVELOPE: Final = frozenset({"envelope", "fork"})
_encode: Final = msgspec.json.Encoder().encode
_records: Final = msgspec.json.Decoder(list[Record])
_heads: Final = msgspec.json.Decoder(list[_RecordHead])
_values: Final = msgspec.json.Decoder(dict)
_BODIES: Final = {kind: msgspec.json.Decoder(body_type) for kind, body_type in BODY_TYPES.items()}


def other_version(what: str, error: Exception) -> DataDirDamagedError:
    """The error for bytes with a valid checksum that this version would not have written."""
    return DataDirDamagedError(
        f"{what} data that this version cannot read: {error}. Another version wrote it. Formats were not kept before"
        " the first release. Use this data dir with that version only, and begin a new one; nothing was changed",
        Reason.UNSUPPORTED_VERSION,
    )


def encode_record(record: Record) -> bytes:
    """A record as one line of JSON."""
    return _encode(record)


def frame_of(records: list[bytes]) -> bytes:
    """The payload of one frame."""
    return b"[" + b",".join(records) + b"]"


def decode_frame(payload: bytes) -> list[Record]:
    """The records of a frame. Raises DataDirDamagedError for bytes with a valid CRC that this version cannot read."""
    try:
        return _records.decode(payload)
    except msgspec.MsgspecError as error:
        raise other_version("a journal frame holds", error) from error


def envelopes_of_frame(payload: bytes) -> list[bytes]:
    """The envelope in each record of a frame, b"" where there is none. Raises DataDirDamagedError."""
    try:
        records = _heads.decode(payload)
    except msgspec.MsgspecError as error:
        raise other_version("a journal frame holds", error) from error
    return [bytes(record.raw) if record.tag in _WITH_ENVELOPE else b"" for record in records]


def is_frame_of_records(payload: bytes) -> bool:
    """True if a payload holds records. Text of a peer cannot look like one: its quotes are escaped in a payload."""
    try:
        _records.decode(payload)
    except msgspec.MsgspecError:
        return False
    return True


def fact_row(fact: Fact) -> FactRow:
    """The row to store for a fact."""
    return FactRow(fact.kind, fact.author, fact.seq, fact.ts, fact.signed, Raw(_encode(fact.body)), fact.envelope)


def fact_of_row(row: FactRow) -> Fact:
    """The fact in a stored row."""
    body: Body = _BODIES[row.kind].decode(row.body)
    share_ids(body)
    return Fact(
        kind=row.kind,
        author=intern(row.author),
        seq=row.seq,
        ts=row.ts,
        body=body,
        signed=row.signed,
        envelope=intern(row.envelope),
    )


def envelope_of(record: EnvelopeRecord | ForkRecord) -> Envelope:
    """The envelope of a record. Its id and signature are not verified here."""
    return stored_envelope(bytes(record.raw))


def stored_envelope(raw: bytes) -> Envelope:
    """The envelope in journalled bytes, which were verified before."""
    return shape(_values.decode(raw), raw)


def stated_by(envelope: Envelope) -> Fact | None:
    """The fact that a signed feed envelope states, whatever the decision on it was. None if it states none."""
    if envelope.meta.v is None or envelope.meta.kind not in FEED_KINDS:
        return None
    try:
        fact = fact_of(envelope, Kind(envelope.meta.kind))
    except PayloadRefusedError:
        return None
    share_ids(fact.body)
    force_setattr(fact, "envelope", intern(fact.envelope))
    return fact


def record_fact(record: EnvelopeRecord, envelope: Envelope) -> Fact | None:
    """The fact that the envelope of a record states, or None.

    Raises DataDirDamagedError if the record adds a fact but the envelope states none.
    """
    fact = stated_by(envelope) if record.fact is None else fact_of_row(record.fact)
    if fact is None and any(event.adds for event in record.events):
        raise DataDirDamagedError(f"the journalled envelope {envelope.meta.id} states no fact, but its record adds one")
    return fact


def held_row(record: EnvelopeRecord, envelope: Envelope, fact: Fact | None) -> HeldRow:
    """The index row of the envelope of a record."""
    meta = envelope.meta
    if fact is None or record.role is Role.NOTHING:
        return HeldRow(meta.from_, meta.seq, meta.id)
    return HeldRow(meta.from_, meta.seq, meta.id, fact.seed_id, fact.kind, fact.rests_on, record.role)


def event_row(event: SeedEvent) -> EventRow:
    """The row to store for a decided change."""
    added = tuple([fact_row(fact) for fact in event.added])
    removed, returned = _short(event)
    return EventRow(event.seed_id, event.fact is not None, removed, event.progress, added, returned)


def event_rows(event: SeedEvent) -> list[EventRow]:
    """A change of any size, divided into parts that each fit a record."""
    parts: list[EventRow] = []
    removed, returned = _short(event)
    added: list[FactRow] = []
    size = 0
    facts = event.added if event.fact is None else (*event.added, event.fact)
    for at in range(0, max(len(removed), len(returned)), REFS_PER_PART):
        until = at + REFS_PER_PART
        parts.append(EventRow(event.seed_id, False, removed[at:until], event.progress, returned=returned[at:until]))
    for fact in facts:
        row = fact_row(fact)
        if added and size + len(row.body) > PART_BYTES:
            parts.append(EventRow(event.seed_id, False, (), event.progress, tuple(added)))
            added, size = [], 0
        added.append(row)
        size += len(row.body)
    if added or not parts:
        parts.append(EventRow(event.seed_id, False, (), event.progress, tuple(added)))
    return parts


def _short(event: SeedEvent) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the facts that an event removes and returns, as short as possible for the record before."""
    if event.decided is None or not (event.removed or event.returned):
        return event.removed, event.returned
    before = event.decided[0]
    among = [fact.ref for fact in (*before.facts(), *before.fallen)]
    return shortened(event.removed, among), shortened(event.returned, among)


def event_of_row(row: EventRow, fact: Fact | None) -> SeedEvent:
    """The change in a stored row."""
    share_ids(row.progress)
    added = tuple(fact_of_row(each) for each in row.added)
    return SeedEvent(intern(row.seed_id), fact if row.adds else None, row.removed, row.progress, added, row.returned)
