"""The journal's records: an envelope, and what was decided about it."""

from __future__ import annotations

from enum import StrEnum
from sys import intern
from typing import Final

import msgspec
from msgspec import Raw, Struct

from crabnet.domain.model import (
    EFFECTIVE,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Judgement,
    Progress,
    Run,
    Seed,
    Settlement,
    TaskResult,
    Verdict,
    share_ids,
)
from crabnet.domain.state import Outcome, SeedEvent
from crabnet.errors import DataDirDamagedError, Reason
from crabnet.protocol.envelope import FEED_KINDS, Envelope, Kind, shape
from crabnet.protocol.feed import ForkProof
from crabnet.protocol.payloads import PayloadRefusedError, fact_of


class Via(StrEnum):
    """How an envelope came here."""

    LOCAL = "local"
    LIVE = "live"
    SYNC = "sync"
    IMPORT = "import"


BODY_TYPES: Final[dict[FactKind, type[Seed | Bid | Claim | Run | TaskResult | Settlement]]] = {
    FactKind.SEED: Seed,
    FactKind.BID: Bid,
    FactKind.CLAIM: Claim,
    FactKind.STARTED: Run,
    FactKind.RESULT: TaskResult,
    FactKind.SETTLE: Settlement,
    FactKind.FORFEIT: Settlement,
    FactKind.CLOSE: Settlement,
}


class FactRow(Struct, frozen=True, array_like=True, gc=False):
    """A fact as stored where its envelope is not at hand, or does not say everything."""

    kind: FactKind
    author: str
    seq: int
    ts: int
    signed: bool
    body: Raw


class EventRow(Struct, frozen=True, array_like=True, gc=False):
    """A ``SeedEvent`` as stored. The added fact is that of the record's envelope."""

    seed_id: str
    adds: bool
    removed: tuple[str, ...]
    judgements: tuple[tuple[str, Judgement], ...]
    progress: Progress


class EnvelopeRecord(Struct, frozen=True, array_like=True, tag="envelope", gc=False):
    """One journalled envelope: ``at_s`` is when it was decided, ``cut`` the fork that it resolved in its favour."""

    raw: Raw
    at_s: int
    via: Via
    outcome: Outcome
    reason: Reason | None
    events: tuple[EventRow, ...]
    cut: ForkProof | None = None
    arrival: int = 0
    fact: FactRow | None = None
    thawed: tuple[Raw, ...] = ()
    """Rows of archived seeds that came back into memory for this decision."""
    asleep: str = ""
    """The object that its fact waits for outside memory: see ``WokenRecord``."""


class WokenRecord(Struct, frozen=True, array_like=True, tag="woken", gc=False):
    """What was decided about the fact of an earlier envelope, which had slept until what it waits for was known."""

    raw: Raw
    at_s: int
    outcome: Outcome
    reason: Reason | None
    events: tuple[EventRow, ...]
    thawed: tuple[Raw, ...] = ()
    asleep: str = ""
    """What it waits for now, if it sleeps on."""


class ForkRecord(Struct, frozen=True, array_like=True, tag="fork", gc=False):
    """Proof that an author signed two envelopes for one place: the one that does not stand."""

    raw: Raw
    at_s: int
    proof: ForkProof


class ProofRecord(Struct, frozen=True, array_like=True, tag="proof", gc=False):
    """A fork that was learned from somebody's proof, because it changes nothing here: ``raw`` is the document."""

    raw: Raw
    at_s: int
    author: str
    proof: ForkProof


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
    """The first two fields of any record: what it is, and for some its envelope."""

    tag: str
    raw: Raw


Record = EnvelopeRecord | ForkRecord | ProofRecord | ArchiveRecord | FactRecord | WokenRecord
_WITH_ENVELOPE: Final = frozenset({"envelope", "fork"})
_encode: Final = msgspec.json.Encoder().encode
_records: Final = msgspec.json.Decoder(list[Record])
_heads: Final = msgspec.json.Decoder(list[_RecordHead])
_values: Final = msgspec.json.Decoder(dict)
_BODIES: Final = {kind: msgspec.json.Decoder(body_type) for kind, body_type in BODY_TYPES.items()}


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
        raise DataDirDamagedError(
            f"a journal frame holds what this version cannot read: {error}; it was written by another version"
        ) from error


def envelopes_of_frame(payload: bytes) -> list[bytes]:
    """The envelope in each record of a frame, b"" where there is none. Raises DataDirDamagedError."""
    try:
        records = _heads.decode(payload)
    except msgspec.MsgspecError as error:
        raise DataDirDamagedError(f"a journal frame holds what this version cannot read: {error}") from error
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
    return FactRow(fact.kind, fact.author, fact.seq, fact.ts, fact.signed, Raw(_encode(fact.body)))


def fact_of_row(row: FactRow) -> Fact:
    """A stored fact."""
    body: Body = _BODIES[row.kind].decode(row.body)
    share_ids(body)
    return Fact(kind=row.kind, author=intern(row.author), seq=row.seq, ts=row.ts, body=body, signed=row.signed)


def envelope_of(record: EnvelopeRecord | ForkRecord | WokenRecord) -> Envelope:
    """The envelope of a record; its id and signature are not verified here."""
    return stored_envelope(bytes(record.raw))


def stored_envelope(raw: bytes) -> Envelope:
    """An envelope that was verified before it was journalled."""
    return shape(_values.decode(raw), raw)


def record_fact(record: EnvelopeRecord | WokenRecord, envelope: Envelope) -> Fact | None:
    """The fact that a record adds, None if it adds none."""
    if isinstance(record, EnvelopeRecord) and record.fact is not None:
        return fact_of_row(record.fact)
    if not any(event.adds for event in record.events):
        return None
    try:
        return fact_of(envelope, Kind(envelope.meta.kind))
    except PayloadRefusedError as error:
        raise DataDirDamagedError(f"journalled envelope {envelope.meta.id} states no fact: {error.detail}") from error


def seed_about(envelope: Envelope) -> str:
    """The seed that a signed feed envelope is about, whatever was decided about it; "" if it states no fact."""
    if envelope.meta.v is None or envelope.meta.kind not in FEED_KINDS:
        return ""
    try:
        return fact_of(envelope, Kind(envelope.meta.kind)).seed_id
    except PayloadRefusedError:
        return ""


def event_row(event: SeedEvent) -> EventRow:
    """A decided change ready to be stored."""
    return EventRow(event.seed_id, event.fact is not None, event.removed, event.judgements, event.progress)


def event_of_row(row: EventRow, fact: Fact | None) -> SeedEvent:
    """A stored change."""
    judgements = tuple(
        (key, EFFECTIVE if judgement.verdict is Verdict.EFFECTIVE else judgement) for key, judgement in row.judgements
    )
    share_ids(row.progress)
    return SeedEvent(intern(row.seed_id), fact if row.adds else None, row.removed, judgements, row.progress)
