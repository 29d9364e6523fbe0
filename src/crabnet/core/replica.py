"""The replicated state of one namespace: what happens to an envelope, from raw bytes to journal record.

``receive`` is the road of remote envelopes, ``propose`` that of the operator's own statements; both end in ``_commit``.
``replay`` does again what was decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from crabnet import limits
from crabnet.core.applied import Applied, Change, combined_hash, refused_by
from crabnet.core.attic import Attic
from crabnet.core.dormancy import Dormancy
from crabnet.core.mending import Mending
from crabnet.core.parking import Parked, Parking
from crabnet.core.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    ProofRecord,
    Record,
    SegmentRow,
    Via,
    WokenRecord,
    encode_record,
    envelope_of,
    event_of_row,
    event_row,
    fact_of_row,
    fact_row,
    record_fact,
    seed_about,
    stored_envelope,
)
from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import EMPTY
from crabnet.domain.model import Body, Fact, FactKind, Progress, Seed
from crabnet.domain.state import (
    DEFAULT_CAPS,
    Caps,
    Decision,
    Observe,
    Outcome,
    Propose,
    Retract,
    SeedEvent,
    State,
    apply,
)
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.protocol.admission import (
    Admission,
    AdmissionPolicy,
    Admitted,
    Muted,
    Refusal,
    Wanted,
    nobody_muted,
    refusal,
    seen_key,
)
from crabnet.protocol.envelope import FEED_KINDS, Envelope, EnvelopeMeta, Kind, object_id, seal
from crabnet.protocol.feed import Feeds, ForkProof, Place
from crabnet.protocol.fork_proof import ForkEvidence
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.legacy import check_unsigned, legacy_fact
from crabnet.protocol.payloads import PayloadRefusedError, fact_of, payload_of
from crabnet.protocol.replay import SeenWindow

Pays = Callable[[EnvelopeMeta, int], bool]
"""Charges an envelope of so many bytes, which is verified and new, to its author; False if it is over its budget."""


def _nothing_wanted(_: EnvelopeMeta) -> bool:
    return False


def _knows_everybody(_: str) -> bool:
    return True


class _Earlier(NamedTuple):
    """What was done before a decision that belongs into the same record."""

    cut: ForkProof | None = None
    events: tuple[SeedEvent, ...] = ()
    before: Mapping[str, Progress | None] = MappingProxyType({})
    thawed: tuple[Raw, ...] = ()


_NOTHING_EARLIER: Final = _Earlier()
_UNJUDGED: Final = refusal(Reason.INTERNAL, "an unexpected error of this node; see quarantine/ in its data dir")


class Replica:
    """Seeds, feeds, the seen window and the parking place of one namespace."""

    def __init__(
        self,
        policy: AdmissionPolicy,
        *,
        seen_ttl_s: int,
        seen_capacity: int,
        parked_ttl_s: int,
        caps: Caps = DEFAULT_CAPS,
        verify_all: VerifyAll = verify_each,
    ) -> None:
        self.namespace = policy.namespace
        self.state = State(caps)
        self.feeds = Feeds()
        self.seen = SeenWindow(ttl_s=seen_ttl_s, capacity=seen_capacity)
        self.parking = Parking(parked_ttl_s)
        self.arrivals = 0
        self.replayed_until_s = 0
        self.attic = Attic(self.state)
        self.dormancy = Dormancy(self.state)
        self.knows: Callable[[str], bool] = _knows_everybody
        self.mending = Mending()
        self.admission = Admission(policy, self.seen, verify_all=verify_all)

    def state_hash(self) -> str:
        """Hex SHA-256 over seeds and feeds: equal in two nodes if and only if they hold the same."""
        return combined_hash(self.namespace, self.state.digest(), self.feeds.digest())

    def apply_remote(
        self, raw: bytes, now_s: int, *, via: Via = Via.LIVE, source: str = "", wanted: Wanted = _nothing_wanted
    ) -> Applied:
        """What became of one envelope: accepted, ignored(reason) or rejected(reason)."""
        return self.receive(raw, now_s, via=via, source=source, wanted=wanted)[0]

    def receive(
        self,
        raw: bytes,
        now_s: int,
        *,
        via: Via = Via.LIVE,
        source: str = "",
        wanted: Wanted = _nothing_wanted,
        muted: Muted = nobody_muted,
        pays: Pays | None = None,
    ) -> list[Applied]:
        """Verify and apply one envelope and those that waited for it. The first answer is for ``raw``."""
        admitted: Admitted | Refusal = _UNJUDGED
        with self.mending.judging(raw):
            admitted = self.admission.admit(raw, now_s, wanted, muted)
        if isinstance(admitted, Refusal):
            return [refused_by(admitted)]
        meta = admitted.envelope.meta
        if admitted.kind not in FEED_KINDS and admitted.kind is not Kind.UNKNOWN:
            self.seen.add(meta.id, now_s)
            return [Applied(Outcome.ACCEPTED, meta=meta, admitted=admitted)]
        if not admitted.envelope.signed:
            return [self._contained(admitted, partial(self._unsigned, admitted, now_s, via))]
        return self._into_feed(admitted, now_s, via, source, pays)

    def _contained(self, admitted: Admitted, judge: Callable[[], Applied]) -> Applied:
        """What becomes of one envelope. It is refused if the node has failed on it, or cannot judge it."""
        raw, meta = admitted.envelope.raw, admitted.envelope.meta
        if self.mending.refuses(raw):
            return refused_by(refusal(Reason.QUARANTINED, "the node has failed on it before", meta))
        with self.mending.judging(raw):
            return judge()
        return refused_by(refusal(Reason.INTERNAL, _UNJUDGED.detail, meta))

    def _into_feed(
        self, admitted: Admitted, now_s: int, via: Via, source: str, pays: Pays | None = None
    ) -> list[Applied]:
        """Step 13 and on, for a signed envelope and then for those that waited for it."""
        meta = admitted.envelope.meta
        head = self.feeds.get(meta.from_).head_id
        applied = [self._contained(admitted, partial(self._signed, admitted, now_s, via, source, pays))]
        while (feed := self.feeds.get(meta.from_)).head_id != head:
            head = feed.head_id
            waiting: list[Parked] = []
            with self.mending.soft:
                waiting = self.parking.take(meta.from_, feed.head_seq + 1, head)
            for each in waiting:
                judge = partial(self._signed, each.admitted, now_s, via, each.source)
                applied.append(self._contained(each.admitted, judge))
        return applied

    def _signed(self, admitted: Admitted, now_s: int, via: Via, source: str, pays: Pays | None = None) -> Applied:
        """Step 13: the place in the author's feed, and whether it may take it now."""
        meta = admitted.envelope.meta
        feed = self.feeds.get(meta.from_)
        place = feed.place(meta.seq, meta.id, meta.prev)
        new = place is not Place.DUPLICATE and not self._waits(meta.id)
        if pays is not None and new and not pays(meta, len(admitted.envelope.raw)):
            detail = "the author is over its budget"
            return Applied(Outcome.IGNORED, Reason.AUTHOR_LIMITED, detail, meta, admitted)
        if place is Place.NEXT:
            return self._observe(admitted, now_s, via, None)
        if place is Place.DUPLICATE:
            return refused_by(refusal(Reason.DUPLICATE, f"held at seq {meta.seq}", meta))
        if place is Place.FORK_WINS or place is Place.FORK_LOSES:
            held = feed.entry(meta.seq)
            held_id = "" if held is None else held.id
            if place is Place.FORK_WINS:
                return self._observe(admitted, now_s, via, ForkProof(meta.seq, meta.id, held_id))
            with self.mending.soft:
                self.parking.drop_branch(meta.from_, meta.seq + 1, meta.id)
            self.mending.boundary.cross(admitted.envelope.raw)
            proof = ForkProof(meta.seq, held_id, meta.id)
            new = self.feeds.prove(meta.from_, proof)
            return Applied(
                Outcome.REJECTED,
                Reason.FORK,
                f"another envelope stands at seq {meta.seq}",
                meta,
                record=encode_record(ForkRecord(Raw(admitted.envelope.raw), now_s, proof)) if new else None,
                proof=proof if new else None,
            )
        if self._waits(meta.id):
            return refused_by(refusal(Reason.DUPLICATE, "waits already", meta))
        reason = Reason.PARKING_FULL
        with self.mending.soft:
            if self.parking.put(admitted, now_s, source, known=self.knows(meta.from_)):
                reason = Reason.GAP if place is Place.GAP else Reason.BROKEN_CHAIN
        detail = f"seq {meta.seq}, the feed is held up to {feed.head_seq}"
        return Applied(Outcome.IGNORED, reason, detail, meta, parked=reason is not Reason.PARKING_FULL)

    def _waits(self, envelope_id: str) -> bool:
        with self.mending.soft:
            return self.parking.holds(envelope_id)
        return False

    def learn_fork(self, evidence: ForkEvidence, now_s: int, source: str) -> list[Applied]:
        """Take in a verified proof: both envelopes as if they had come, so that this node decides as all others do.

        A proof that changes nothing here (too far back, or behind the fork itself) is kept nevertheless, once the
        author has a feed.
        """
        meta = evidence.meta
        author, seq = meta.from_, meta.seq
        applied: list[Applied] = []
        for admitted in (evidence.lower, evidence.higher):
            head = admitted.envelope.meta
            feed = self.feeds.get(author)
            held = feed.entry(seq)
            settled = seq <= feed.head_seq and (held is None or held.id == head.id)
            too_early = head.ts > now_s + self.admission.policy.future_skew_s
            if not settled and not too_early and not self._waits(head.id):
                applied += self._into_feed(admitted, now_s, Via.SYNC, source)
        if not self.feeds.get(author).head_seq or not self.feeds.lacks_fork(author, seq):
            return applied
        higher = evidence.higher.envelope.meta
        held = self.feeds.get(author).entry(seq)
        stands, loser = (meta.id, higher.id)
        if held is not None and held.id == higher.id and not evidence.same_parent:
            stands, loser = loser, stands
        proof = ForkProof(seq, stands, loser)
        self.mending.boundary.cross()
        self.feeds.prove(author, proof)
        record = encode_record(ProofRecord(Raw(evidence.document()), now_s, author, proof))
        kept = Applied(
            Outcome.REJECTED, Reason.FORK, f"a proof for seq {seq}", higher, record=record, proof=proof, learned=True
        )
        return [*applied, kept]

    def _observe(self, admitted: Admitted, now_s: int, via: Via, cut: ForkProof | None) -> Applied:
        """Steps 14 and 15 for an envelope that stands in its feed: role and lifecycle."""
        envelope = admitted.envelope
        meta = envelope.meta
        cut_events: tuple[SeedEvent, ...] = ()
        thawed: tuple[Raw, ...] = ()
        if cut is not None:
            touched = self.feeds.touched_from(meta.from_, meta.seq)
            if self.attic.too_much(touched):
                detail = "the fork takes back more than one frame of the journal can tell of"
                return refused_by(refusal(Reason.LIMIT_EXCEEDED, detail, meta))
            self.mending.boundary.cross(envelope.raw)
            thawed = self.attic.bring_back(touched)
            cut_events = decide(self.state, Retract(meta.from_, meta.seq, touched), now_s).events
            before = self._progress_of(cut_events)
            for event in cut_events:
                apply(self.state, event)
            self.feeds.cut(meta.from_, meta.seq, cut)
        else:
            before = {}
        fact: Fact | None = None
        if admitted.kind is Kind.UNKNOWN:
            decision = Decision(Outcome.IGNORED, Reason.UNKNOWN_KIND, detail=f"kind {meta.kind}")
        else:
            try:
                fact = fact_of(envelope, admitted.kind)
                if fact.kind is not FactKind.SEED and fact.seed_id not in self.state.records:
                    thawed += self.attic.bring_back((fact.seed_id,))
                decision = self._judge(fact, now_s, thawed=thawed if cut is None else ())
            except PayloadRefusedError as error:
                decision = Decision(Outcome.REJECTED, error.reason, detail=error.detail)
        if decision.asleep and thawed and cut is None and fact is not None:
            self.state.evict(fact.seed_id)
            thawed = ()
        earlier = _Earlier(cut, cut_events, before, thawed) if cut is not None or thawed else _NOTHING_EARLIER
        return self._commit(envelope, fact, decision, now_s, via, earlier)

    def _judge(self, fact: Fact, now_s: int, woken_by: str = "", thawed: tuple[Raw, ...] = ()) -> Decision:
        """What becomes of a fact, if none of its author that come before may sleep; else it sleeps like those.

        A seed that was ``thawed`` for it goes back when it cannot be judged.
        """
        try:
            return self._judged(fact, now_s, woken_by)
        except BaseException:
            if thawed:
                self.state.evict(fact.seed_id)
            raise

    def _judged(self, fact: Fact, now_s: int, woken_by: str) -> Decision:
        parent = self.dormancy.holds_back(fact, woken_by)
        if parent:
            reason = Reason.UNKNOWN_SEED if parent == fact.seed_id else Reason.UNKNOWN_CLAIM
            return Decision(Outcome.IGNORED, reason, asleep=parent)
        return decide(self.state, Observe(fact, fact.author in self.dormancy.dozing), now_s)

    def wake(self, raw: bytes, parent: str, now_s: int) -> Applied | None:
        """Judge the fact of a stored envelope that has slept until ``parent`` counts; None if it sleeps on, or is gone.

        What changes nothing has no record.
        """
        envelope = stored_envelope(raw)
        meta = envelope.meta
        feed = self.feeds.get(meta.from_)
        held = feed.entry(meta.seq)
        if meta.seq > feed.head_seq or (held is not None and held.id != meta.id):
            return None
        fact = fact_of(envelope, Kind(meta.kind))
        thawed = self.attic.bring_back((fact.seed_id,))
        decision = self._judge(fact, now_s, parent, thawed)
        if decision.asleep == parent or not (decision.events or decision.asleep):
            if thawed:
                self.state.evict(fact.seed_id)
            if decision.asleep:
                return None
            return Applied(decision.outcome, decision.reason, decision.detail, meta, seed_id=fact.seed_id, woken=True)
        before = self._progress_of(decision.events)
        self.mending.boundary.cross(raw)
        for event in decision.events:
            apply(self.state, event)
        rows = tuple(event_row(event) for event in decision.events)
        self.dormancy.fell_asleep(meta.from_, decision.asleep)
        record = WokenRecord(Raw(raw), now_s, decision.outcome, decision.reason, rows, thawed, decision.asleep)
        return Applied(
            decision.outcome,
            decision.reason,
            decision.detail,
            meta,
            record=encode_record(record),
            seed_id=fact.seed_id,
            changes=self._changes(before),
            asleep=decision.asleep,
            woken=True,
            roused=self.dormancy.rouse(decision.events),
        )

    def archive(self, segment: SegmentRow, seed_ids: tuple[str, ...], now_s: int) -> bytes:
        """Let seeds leave memory that a durable segment holds; returns the journal record that says so."""
        self.mending.boundary.cross()
        self.attic.put_away(segment, seed_ids)
        return encode_record(ArchiveRecord(segment, now_s, seed_ids))

    def _unsigned(self, admitted: Admitted, now_s: int, via: Via) -> Applied:
        meta = admitted.envelope.meta
        try:
            fact = legacy_fact(admitted.envelope, admitted.kind, self.state.records, self.arrivals + 1)
        except PayloadRefusedError as error:
            return refused_by(refusal(error.reason, error.detail, meta))
        if self.attic.holds(fact.seed_id):
            return refused_by(refusal(Reason.WRONG_STATE, f"seed {fact.seed_id} is closed and archived", meta))
        decision = decide(self.state, Observe(fact), now_s)
        if not decision.events:
            return Applied(decision.outcome, decision.reason, decision.detail, meta)
        return self._commit(admitted.envelope, fact, decision, now_s, via, _NOTHING_EARLIER)

    def import_fact(self, fact: Fact, now_s: int) -> Applied:
        """Observe an unsigned fact of a baseline state. It has the rights of an unsigned envelope, no more."""
        try:
            check_unsigned(fact.author, fact.key)
        except PayloadRefusedError as error:
            return refused_by(refusal(error.reason, error.detail))
        if self.admission.policy.require_signatures:
            return refused_by(refusal(Reason.MISSING_SIGNATURE, "a baseline state is unsigned"))
        if self.attic.holds(fact.seed_id):
            return refused_by(refusal(Reason.WRONG_STATE, f"seed {fact.seed_id} is closed and archived"))
        fact = msgspec.structs.replace(fact, seq=self.arrivals + 1, signed=False)
        decision = decide(self.state, Observe(fact), now_s)
        if not decision.events:
            return Applied(decision.outcome, decision.reason, decision.detail, seed_id=fact.seed_id)
        before = self._progress_of(decision.events)
        self.mending.boundary.cross()
        for event in decision.events:
            apply(self.state, event)
        self.arrivals += 1
        rows = tuple(event_row(event) for event in decision.events)
        return Applied(
            decision.outcome,
            decision.reason,
            decision.detail,
            record=encode_record(FactRecord(fact_row(fact), now_s, decision.outcome, decision.reason, rows)),
            seed_id=fact.seed_id,
            changes=self._changes(before),
        )

    def _changes(self, before: Mapping[str, Progress | None]) -> tuple[Change, ...]:
        changes = []
        for seed_id, progress in before.items():
            after = self.state.records.get(seed_id)
            if after is not None and after.progress is not progress and after.progress != progress:
                changes.append(Change(seed_id, progress, after.progress))
        return tuple(changes)

    def propose(
        self,
        signer: Signer,
        build: Callable[[str], tuple[FactKind, Body]],
        now_s: int,
        nonce: int,
        shunned: frozenset[str] = frozenset(),
    ) -> tuple[Applied, Body, bytes]:
        """State something oneself. ``build`` is given the id of the new object. Raises RefusedError, UsageError.

        Returns what became of it, the object, and the envelope to send.
        """
        feed = self.feeds.get(signer.node_id)
        seq = feed.head_seq + 1
        kind, body = build(object_id(self.namespace, signer.node_id, seq))
        fact = Fact(kind=kind, author=signer.node_id, seq=seq, ts=now_s, body=body)
        decision = decide(self.state, Propose(fact, shunned), now_s)
        if decision.outcome is not Outcome.ACCEPTED:
            raise RefusedError(decision.detail or f"{kind.value} refused", decision.reason)
        record = self.state.records.get(fact.seed_id, EMPTY)
        envelope_kind, payload = payload_of(body, record.definition, record.progress)
        envelope = seal(
            signer,
            kind=envelope_kind,
            namespace=self.namespace,
            ts=now_s,
            nonce=nonce,
            payload=payload,
            seq=seq,
            prev=feed.head_id,
        )
        room = limits.ENVELOPE_BYTES_MAX - (limits.SETTLEMENT_BYTES if kind is FactKind.SEED else 0)
        if len(envelope.raw) > room:
            raise UsageError(
                f"the envelope has {len(envelope.raw)} bytes, at most {room}; shorten it", Reason.TOO_LARGE
            )
        return self._commit(envelope, fact, decision, now_s, Via.LOCAL, _NOTHING_EARLIER), body, envelope.raw

    def _progress_of(self, events: tuple[SeedEvent, ...]) -> dict[str, Progress | None]:
        before: dict[str, Progress | None] = {}
        for event in events:
            record = self.state.records.get(event.seed_id)
            before[event.seed_id] = None if record is None else record.progress
        return before

    def _commit(
        self,
        envelope: Envelope,
        fact: Fact | None,
        decision: Decision,
        now_s: int,
        via: Via,
        earlier: _Earlier,
    ) -> Applied:
        meta = envelope.meta
        before = self._progress_of(decision.events)
        if earlier.before:
            before.update(earlier.before)
        self.mending.boundary.cross(envelope.raw)
        for event in decision.events:
            apply(self.state, event)
        seed_id = "" if fact is None else fact.seed_id
        self._enter(meta, seed_id, now_s)
        unsigned = fact is not None and not fact.signed
        record = EnvelopeRecord(
            Raw(envelope.raw),
            now_s,
            via,
            decision.outcome,
            decision.reason,
            tuple([event_row(event) for event in (*earlier.events, *decision.events)]),
            earlier.cut,
            self.arrivals if unsigned else 0,
            fact_row(fact) if fact is not None and unsigned else None,
            earlier.thawed,
            decision.asleep,
        )
        self.dormancy.fell_asleep(meta.from_, decision.asleep)
        return Applied(
            decision.outcome,
            decision.reason,
            decision.detail,
            meta,
            record=encode_record(record),
            seed_id=seed_id,
            changes=self._changes(before),
            proof=earlier.cut,
            in_feed=meta.v is not None,
            raw=envelope.raw,
            asleep=decision.asleep,
            roused=self.dormancy.rouse((*earlier.events, *decision.events)),
        )

    def _enter(self, meta: EnvelopeMeta, seed_id: str, now_s: int) -> None:
        if meta.v is None:
            self.arrivals += 1
        else:
            self.feeds.advance(meta.from_, meta.seq, meta.id, seed_id)
        self.seen.add(seen_key(meta), now_s)

    def replay(self, record: Record) -> EnvelopeMeta | None:
        """Do again what a journalled record says, without judging; returns the head of its envelope if it has one.

        Raises DataDirDamagedError.
        """
        self.replayed_until_s = max(self.replayed_until_s, record.at_s)
        if isinstance(record, ArchiveRecord):
            self.attic.put_away(record.segment, record.seed_ids)
            return None
        if isinstance(record, FactRecord):
            self.arrivals += 1
            for row in record.events:
                apply(self.state, event_of_row(row, fact_of_row(record.fact)))
            return None
        if isinstance(record, ProofRecord):
            self.feeds.prove(record.author, record.proof)
            return None
        envelope = envelope_of(record)
        if isinstance(record, ForkRecord):
            self.feeds.prove(envelope.meta.from_, record.proof)
            return envelope.meta
        fact = record_fact(record, envelope)
        meta = envelope.meta
        for raw in record.thawed:
            self.attic.readmit(bytes(raw))
        if isinstance(record, EnvelopeRecord) and record.cut is not None:
            self.feeds.cut(meta.from_, meta.seq, record.cut)
        self.dormancy.fell_asleep(meta.from_, record.asleep)
        events = [event_of_row(row, fact) for row in record.events]
        for event in events:
            apply(self.state, event)
        self.dormancy.rouse(events)
        if isinstance(record, WokenRecord):
            return None
        self._enter(meta, seed_about(envelope) if fact is None else fact.seed_id, record.at_s)
        return meta

    def definition(self, seed_id: str) -> Seed | None:
        """The definition of a seed, if it is known."""
        record = self.state.records.get(seed_id)
        return None if record is None else record.definition
