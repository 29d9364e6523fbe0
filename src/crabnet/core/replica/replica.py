"""The replicated state of one namespace. It handles an envelope from raw bytes to the journal record.

``receive`` takes remote envelopes. ``propose`` states facts of this node. Both end in ``_commit``. ``replay`` applies
earlier decisions again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw

from crabnet import limits
from crabnet.core.mending import JUDGING, Mending, ReplicaFailedError, is_containable
from crabnet.core.replica.applied import Applied, Fork, apply_all, refused_by
from crabnet.core.replica.held import HeldRow
from crabnet.core.replica.holdings import Holdings
from crabnet.core.replica.judge import Judge, role_of, stated
from crabnet.core.replica.parking import Parking
from crabnet.core.replica.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    Record,
    SegmentRow,
    Via,
    encode_record,
    event_row,
    fact_row,
    held_row,
)
from crabnet.core.replica.replaying import replay
from crabnet.core.replica.requests import Requests
from crabnet.core.replica.settling import Fold, Settling
from crabnet.core.replica.waiting import Arrival, Waiting, parked_arrival
from crabnet.domain.decision import decide
from crabnet.domain.model import Body, Fact, FactKind, share_with
from crabnet.domain.record import EMPTY
from crabnet.domain.standing import may_rest_on
from crabnet.domain.state import DEFAULT_CAPS, Caps, Decision, Observe, Outcome
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError, UsageError
from crabnet.protocol.admission import (
    Admission,
    AdmissionPolicy,
    Admitted,
    Muted,
    Refusal,
    Wanted,
    nobody_muted,
    nothing_wanted,
    refusal,
    seen_key,
)
from crabnet.protocol.envelope import FEED_KINDS, Envelope, EnvelopeMeta, Kind, object_id, seal
from crabnet.protocol.feed import Place
from crabnet.protocol.fork_proof import ForkEvidence
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.legacy import check_unsigned, legacy_fact
from crabnet.protocol.payloads import PayloadRefusedError, payload_of
from crabnet.protocol.sync import Named

Pays = Callable[[EnvelopeMeta, int], bool]
"""Charges a verified, new envelope of so many bytes to its author. False if the author is over its budget."""


_UNJUDGED: Final = refusal(Reason.INTERNAL, "this node had an unexpected error; see quarantine/ in its data dir")


class Replica(Holdings):
    """Seeds, feeds, the seen window and the parking place of one namespace."""

    def __init__(
        self,
        policy: AdmissionPolicy,
        *,
        seen_ttl_s: int,
        seen_capacity: int,
        parked_ttl_s: int,
        requests: Requests | None = None,
        caps: Caps = DEFAULT_CAPS,
        verify_all: VerifyAll = verify_each,
    ) -> None:
        super().__init__(
            policy.namespace,
            caps,
            seen_ttl_s=seen_ttl_s,
            seen_capacity=seen_capacity,
            requests=Requests(ttl_s=0, capacity=1) if requests is None else requests,
        )
        self.mending = Mending()
        self.waiting = Waiting(self.feeds, self.mending, parked_ttl_s=parked_ttl_s)
        self.admission = Admission(policy, self.seen, verify_all=verify_all)
        self.admission.followed = self.waiting.followed
        self._judge = Judge(self.state, self.feeds, self.archived, self.rebuilder)
        self.settling = Settling(self.state, self.feeds, self.archived, self.rebuilder, self.mending)

    @property
    def parking(self) -> Parking:
        """The parked envelopes."""
        return self.waiting.parking

    def receive(
        self,
        raw: bytes,
        now_s: int,
        *,
        via: Via = Via.LIVE,
        source: str = "",
        wanted: Wanted = nothing_wanted,
        muted: Muted = nobody_muted,
        pays: Pays | None = None,
    ) -> list[Applied]:
        """Verify and apply one envelope and the parked ones that waited for it. The first answer is for ``raw``."""
        admitted: Admitted | Refusal
        try:
            admitted = self.admission.admit(raw, now_s, wanted, muted)
        except Exception as error:
            if not is_containable(error):
                raise
            self.mending.fault(JUDGING, error, raw)
            admitted = _UNJUDGED
        if isinstance(admitted, Refusal):
            return [refused_by(admitted)]
        meta = admitted.envelope.meta
        if admitted.kind not in FEED_KINDS and admitted.kind is not Kind.UNKNOWN:
            self.seen.add(meta.id, now_s)
            return [Applied(Outcome.ACCEPTED, meta=meta, admitted=admitted)]
        return self._take_in(Arrival(admitted, now_s, via, source), pays)

    def _take_in(self, arrival: Arrival, pays: Pays | None = None) -> list[Applied]:
        """Steps 13 to 15 for an envelope, and then for those that waited for it."""
        waiting: deque[Arrival] = deque()
        applied = self._contained(arrival, waiting, pays)
        while waiting:
            applied += self._contained(waiting.popleft(), waiting, None)
        return applied

    def _contained(self, arrival: Arrival, waiting: deque[Arrival], pays: Pays | None) -> list[Applied]:
        """Handle one envelope. It is refused if the node has failed on it before or cannot judge it."""
        admitted = arrival.admitted
        envelope = admitted.envelope
        if self.mending.refuses(envelope.raw):
            return [refused_by(refusal(Reason.QUARANTINED, "this node has failed on it before", envelope.meta))]
        crossings = self.mending.boundary.crossings
        try:
            if not envelope.signed:
                return [self._unsigned(admitted, arrival.now_s, arrival.via)]
            return self._signed(arrival, waiting, pays)
        except Exception as error:
            fatal = isinstance(error, DataDirDamagedError | ReplicaFailedError)
            if fatal or self.mending.boundary.crossings != crossings:
                raise
            if isinstance(error, CrabnetError):  # stored data cannot be read now: the envelope must come again
                detail = f"this node cannot judge it at the moment: {error.message}"
                return [Applied(Outcome.IGNORED, Reason.UNAVAILABLE, detail, envelope.meta, admitted)]
            self.mending.fault(JUDGING, error, envelope.raw)
            return [refused_by(refusal(Reason.INTERNAL, _UNJUDGED.detail, envelope.meta))]

    def _signed(self, arrival: Arrival, waiting: deque[Arrival], pays: Pays | None) -> list[Applied]:
        """Step 13: the author's budget and the place in the author's feed."""
        admitted = arrival.admitted
        meta = admitted.envelope.meta
        place = self.feeds.place(meta.from_, meta.seq, meta.id, meta.prev)
        if place is Place.BEHIND and arrival.via is not Via.IMPORT and not self.waiting.is_named(meta.id):
            return [self._behind_end(meta)]
        others_wait = len(self.waiting) > 0
        waits = others_wait and place is not Place.DUPLICATE and self.waiting.holds(meta.id)
        new = place is not Place.DUPLICATE and not waits
        if pays is not None and new and not pays(meta, len(admitted.envelope.raw)):
            detail = "the author is over its budget"
            return [Applied(Outcome.IGNORED, Reason.AUTHOR_LIMITED, detail, meta, admitted)]
        if place is Place.DUPLICATE:
            return [refused_by(refusal(Reason.DUPLICATE, f"this node holds it already, at seq {meta.seq}", meta))]
        if waits:
            refused = refused_by(refusal(Reason.DUPLICATE, "it is parked already", meta))
            return [msgspec.structs.replace(refused, lacks=self.waiting.lacks(meta.id))]
        if place is Place.FORK:
            return self._forked([arrival], waiting)
        rival = self.waiting.rival(meta) if others_wait and place is not Place.BEHIND else None
        if rival is not None:
            return self._forked([arrival, parked_arrival(rival.admitted, arrival, rival.source)], waiting)
        if place is Place.GAP or place is Place.BROKEN_CHAIN:
            return [self.waiting.park(arrival, Reason.GAP if place is Place.GAP else Reason.BROKEN_CHAIN)]
        return self._accept(arrival, waiting, behind=place is Place.BEHIND)

    def _behind_end(self, meta: EnvelopeMeta) -> Applied:
        detail = f"the feed ends before seq {self.feeds.get(meta.from_).end}, because it was forked there"
        return Applied(Outcome.IGNORED, Reason.FEED_ENDED, detail, meta)

    def _forked(self, evidence: list[Arrival], waiting: deque[Arrival]) -> list[Applied]:
        """End a feed. The first envelope of ``evidence`` and the second, or else the held one, are for one place."""
        meta = evidence[0].admitted.envelope.meta
        author, seq = meta.from_, meta.seq
        other = self.feeds.id_at(author, seq) or ""
        if len(evidence) > 1:
            other = evidence[1].admitted.envelope.meta.id
        head_id = self.feeds.last_before(author, seq)
        self.mending.boundary.cross(evidence[0].admitted.envelope.raw)
        self.feeds.end_at(author, seq, head_id)
        self.settling.begin(author, seq)
        applied = []
        for at, each in enumerate(evidence):
            last = at == len(evidence) - 1
            envelope = each.admitted.envelope
            row = HeldRow(author, seq, envelope.meta.id)
            self.held.add(row, envelope.raw)
            applied.append(
                Applied(
                    Outcome.REJECTED,
                    Reason.FORK,
                    f"its author signed another envelope for seq {seq}",
                    envelope.meta,
                    record=encode_record(ForkRecord(Raw(envelope.raw), each.now_s, head_id if last else None)),
                    row=row,
                    fork=Fork(author, seq, envelope.meta.id, other) if last else None,
                    quiet=at > 0,
                )
            )
        waiting.extend(self.waiting.named_behind(evidence, author, seq))
        return applied

    def learn_fork(self, evidence: ForkEvidence, now_s: int, source: str) -> list[Applied]:
        """Accept a verified proof. The feed ends there, if it does not end there or earlier already."""
        meta = evidence.meta
        end = self.feeds.get(meta.from_).end
        if end and end <= meta.seq:
            return []
        arrivals = [
            Arrival(admitted, now_s, Via.SYNC, source)
            for admitted in (evidence.lower, evidence.higher)
            if self.feeds.id_at(meta.from_, meta.seq) != admitted.envelope.meta.id
        ]
        waiting: deque[Arrival] = deque()
        applied = self._forked(arrivals, waiting)
        while waiting:
            applied += self._take_in(waiting.popleft())
        return applied

    def _accept(self, arrival: Arrival, waiting: deque[Arrival], *, behind: bool) -> list[Applied]:
        """Steps 14 and 15, role and lifecycle, for an envelope that is next in its feed or on which others rest."""
        admitted = arrival.admitted
        envelope = admitted.envelope
        parent: Fact | None = None
        fact, decision = stated(admitted)
        refused = self._refused_behind(envelope.meta, fact, arrival.via) if behind else None
        if refused is not None:
            return [refused]
        rests_on = "" if fact is None else fact.rests_on
        if fact is not None and rests_on:
            if not self.waiting.holds(rests_on):  # a parked envelope is not held, so the disk need not be read
                parent = self._judge.find(fact.seed_id, rests_on)
            if parent is None:
                return [self.waiting.park(arrival, Reason.UNKNOWN_PARENT, Named(fact.seed_id, rests_on))]
            if not may_rest_on(fact, parent):
                detail = f"a {fact.kind} cannot rest on a {parent.kind}"
                fact, decision = None, Decision(Outcome.REJECTED, Reason.WRONG_PARENT, detail=detail, idle=True)
        if fact is not None:
            share_with(fact, parent)
        meta = envelope.meta
        pins = fact is not None and parent is not None and not behind and self._judge.needs_fold(fact, parent)
        if behind and decision is None:
            decision = Decision(Outcome.ACCEPTED, None)
        readmitted: tuple[Raw, ...] = ()
        if fact is not None and decision is None:
            decision, readmitted = self._judge.judge(fact, parent, arrival.now_s, pins=pins)
        if decision is None:
            raise RefusedError(f"envelope {meta.id} has no fact and no decision", Reason.INTERNAL)
        fold: Fold | None = None
        if pins and fact is not None and not decision.idle:
            decision, fold = self._fold_in(fact)
        pins = fold is not None
        applied = [
            self._commit(envelope, fact, decision, arrival.now_s, arrival.via, readmitted, behind=behind, pins=pins)
        ]
        if fold is not None:
            applied += self.settling.refolded(fold, arrival.now_s)
        freed = self.waiting.freed_by(meta, fact, behind=behind)
        waiting.extend(parked_arrival(parked.admitted, arrival, parked.source) for parked in freed)
        return applied

    def _refused_behind(self, meta: EnvelopeMeta, fact: Fact | None, via: Via) -> Applied | None:
        """Why an envelope behind the end of its feed is refused. None for one on which others rest, the first time."""
        if fact is None or self.held.envelope(fact.seed_id, meta.id) is not None:
            return refused_by(refusal(Reason.DUPLICATE, "this node holds it already, behind its feed's end", meta))
        if via is Via.IMPORT or self.waiting.is_lacking(Named(fact.seed_id, meta.id)):
            return None
        return self._behind_end(meta)

    def _fold_in(self, fact: Fact) -> tuple[Decision, Fold]:
        """Fold a seed with a fact. Returns the decision on the fact, and the fold."""
        fold = self.settling.fold(fact.seed_id, fact)
        if fold.counts:
            return Decision(Outcome.ACCEPTED, None), fold
        return Decision(Outcome.IGNORED, Reason.WRONG_STATE), fold

    def replay(self, record: Record) -> EnvelopeMeta | None:
        """Apply a journal record again without judging. Returns the ``meta`` of its envelope, or None if it has none.

        Raises DataDirDamagedError.
        """
        return replay(self, self.settling, record)

    def archive(self, segment: SegmentRow, seed_ids: tuple[str, ...], now_s: int) -> bytes:
        """Remove seeds from memory that a durable segment holds. Returns the journal record about that."""
        self.mending.boundary.cross()
        self.archived.archive(segment, seed_ids)
        return encode_record(ArchiveRecord(segment, now_s, seed_ids))

    def _unsigned(self, admitted: Admitted, now_s: int, via: Via) -> Applied:
        meta = admitted.envelope.meta
        try:
            fact = legacy_fact(admitted.envelope, admitted.kind, self.state.records, self.arrivals + 1)
        except PayloadRefusedError as error:
            return refused_by(refusal(error.reason, error.detail, meta))
        if self.archived.holds(fact.seed_id):
            return refused_by(refusal(Reason.WRONG_STATE, f"seed {fact.seed_id} is closed and archived", meta))
        decision = decide(self.state, Observe(fact), now_s)
        if not decision.events:
            return Applied(decision.outcome, decision.reason, decision.detail, meta)
        return self._commit(admitted.envelope, fact, decision, now_s, via)

    def import_fact(self, fact: Fact, now_s: int) -> Applied:
        """Apply an unsigned fact of a baseline state. The same rules apply as for an unsigned envelope."""
        try:
            check_unsigned(fact.author, fact.key)
        except PayloadRefusedError as error:
            return refused_by(refusal(error.reason, error.detail))
        if self.admission.policy.require_signatures:
            return refused_by(refusal(Reason.MISSING_SIGNATURE, "a baseline state is unsigned"))
        if self.archived.holds(fact.seed_id):
            return refused_by(refusal(Reason.WRONG_STATE, f"seed {fact.seed_id} is closed and archived"))
        fact = msgspec.structs.replace(fact, seq=self.arrivals + 1, signed=False)
        decision = decide(self.state, Observe(fact), now_s)
        if not decision.events:
            return Applied(decision.outcome, decision.reason, decision.detail, seed_id=fact.seed_id)
        self.mending.boundary.cross()
        changes = apply_all(self.state, decision.events)
        self.arrivals += 1
        rows = tuple(event_row(event) for event in decision.events)
        return Applied(
            decision.outcome,
            decision.reason,
            decision.detail,
            record=encode_record(FactRecord(fact_row(fact), now_s, decision.outcome, decision.reason, rows)),
            seed_id=fact.seed_id,
            changes=changes,
        )

    def propose(
        self,
        signer: Signer,
        build: Callable[[str], tuple[FactKind, Body]],
        now_s: int,
        nonce: int,
        denied: frozenset[str] = frozenset(),
    ) -> tuple[Applied, Body, bytes]:
        """State a fact of this node. ``build`` gets the id of the new object. Raises RefusedError, UsageError.

        Returns the outcome, the object, and the envelope to send.
        """
        self.check_open(signer.node_id)
        feed = self.feeds.get(signer.node_id)
        seq = feed.head_seq + 1
        kind, body = build(object_id(self.namespace, signer.node_id, seq))
        fact = Fact(kind=kind, author=signer.node_id, seq=seq, ts=now_s, body=body)
        decision = self._judge.propose(fact, denied, now_s)
        if decision.outcome is not Outcome.ACCEPTED:
            raise RefusedError(decision.detail or f"the {kind.value} was refused", decision.reason)
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
                f"the envelope has {len(envelope.raw)} bytes, but at most {room} are allowed; shorten it",
                Reason.TOO_LARGE,
            )
        fact = msgspec.structs.replace(fact, envelope=envelope.meta.id)
        decision = self._judge.propose(fact, denied, now_s)
        return self._commit(envelope, fact, decision, now_s, Via.LOCAL), body, envelope.raw

    def _commit(
        self,
        envelope: Envelope,
        fact: Fact | None,
        decision: Decision,
        now_s: int,
        via: Via,
        readmitted: tuple[Raw, ...] = (),
        *,
        behind: bool = False,
        pins: bool = False,
    ) -> Applied:
        self.mending.boundary.cross(envelope.raw)
        meta = envelope.meta
        changes = apply_all(self.state, decision.events)
        unsigned = fact is not None and not fact.signed
        if meta.v is None:
            self.arrivals += 1
        record = EnvelopeRecord(
            Raw(envelope.raw),
            now_s,
            via,
            decision.outcome,
            decision.reason,
            tuple([event_row(event) for event in decision.events]),
            behind,
            pins,
            role_of(fact, decision),
            self.arrivals if unsigned else 0,
            fact_row(fact) if fact is not None and unsigned else None,
            readmitted,
        )
        row = None if meta.v is None else held_row(record, envelope, fact)
        if row is not None:
            self.held.add(row, envelope.raw)
        if not behind and meta.v is not None:
            self.enter(meta, fact, decision.outcome)
        self.seen.add(seen_key(meta), now_s)
        return Applied(
            decision.outcome,
            decision.reason,
            decision.detail,
            meta,
            record=encode_record(record),
            row=row,
            seed_id="" if fact is None else fact.seed_id,
            changes=changes,
            in_feed=meta.v is not None and not behind,
            raw=envelope.raw,
        )
