"""Checks journalled envelopes again: id, signature, place in the feed, and whether the record matches them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.replica.records import EnvelopeRecord, ForkRecord, envelope_of, record_fact
from crabnet.errors import DataDirDamagedError
from crabnet.limits import ENVELOPE_BYTES_MAX
from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted
from crabnet.protocol.canonical import parse_object
from crabnet.protocol.envelope import EnvelopeMeta, shape
from crabnet.protocol.feed import Feeds, Place
from crabnet.protocol.replay import SeenWindow

_ENVELOPE_START: Final = b'{"meta":{'
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_ID: Final = re.compile(rb'"id":"([0-9a-f]{64})"')
_ID_BYTES: Final = 32
_ANY_AGE_S: Final = 2**62


def any_age_policy(namespace: str) -> AdmissionPolicy:
    """A policy that accepts every valid envelope, whatever its age."""
    return AdmissionPolicy(namespace, require_signatures=False, message_ttl_s=_ANY_AGE_S, future_skew_s=_ANY_AGE_S)


def any_age_admission(namespace: str) -> Admission:
    """Verifies envelopes like those from the network, except for their age: journalled envelopes may be old."""
    return Admission(any_age_policy(namespace), SeenWindow(ttl_s=0, capacity=0))


class FeedChain(Struct, frozen=True):
    """An author's feed in the journal, up to its head. ``whole``: nothing in it is wrong or missing."""

    author: str
    seq: int
    id: str
    whole: bool
    end: int
    """The place for which the author signed two envelopes. The feed ends before it. 0 if there is none."""


class EnvelopeChecker:
    """Follows every feed of a namespace from its beginning and says what is wrong with each record."""

    def __init__(self, namespace: str) -> None:
        self.feeds = Feeds()
        self.signed = 0
        self.unsigned = 0
        self._admission = any_age_admission(namespace)
        self._broken: set[str] = set()
        self._holes = 0
        self._holes_known: dict[str, int] = {}
        self._ids: dict[str, bytearray] = {}
        self._behind: set[bytes] = set()
        self._evidence: tuple[str, int, str] = ("", 0, "")
        self.feeds.lookup = self._lookup

    def _lookup(self, author: str, seq: int) -> str | None:
        """The id at any place of a feed. 32 bytes are kept for each."""
        entry = self._ids.get(author, b"")[(seq - 1) * _ID_BYTES : seq * _ID_BYTES]
        return entry.hex() if any(entry) else None

    def _advance(self, meta: EnvelopeMeta, *, sound: bool = True) -> None:
        self.feeds.advance(meta.from_, meta.seq, meta.id)
        ids = self._ids.setdefault(meta.from_, bytearray())
        at = (meta.seq - 1) * _ID_BYTES
        if at <= len(ids):
            ids[at : at + _ID_BYTES] = bytes.fromhex(meta.id) if sound else bytes(_ID_BYTES)

    def holds(self, author: str, seq: int, envelope_id: str) -> bool:
        """True if this valid envelope was found at its place, or if it may be in an unreadable part."""
        known = self._lookup(author, seq) == envelope_id or bytes.fromhex(envelope_id) in self._behind
        return known or bool(self._holes)

    def skip(self) -> None:
        """Note that a part of the journal could not be read, so every feed may continue at a later place."""
        self._holes += 1

    def chains(self) -> list[FeedChain]:
        """The feed of each author as far as it was found, by author."""
        return [
            FeedChain(feed.author, feed.head_seq, feed.head_id, feed.author not in self._broken, feed.end)
            for feed in sorted(self.feeds.all(), key=lambda feed: feed.author)
            if feed.head_seq or feed.end
        ]

    def check(self, record: EnvelopeRecord | ForkRecord) -> tuple[str, str]:
        """(envelope id, what is wrong with it or "")."""
        envelope_id, wrong, author = self._check(record)
        if wrong and author:
            self._broken.add(author)
        return envelope_id, wrong

    def _check(self, record: EnvelopeRecord | ForkRecord) -> tuple[str, str, str]:
        """(envelope id, what is wrong with it or "", the author whose feed is broken by it)."""
        raw = bytes(record.raw)
        admitted = self._admission.admit(raw, record.at_s)
        if not isinstance(admitted, Admitted):
            meta = admitted.meta
            wrong = f"{admitted.reason.value}: {admitted.detail}"
            if meta is None:
                return "", wrong, ""
            if meta.v is not None and meta.seq and isinstance(record, EnvelopeRecord) and not record.behind:
                self._advance(meta, sound=False)
            return meta.id, wrong, meta.from_
        meta = admitted.envelope.meta
        if admitted.envelope.raw != raw:
            return meta.id, "it is not in canonical form", meta.from_
        if meta.v is None:
            self.unsigned += 1
            return meta.id, self._unsigned(record), ""
        self.signed += 1
        if isinstance(record, ForkRecord):
            return meta.id, self._fork(record, meta), ""
        return meta.id, self._place(record, meta) or _content(record), meta.from_

    def _unsigned(self, record: EnvelopeRecord | ForkRecord) -> str:
        if isinstance(record, ForkRecord):
            return "an unsigned envelope proves no fork"
        if record.fact is not None and record.fact.signed:
            return "the record says that an unsigned envelope is signed"
        return ""

    def _place(self, record: EnvelopeRecord, meta: EnvelopeMeta) -> str:
        feed = self.feeds.get(meta.from_)
        place = self.feeds.place(meta.from_, meta.seq, meta.id, meta.prev)
        if record.behind:
            if place is not Place.BEHIND:
                return f"the journal proves no end of its feed before seq {meta.seq}"
            self._behind.add(bytes.fromhex(meta.id))
            return ""
        wrong = ""
        if place is not Place.NEXT:
            self._broken.add(meta.from_)
        excused = self._holes > self._holes_known.get(meta.from_, 0)
        self._holes_known[meta.from_] = self._holes
        if place is not Place.NEXT and not (excused and place is not Place.DUPLICATE):
            wrong = f"seq {meta.seq} does not follow the feed, which the journal holds up to seq {feed.head_seq}"
            if place in {Place.DUPLICATE, Place.BEHIND}:
                return wrong
        self._advance(meta)
        return wrong

    def _fork(self, record: ForkRecord, meta: EnvelopeMeta) -> str:
        """Two envelopes for one place end a feed: this one, and the one before it in the journal or in the feed."""
        before, self._evidence = self._evidence, (meta.from_, meta.seq, meta.id)
        if record.head_id is None:
            return ""
        held = self.feeds.id_at(meta.from_, meta.seq)
        if before[:2] != (meta.from_, meta.seq) and held in {None, meta.id} and not self._holes:
            return f"it proves no fork at seq {meta.seq}"
        self.feeds.end_at(meta.from_, meta.seq, record.head_id)
        expected = self.feeds.id_at(meta.from_, meta.seq - 1)
        if expected is not None and self.feeds.get(meta.from_).head_id != expected and not self._holes:
            return f"the entry before it is {expected}, but the record says {record.head_id}"
        return ""


def _content(record: EnvelopeRecord) -> str:
    """The contradiction between a signed envelope and the changes that its record makes, or ""."""
    if record.fact is not None:
        return "the record replaces the fact of its signed envelope by another one"
    try:
        fact = record_fact(record, envelope_of(record))
    except DataDirDamagedError as error:
        return error.message
    for event in record.events:
        if event.adds and fact is not None and event.seed_id != fact.seed_id:
            return f"the record adds its fact to seed {event.seed_id}, but the fact is about seed {fact.seed_id}"
    return ""


def sound_envelopes(data: bytes, admission: Admission) -> Iterator[tuple[int, bytes]]:
    """(index, bytes) of the complete and valid signed feed envelopes inside damaged bytes."""
    at = data.find(_ENVELOPE_START)
    while at >= 0:
        end = _object_end(data, at)
        raw = data[at:end] if end else b""
        admitted = admission.admit(raw, 0) if raw else None
        if isinstance(admitted, Admitted) and admitted.envelope.signed and admitted.envelope.meta.seq:
            yield at, raw
        else:
            end = 0
        at = data.find(_ENVELOPE_START, end or at + 1)


def broken_envelopes(data: bytes, admission: Admission) -> list[tuple[int, str]]:
    """(index, id) of the envelopes that can be recognised in damaged bytes, but are invalid or cut."""
    found: list[tuple[int, str]] = []
    at = data.find(_ENVELOPE_START)
    while at >= 0:
        end = _object_end(data, at)
        following = data.find(_ENVELOPE_START, at + 1)
        raw = data[at:end] if end else b""
        if not isinstance(admission.admit(raw, 0), Admitted):
            match = _ID.search(data, at, end or (following if following >= 0 else len(data)))
            found.append((at, match[1].decode() if match else ""))
        at = data.find(_ENVELOPE_START, end) if end else following
    return found


def _object_end(data: bytes, start: int) -> int:
    """The index after the JSON object that starts at ``start``; 0 if it does not end."""
    depth = 0
    for match in _TOKEN.finditer(data, start, start + ENVELOPE_BYTES_MAX):
        token = match[0]
        if token == b"{":
            depth += 1
        elif token == b"}":
            depth -= 1
            if depth == 0:
                return match.end()
    return 0


def meta_of(raw: bytes) -> EnvelopeMeta | None:
    """The ``meta`` part of an envelope; None for bytes that are not an envelope."""
    try:
        value, canonical = parse_object(raw)
        return shape(value, canonical).meta
    except (ValueError, msgspec.ValidationError):
        return None
