"""Checking journalled envelopes anew: id, signature, place in the feed, and that the record says what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.records import EnvelopeRecord, ForkRecord, ProofRecord, WokenRecord, envelope_of, record_fact
from crabnet.errors import DataDirDamagedError
from crabnet.limits import ENVELOPE_BYTES_MAX
from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted
from crabnet.protocol.canonical import parse_object
from crabnet.protocol.envelope import EnvelopeMeta, shape
from crabnet.protocol.feed import Feeds, Place
from crabnet.protocol.fork_proof import ProofRefusedError, verify_proof
from crabnet.protocol.replay import SeenWindow

_ENVELOPE_START: Final = b'{"meta":{'
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_ID: Final = re.compile(rb'"id":"([0-9a-f]{64})"')
_ANY_AGE_S: Final = 2**62


def any_age_policy(namespace: str) -> AdmissionPolicy:
    """What lets in everything that is sound, whenever it was made."""
    return AdmissionPolicy(namespace, require_signatures=False, message_ttl_s=_ANY_AGE_S, future_skew_s=_ANY_AGE_S)


def any_age_admission(namespace: str) -> Admission:
    """The verification of envelopes from the network but for their age: what is journalled may be old."""
    return Admission(any_age_policy(namespace), SeenWindow(ttl_s=0, capacity=0))


class FeedChain(Struct, frozen=True):
    """An author's feed as the journal holds it: up to its head, ``whole`` if nothing in it is wrong or missing."""

    author: str
    seq: int
    id: str
    whole: bool
    forks: int
    """Proofs that the author signed two envelopes for one place."""


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

    def skip(self) -> None:
        """A part of the journal could not be read: every feed may go on at a later place."""
        self._holes += 1

    def chains(self) -> list[FeedChain]:
        """What was found of each author's feed, by author."""
        return [
            FeedChain(feed.author, feed.head_seq, feed.head_id, feed.author not in self._broken, len(feed.forks))
            for feed in sorted(self.feeds.all(), key=lambda feed: feed.author)
            if feed.head_seq
        ]

    def check(self, record: EnvelopeRecord | ForkRecord | ProofRecord | WokenRecord) -> tuple[str, str]:
        """(envelope id, what is wrong with it or nothing)."""
        if isinstance(record, WokenRecord):
            return self._woken(record)
        envelope_id, wrong, author = self._check(record)
        if wrong and author:
            self._broken.add(author)
        return envelope_id, wrong

    def _check(self, record: EnvelopeRecord | ForkRecord | ProofRecord) -> tuple[str, str, str]:
        """(envelope id, what is wrong with it or nothing, whose feed that breaks)."""
        if isinstance(record, ProofRecord):
            return record.proof.loser, self._proof(record), ""
        raw = bytes(record.raw)
        admitted = self._admission.admit(raw, record.at_s)
        if not isinstance(admitted, Admitted):
            meta = admitted.meta
            if meta is not None and meta.v is not None and meta.seq and isinstance(record, EnvelopeRecord):
                self.feeds.advance(meta.from_, meta.seq, meta.id, "")
            wrong = f"{admitted.reason.value}: {admitted.detail}"
            return ("", wrong, "") if meta is None else (meta.id, wrong, meta.from_)
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

    def _woken(self, record: WokenRecord) -> tuple[str, str]:
        """An envelope whose fact had slept stands in its feed already; the record repeats it."""
        admitted = self._admission.admit(bytes(record.raw), record.at_s)
        if not isinstance(admitted, Admitted):
            return "" if admitted.meta is None else admitted.meta.id, f"{admitted.reason.value}: {admitted.detail}"
        meta = admitted.envelope.meta
        feed = self.feeds.get(meta.from_)
        held = feed.entry(meta.seq)
        if not 0 < meta.seq <= feed.head_seq or (held is not None and held.id != meta.id):
            excused = self._holes > self._holes_known.get(meta.from_, 0)
            return meta.id, "" if excused else f"it does not stand at seq {meta.seq} of its feed"
        return meta.id, _content(record)

    def _unsigned(self, record: EnvelopeRecord | ForkRecord) -> str:
        if isinstance(record, ForkRecord):
            return "an unsigned envelope proves no fork"
        if record.fact is not None and record.fact.signed:
            return "the record calls an unsigned envelope signed"
        return ""

    def _place(self, record: EnvelopeRecord, meta: EnvelopeMeta) -> str:
        feed = self.feeds.get(meta.from_)
        place = feed.place(meta.seq, meta.id, meta.prev)
        expected = Place.NEXT if record.cut is None else Place.FORK_WINS
        wrong = ""
        if place is not expected:
            self._broken.add(meta.from_)
        excused = self._holes > self._holes_known.get(meta.from_, 0)
        self._holes_known[meta.from_] = self._holes
        if place is not expected and not (excused and place is not Place.DUPLICATE):
            wrong = f"seq {meta.seq} does not follow what the journal holds of its feed up to {feed.head_seq}"
            if place is Place.DUPLICATE:
                return wrong
        if record.cut is not None:
            held = feed.entry(meta.seq)
            if record.cut.id != meta.id or held is None or record.cut.loser != held.id:
                wrong = wrong or f"the fork that it resolves at seq {meta.seq} is not in the journal"
            self.feeds.cut(meta.from_, meta.seq, record.cut)
        self.feeds.advance(meta.from_, meta.seq, meta.id, "")
        return wrong

    def _fork(self, record: ForkRecord, meta: EnvelopeMeta) -> str:
        place = self.feeds.get(meta.from_).place(meta.seq, meta.id, meta.prev)
        if place is not Place.FORK_LOSES or record.proof.loser != meta.id:
            return f"it proves no fork at seq {meta.seq}"
        self.feeds.prove(meta.from_, record.proof)
        return ""

    def _proof(self, record: ProofRecord) -> str:
        try:
            evidence = verify_proof(bytes(record.raw), self._admission)
        except ProofRefusedError as error:
            return f"{error.reason.value}: {error.detail}"
        ids = {evidence.meta.id, evidence.higher.envelope.meta.id}
        self.feeds.prove(record.author, record.proof)
        said = (record.author, record.proof.seq, {record.proof.id, record.proof.loser})
        return "" if (evidence.meta.from_, evidence.meta.seq, ids) == said else "it proves another fork than it says"


def _content(record: EnvelopeRecord | WokenRecord) -> str:
    """What is wrong between a signed envelope and the changes that its record makes."""
    if isinstance(record, EnvelopeRecord) and record.fact is not None:
        return "the record states a fact in place of that of its signed envelope"
    try:
        fact = record_fact(record, envelope_of(record))
    except DataDirDamagedError as error:
        return error.message
    for event in record.events:
        if event.adds and fact is not None and event.seed_id != fact.seed_id:
            return f"the record adds its fact to seed {event.seed_id}, but it is about {fact.seed_id}"
    return ""


def sound_envelopes(data: bytes, admission: Admission) -> Iterator[tuple[int, bytes]]:
    """(index, bytes) of the signed feed envelopes inside damaged bytes that are whole and verify."""
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
    """(index, id) of the envelopes that can be made out in damaged bytes and do not verify, or are cut."""
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
    """The index behind the JSON object that starts at ``start``; 0 when it does not end."""
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
    """The head of an envelope; None for bytes that are none."""
    try:
        value, canonical = parse_object(raw)
        return shape(value, canonical).meta
    except (ValueError, msgspec.ValidationError):
        return None
