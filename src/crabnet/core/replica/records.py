"""The journal's records: an envelope, and what was decided about it."""

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
from crabnet.protocol.envelope import FEED_KINDS, Envelope, Kind, shape
from crabnet.protocol.payloads import PayloadRefusedError, Stated, fact_of


class Via(StrEnum):
    """How an envelope came here."""

    LOCAL = "local"
    LIVE = "live"
    SYNC = "sync"
    IMPORT = "import"


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
    """A fact as stored where its envelope is not at hand, or does not say everything."""

    kind: FactKind
    author: str
    seq: int
    ts: int
    signed: bool
    body: Raw
    envelope: str = ""


class EventRow(Struct, frozen=True, array_like=True, gc=False):
    """A ``SeedEvent`` as stored. With ``adds`` the fact of the record's envelope is added. ``removed`` and ``returned``
    name facts as ``prefixes.shortened`` does, among those that counted or had fallen before.
    """

    seed_id: str
    adds: bool
    removed: tuple[str, ...]
    progress: Progress
    added: tuple[FactRow, ...] = ()
    returned: tuple[str, ...] = ()


class EnvelopeRecord(Struct, frozen=True, array_like=True, tag="envelope", gc=False):
    """One journalled envelope: ``at_s`` is when it was decided.

    ``behind``: it lies behind the end of its feed, and is held since others rest on it. ``pins``: it rests on such a
    one, and a ``RefoldRecord`` says what follows from that.
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
    """An envelope that is one of two for its place. ``head_id`` is the id of the entry before, None for mere evidence,
    which the next record completes.
    """

    raw: Raw
    at_s: int
    head_id: str | None


class RefoldRecord(Struct, frozen=True, array_like=True, tag="refold", gc=False):
    """What the end of a feed has changed about a seed, or a part of it; ``done`` names the seed in the last part."""

    at_s: int
    done: tuple[str, ...]
    events: tuple[EventRow, ...]
    readmitted: tuple[Raw, ...] = ()


class SettledRecord(Struct, frozen=True, array_like=True, tag="settled", gc=False):
    """All that the end of a feed at ``end`` changes is journalled."""

    at_s: int
    author: str
    end: int


class SegmentRow(Struct, frozen=True, array_like=True, gc=False):
    """A segment of the archive that the journal vouches for."""

    number: int
    sha256: str
    rows: int


class ArchiveRecord(Struct, frozen=True, array_like=True, tag="archive", gc=False):
    """Seeds that left memory for a segment of the archive."""

    segment: SegmentRow
    at_s: int
    seed_ids: tuple[str, ...]


class FactRecord(Struct, frozen=True, array_like=True, tag="fact", gc=False):
    """An unsigned fact of an imported baseline state, which has no envelope, and what was decided about it."""

    fact: FactRow
    at_s: int
    outcome: Outcome
    reason: Reason | None
    events: tuple[EventRow, ...]


class _RecordHead(Struct, frozen=True, array_like=True, gc=False):
    """The first fields of any record: what it is, and for some its envelope."""

    tag: str
    raw: Raw


Record = EnvelopeRecord | ForkRecord | RefoldRecord | SettledRecord | ArchiveRecord | FactRecord
REFS_PER_PART: Final = 4_096
PART_BYTES: Final = 512 * 1024
_WITH_ENVELOPE: Final = frozenset({"envelope", "fork"})
_encode: Final = msgspec.json.Encoder().encode
_records: Final = msgspec.json.Decoder(list[Record])
_heads: Final = msgspec.json.Decoder(list[_RecordHead])
_values: Final = msgspec.json.Decoder(dict)
_BODIES: Final = {kind: msgspec.json.Decoder(body_type) for kind, body_type in BODY_TYPES.items()}


def other_version(what: str, error: Exception) -> DataDirDamagedError:
    """For bytes whose checksum holds, but that this version would not have written."""
    return DataDirDamagedError(
        f"{what} what this version cannot read: {error}. Another version wrote it, and formats were not kept before the"
        " first release: leave the data dir to that version, and begin a new one; nothing was changed",
        Reason.UNSUPPORTED_VERSION,
    )


def encode_record(record: Record) -> bytes:
    """One line of JSON."""
    return _encode(record)


def frame_of(records: list[bytes]) -> bytes:
    """The payload of one frame."""
    return b"[" + b",".join(records) + b"]"


def decode_frame(payload: bytes) -> list[Record]:
    """The records of a frame. Raises DataDirDamagedError for bytes that the CRC vouches for but no version wrote."""
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
    """Whether a payload is one of ours. Text of strangers never is: inside a payload its quotes are escaped."""
    try:
        _records.decode(payload)
    except msgspec.MsgspecError:
        return False
    return True


def fact_row(fact: Fact) -> FactRow:
    """A fact ready to be stored."""
    return FactRow(fact.kind, fact.author, fact.seq, fact.ts, fact.signed, Raw(_encode(fact.body)), fact.envelope)


def fact_of_row(row: FactRow) -> Fact:
    """A stored fact."""
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
    """The envelope of a record; its id and signature are not verified here."""
    return stored_envelope(bytes(record.raw))


def stored_envelope(raw: bytes) -> Envelope:
    """An envelope that was verified before it was journalled."""
    return shape(_values.decode(raw), raw)


def stated_by(envelope: Envelope) -> Fact | None:
    """The fact that a signed feed envelope states, whatever was decided about it; None if it states none."""
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
    """The fact that the envelope of a record states. Raises DataDirDamagedError if it counts and is none."""
    fact = stated_by(envelope) if record.fact is None else fact_of_row(record.fact)
    if fact is None and any(event.adds for event in record.events):
        raise DataDirDamagedError(f"journalled envelope {envelope.meta.id} states no fact")
    return fact


def held_row(record: EnvelopeRecord, envelope: Envelope, fact: Fact | None) -> HeldRow:
    """What is to be known of the envelope of a record while it is not in memory."""
    meta = envelope.meta
    if fact is None or record.role is Role.NOTHING:
        return HeldRow(meta.from_, meta.seq, meta.id)
    return HeldRow(meta.from_, meta.seq, meta.id, fact.seed_id, fact.kind, fact.rests_on, record.role)


def event_row(event: SeedEvent) -> EventRow:
    """A decided change ready to be stored."""
    added = tuple([fact_row(fact) for fact in event.added])
    removed, returned = _short(event)
    return EventRow(event.seed_id, event.fact is not None, removed, event.progress, added, returned)


def event_rows(event: SeedEvent) -> list[EventRow]:
    """A change of any size in parts, each of which fits a record."""
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
    """What an event takes away and what it brings back, by names as short as what was decided on allows."""
    if event.decided is None or not (event.removed or event.returned):
        return event.removed, event.returned
    before = event.decided[0]
    among = [fact.ref for fact in (*before.facts(), *before.fallen)]
    return shortened(event.removed, among), shortened(event.returned, among)


def event_of_row(row: EventRow, fact: Fact | None) -> SeedEvent:
    """A stored change."""
    share_ids(row.progress)
    added = tuple(fact_of_row(each) for each in row.added)
    return SeedEvent(intern(row.seed_id), fact if row.adds else None, row.removed, row.progress, added, row.returned)
