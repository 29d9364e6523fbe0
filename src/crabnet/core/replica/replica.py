"""The replicated state of one namespace: what happens to an envelope, from raw bytes to journal record.

``receive`` is the road of remote envelopes, ``propose`` that of the operator's own statements; both end in ``_commit``.
``replay`` does again what was decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw, Struct

from crabnet import limits
from crabnet.core.mending import JUDGING, Mending, ReplicaFailedError, is_containable
from crabnet.core.replica.applied import Applied, Fork, apply_all, combined_hash, refused_by
from crabnet.core.replica.archived import Attic
from crabnet.core.replica.held import Held, HeldRow, MemoryHeld, Role
from crabnet.core.replica.judge import Judge
from crabnet.core.replica.parking import Parked, Parking
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.core.replica.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    Record,
    RefoldRecord,
    SegmentRow,
    SettledRecord,
    Via,
    encode_record,
    envelope_of,
    event_of_row,
    event_row,
    fact_of_row,
    fact_row,
    held_row,
    record_fact,
)
from crabnet.core.replica.settling import Fold, Settling
from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import EMPTY
from crabnet.domain.model import Body, Fact, FactKind, Seed, share_with
from crabnet.domain.standing import may_rest_on
from crabnet.domain.state import DEFAULT_CAPS, Caps, Decision, Observe, Outcome, State, apply
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError, UsageError
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
from crabnet.protocol.feed import Feeds, Place
from crabnet.protocol.fork_proof import ForkEvidence
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.legacy import check_unsigned, legacy_fact
from crabnet.protocol.payloads import PayloadRefusedError, fact_of, payload_of
from crabnet.protocol.replay import SeenWindow
from crabnet.protocol.sync import Named

Pays = Callable[[EnvelopeMeta, int], bool]
"""Charges an envelope of so many bytes, which is verified and new, to its author; False if it is over its budget."""


def _nothing_wanted(_: EnvelopeMeta) -> bool:
    return False


def _knows_everybody(_: str) -> bool:
    return True


class _Arrival(Struct, frozen=True, gc=False):
    """An envelope on its way into its feed: when (s), how and whence it came."""

    admitted: Admitted
    now_s: int
    via: Via
    source: str


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
        self.knows: Callable[[str], bool] = _knows_everybody
        self.mending = Mending()
        self.admission = Admission(policy, self.seen, verify_all=verify_all)
        self._rebuilder = Rebuilder(self.feeds, MemoryHeld())
        self._judge = Judge(self.state, self.feeds, self.attic, self._rebuilder)
        self._settling = Settling(self.state, self.feeds, self.attic, self._rebuilder, self.mending)
        self.held = self._rebuilder.held

    @property
    def held(self) -> Held:
        """What is held but not in memory."""
        return self._rebuilder.held

    @held.setter
    def held(self, held: Held) -> None:
        self._rebuilder.held = held
        self.feeds.lookup = held.id_at

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
        return self._take_in(_Arrival(admitted, now_s, via, source), pays)

    def _take_in(self, arrival: _Arrival, pays: Pays | None = None) -> list[Applied]:
        """Step 13 and on, for an envelope and then for those that waited for it."""
        waiting: deque[_Arrival] = deque()
        applied = self._contained(arrival, waiting, pays)
        while waiting:
            applied += self._contained(waiting.popleft(), waiting, None)
        return applied

    def _contained(self, arrival: _Arrival, waiting: deque[_Arrival], pays: Pays | None) -> list[Applied]:
        """What becomes of one envelope. It is refused if the node has failed on it, or cannot judge it."""
        admitted = arrival.admitted
        envelope = admitted.envelope
        if self.mending.refuses(envelope.raw):
            return [refused_by(refusal(Reason.QUARANTINED, "the node has failed on it before", envelope.meta))]
        crossings = self.mending.boundary.crossings
        try:
            if not envelope.signed:
                return [self._unsigned(admitted, arrival.now_s, arrival.via)]
            return self._signed(arrival, waiting, pays)
        except Exception as error:
            fatal = isinstance(error, DataDirDamagedError | ReplicaFailedError)
            if fatal or self.mending.boundary.crossings != crossings:
                raise
            if isinstance(error, CrabnetError):  # what is held cannot be read now: the envelope must come again
                detail = f"it cannot be judged now: {error.message}"
                return [Applied(Outcome.IGNORED, Reason.UNAVAILABLE, detail, envelope.meta, admitted)]
            self.mending.fault(JUDGING, error, envelope.raw)
            return [refused_by(refusal(Reason.INTERNAL, _UNJUDGED.detail, envelope.meta))]

    def _signed(self, arrival: _Arrival, waiting: deque[_Arrival], pays: Pays | None) -> list[Applied]:
        """Step 13: the place in the author's feed, and whether it may take it now."""
        admitted = arrival.admitted
        meta = admitted.envelope.meta
        place = self.feeds.place(meta.from_, meta.seq, meta.id, meta.prev)
        if place is Place.BEHIND and arrival.via is not Via.IMPORT and not self._is_named(meta.id):
            return [self._behind_end(meta)]
        others_wait = len(self.parking) > 0
        waits = others_wait and place is not Place.DUPLICATE and self._waits(meta.id)
        new = place is not Place.DUPLICATE and not waits
        if pays is not None and new and not pays(meta, len(admitted.envelope.raw)):
            detail = "the author is over its budget"
            return [Applied(Outcome.IGNORED, Reason.AUTHOR_LIMITED, detail, meta, admitted)]
        if place is Place.DUPLICATE:
            return [refused_by(refusal(Reason.DUPLICATE, f"held at seq {meta.seq}", meta))]
        if waits:
            refused = refused_by(refusal(Reason.DUPLICATE, "waits already", meta))
            return [msgspec.structs.replace(refused, lacks=self._lacks(meta.id))]
        if place is Place.FORK:
            return self._forked([arrival], waiting)
        rival = self._rival(meta) if others_wait and place is not Place.BEHIND else None
        if rival is not None:
            return self._forked([arrival, _parked_arrival(rival.admitted, arrival, rival.source)], waiting)
        if place is Place.GAP or place is Place.BROKEN_CHAIN:
            return [self._park(arrival, Reason.GAP if place is Place.GAP else Reason.BROKEN_CHAIN)]
        return self._accept(arrival, waiting, behind=place is Place.BEHIND)

    def _behind_end(self, meta: EnvelopeMeta) -> Applied:
        detail = f"the feed ends before seq {self.feeds.get(meta.from_).end}: it was forked there"
        return Applied(Outcome.IGNORED, Reason.FEED_ENDED, detail, meta)

    def _park(self, arrival: _Arrival, reason: Reason, lacks: Named | None = None) -> Applied:
        meta = arrival.admitted.envelope.meta
        known, parked = self.knows(meta.from_), False
        with self.mending.soft:
            known = known or self.parking.voucher(meta.from_, meta.seq, meta.id, self.knows) is not None
            parked = self.parking.put(arrival.admitted, arrival.now_s, arrival.source, known=known, lacks=lacks)
        detail = f"seq {meta.seq}, the feed is held up to {self.feeds.get(meta.from_).head_seq}"
        if lacks is not None:
            detail = f"it rests on envelope {lacks.envelope_id} about seed {lacks.seed_id}, which is not held"
        reason = reason if parked else Reason.PARKING_FULL
        return Applied(Outcome.IGNORED, reason, detail, meta, parked=parked, lacks=lacks)

    def _waits(self, envelope_id: str) -> bool:
        with self.mending.soft:
            return self.parking.holds(envelope_id)
        return False

    def _lacks(self, envelope_id: str) -> Named | None:
        """What an envelope that waits rests on, if it waits for that."""
        with self.mending.soft:
            return self.parking.lacks(envelope_id)
        return None

    def _is_named(self, envelope_id: str) -> bool:
        """True if something that waits rests on this envelope."""
        with self.mending.soft:
            return self.parking.names(envelope_id)
        return False

    def _rival(self, meta: EnvelopeMeta) -> Parked | None:
        with self.mending.soft:
            return self.parking.rival(meta.from_, meta.seq, meta.id)
        return None

    def _is_lacking(self, named: Named) -> bool:
        """True if something that waits rests on this envelope about this seed."""
        with self.mending.soft:
            return self.parking.lacks_named(named)
        return False

    def _freed_by(self, meta: EnvelopeMeta, fact: Fact | None, *, behind: bool) -> list[Parked]:
        """What waits no more, now that an envelope is held."""
        freed: list[Parked] = []
        if not len(self.parking):
            return freed
        with self.mending.soft:
            if fact is not None:
                freed += self.parking.take_lacking(Named(fact.seed_id, meta.id))
            if not behind:
                freed += self.parking.take_next(meta.from_, meta.seq + 1)
        return freed

    def _named_behind(self, evidence: list[_Arrival], author: str, seq: int) -> list[_Arrival]:
        """What others rest on, of what has come or waited behind the end of its feed; the rest waits no more."""
        behind: list[_Arrival] = []
        with self.mending.soft:
            for parked in self.parking.take_behind(author, seq):
                behind.append(_parked_arrival(parked.admitted, evidence[0], parked.source))
        return [each for each in (*evidence, *behind) if self._is_named(each.admitted.envelope.meta.id)]

    def _forked(self, evidence: list[_Arrival], waiting: deque[_Arrival]) -> list[Applied]:
        """The first of ``evidence`` and another envelope, the second or the one that is held, are for one place."""
        meta = evidence[0].admitted.envelope.meta
        author, seq = meta.from_, meta.seq
        other = self.feeds.id_at(author, seq) or ""
        if len(evidence) > 1:
            other = evidence[1].admitted.envelope.meta.id
        head_id = self.feeds.last_before(author, seq)
        self.mending.boundary.cross(evidence[0].admitted.envelope.raw)
        self.feeds.end_at(author, seq, head_id)
        self._settling.begin(author, seq)
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
                    f"another envelope of its author is known for seq {seq}",
                    envelope.meta,
                    record=encode_record(ForkRecord(Raw(envelope.raw), each.now_s, head_id if last else None)),
                    row=row,
                    fork=Fork(author, seq, envelope.meta.id, other) if last else None,
                    quiet=at > 0,
                )
            )
        waiting.extend(self._named_behind(evidence, author, seq))
        return applied

    def learn_fork(self, evidence: ForkEvidence, now_s: int, source: str) -> list[Applied]:
        """Take in a verified proof: the feed ends there, if it did not end before."""
        meta = evidence.meta
        end = self.feeds.get(meta.from_).end
        if end and end <= meta.seq:
            return []
        arrivals = [
            _Arrival(admitted, now_s, Via.SYNC, source)
            for admitted in (evidence.lower, evidence.higher)
            if self.feeds.id_at(meta.from_, meta.seq) != admitted.envelope.meta.id
        ]
        waiting: deque[_Arrival] = deque()
        applied = self._forked(arrivals, waiting)
        while waiting:
            applied += self._take_in(waiting.popleft())
        return applied

    def _accept(self, arrival: _Arrival, waiting: deque[_Arrival], *, behind: bool) -> list[Applied]:
        """Steps 14 and 15 for an envelope that takes its place, or that others rest on: role and lifecycle."""
        admitted = arrival.admitted
        envelope = admitted.envelope
        parent: Fact | None = None
        fact, decision = _stated(admitted)
        refused = self._refused_behind(envelope.meta, fact, arrival.via) if behind else None
        if refused is not None:
            return [refused]
        rests_on = "" if fact is None else fact.rests_on
        if fact is not None and rests_on:
            if not self._waits(rests_on):  # what waits is not held, and the disk need not be asked
                parent = self._judge.find(fact.seed_id, rests_on)
            if parent is None:
                return [self._park(arrival, Reason.UNKNOWN_PARENT, Named(fact.seed_id, rests_on))]
            if not may_rest_on(fact, parent):
                detail = f"a {fact.kind} does not rest on a {parent.kind}"
                fact, decision = None, Decision(Outcome.REJECTED, Reason.WRONG_PARENT, detail=detail, idle=True)
        if fact is not None:
            share_with(fact, parent)
        meta = envelope.meta
        pins = fact is not None and parent is not None and not behind and self._judge.needs_fold(fact, parent)
        if behind and decision is None:
            decision = Decision(Outcome.ACCEPTED, None)
        thawed: tuple[Raw, ...] = ()
        if fact is not None and decision is None:
            decision, thawed = self._judge.judge(fact, parent, arrival.now_s, pins=pins)
        if decision is None:
            raise RefusedError(f"envelope {meta.id} states nothing", Reason.INTERNAL)
        fold: Fold | None = None
        if pins and fact is not None and not decision.idle:
            decision, fold = self._fold_in(fact)
        pins = fold is not None
        applied = [self._commit(envelope, fact, decision, arrival.now_s, arrival.via, thawed, behind=behind, pins=pins)]
        if fold is not None:
            applied += self._settling.refolded(fold, arrival.now_s)
        freed = self._freed_by(meta, fact, behind=behind)
        waiting.extend(_parked_arrival(parked.admitted, arrival, parked.source) for parked in freed)
        return applied

    def _refused_behind(self, meta: EnvelopeMeta, fact: Fact | None, via: Via) -> Applied | None:
        """What is held behind the end of a feed is what others rest on, once."""
        if fact is None or self.held.envelope(fact.seed_id, meta.id) is not None:
            return refused_by(refusal(Reason.DUPLICATE, "held behind the end of its feed", meta))
        if via is Via.IMPORT or self._is_lacking(Named(fact.seed_id, meta.id)):
            return None
        return self._behind_end(meta)

    def _fold_in(self, fact: Fact) -> tuple[Decision, Fold]:
        """What becomes of a fact that needs a fold, and of its seed."""
        fold = self._settling.fold(fact.seed_id, fact)
        if fold.counts:
            return Decision(Outcome.ACCEPTED, None), fold
        return Decision(Outcome.IGNORED, Reason.WRONG_STATE), fold

    def settle_some(self, seeds_max: int, now_s: int) -> list[Applied]:
        """Draw some of the consequences of feeds that have ended: those for at most ``seeds_max`` facts.

        Raises CrabnetError when what is held cannot be read, and whatever a fold raises; nothing is lost by that.
        """
        return self._settling.settle_some(seeds_max, now_s)

    @property
    def settling(self) -> bool:
        """True if ``settle_some`` would have something to do."""
        return self._settling.pending

    def settle_all(self, now_s: int) -> list[Applied]:
        """Draw all consequences at once."""
        applied: list[Applied] = []
        while self.settling:
            applied += self.settle_some(limits.SETTLED_AT_ONCE_MAX, now_s)
        return applied

    def resume(self, now_s: int) -> list[Applied]:
        """To be called once after the replica was loaded: what was not all journalled is taken up again.

        Raises CrabnetError when what is held cannot be read. A seed whose fold fails otherwise stays as it is.
        """
        return self._settling.resume(now_s)

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
        return self._commit(admitted.envelope, fact, decision, now_s, via)

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

    def check_open(self, node_id: str) -> None:
        """Raises RefusedError if this node's own feed has ended."""
        end = self.feeds.get(node_id).end
        if end:
            raise RefusedError(
                f"the feed of {node_id} has ended: its key has signed two envelopes for seq {end};"
                " nothing more can be said under this id; `crabnet id renew` makes a new one",
                Reason.FEED_ENDED,
            )

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
        self.check_open(signer.node_id)
        feed = self.feeds.get(signer.node_id)
        seq = feed.head_seq + 1
        kind, body = build(object_id(self.namespace, signer.node_id, seq))
        fact = Fact(kind=kind, author=signer.node_id, seq=seq, ts=now_s, body=body)
        decision = self._judge.propose(fact, shunned, now_s)
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
        fact = msgspec.structs.replace(fact, envelope=envelope.meta.id)
        decision = self._judge.propose(fact, shunned, now_s)
        return self._commit(envelope, fact, decision, now_s, Via.LOCAL), body, envelope.raw

    def _commit(
        self,
        envelope: Envelope,
        fact: Fact | None,
        decision: Decision,
        now_s: int,
        via: Via,
        thawed: tuple[Raw, ...] = (),
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
            _role(fact, decision),
            self.arrivals if unsigned else 0,
            fact_row(fact) if fact is not None and unsigned else None,
            thawed,
        )
        row = None if meta.v is None else held_row(record, envelope, fact)
        if row is not None:
            self.held.add(row, envelope.raw)
        if not behind and meta.v is not None:
            self._enter(meta, fact, decision.outcome)
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

    def _enter(self, meta: EnvelopeMeta, fact: Fact | None, outcome: Outcome) -> None:
        """An envelope takes its place; what its author says of its own seeds decides how many of them are open."""
        open_seeds = self.feeds.advance(meta.from_, meta.seq, meta.id).open_seeds
        if fact is None:
            return
        if fact.kind is FactKind.SEED and outcome is Outcome.ACCEPTED:
            open_seeds[fact.seed_id] = None
        elif fact.kind in _CLOSING:
            open_seeds.pop(fact.seed_id, None)

    def replay(self, record: Record) -> EnvelopeMeta | None:
        """Do again what a journalled record says, without judging; returns the head of its envelope if it has one.

        Raises DataDirDamagedError.
        """
        if isinstance(record, SettledRecord):
            self.feeds.settle(record.author, record.end)
            return None
        self.replayed_until_s = max(self.replayed_until_s, record.at_s)
        if isinstance(record, ArchiveRecord):
            self.attic.put_away(record.segment, record.seed_ids)
            return None
        if isinstance(record, FactRecord):
            self.arrivals += 1
            for row in record.events:
                apply(self.state, event_of_row(row, fact_of_row(record.fact)))
            return None
        if isinstance(record, RefoldRecord):
            for raw in record.thawed:
                self.attic.readmit(bytes(raw))
            for row in record.events:
                apply(self.state, event_of_row(row, None))
                self._settling.unfolded[row.seed_id] = None
            for seed_id in record.done:
                self._settling.unfolded.pop(seed_id, None)
            return None
        envelope = envelope_of(record)
        meta = envelope.meta
        if isinstance(record, ForkRecord):
            self.held.add(HeldRow(meta.from_, meta.seq, meta.id), envelope.raw)
            if record.head_id is not None:
                self.feeds.end_at(meta.from_, meta.seq, record.head_id)
            return meta
        self._replay_envelope(record, envelope)
        return meta

    def _replay_envelope(self, record: EnvelopeRecord, envelope: Envelope) -> None:
        meta = envelope.meta
        fact = None if record.role is Role.NOTHING else record_fact(record, envelope)
        for raw in record.thawed:
            self.attic.readmit(bytes(raw))
        for row in record.events:
            apply(self.state, event_of_row(row, fact))
        if record.pins and fact is not None:
            self._settling.unfolded[fact.seed_id] = None
        self.seen.add(seen_key(meta), record.at_s)
        if meta.v is None:
            self.arrivals += 1
            return
        self.held.add(held_row(record, envelope, fact), envelope.raw)
        if not record.behind:
            self._enter(meta, fact, record.outcome)

    def definition(self, seed_id: str) -> Seed | None:
        """The definition of a seed, if it is known."""
        record = self.state.records.get(seed_id)
        return None if record is None else record.definition


_CLOSING: Final = frozenset({FactKind.SETTLE, FactKind.CLOSE})
"""What the creator of a seed says last about it. A forfeit may be followed by another claim."""
_CAPPED: Final = frozenset({Reason.TOO_MANY_OPEN_SEEDS, Reason.TOO_MANY_OWN_BIDS, Reason.TOO_MANY_OWN_STEPS})


def _role(fact: Fact | None, decision: Decision) -> Role:
    if fact is None:
        return Role.NOTHING
    if not decision.idle:
        return Role.MAY
    return Role.CAPPED if decision.reason in _CAPPED else Role.NEVER


def _stated(admitted: Admitted) -> tuple[Fact | None, Decision | None]:
    """The fact that an envelope states, or what is decided about one that states none."""
    if admitted.kind is Kind.UNKNOWN:
        detail = f"kind {admitted.envelope.meta.kind}"
        return None, Decision(Outcome.IGNORED, Reason.UNKNOWN_KIND, detail=detail)
    try:
        return fact_of(admitted.envelope, admitted.kind), None
    except PayloadRefusedError as error:
        return None, Decision(Outcome.REJECTED, error.reason, detail=error.detail)


def _parked_arrival(admitted: Admitted, arrival: _Arrival, source: str) -> _Arrival:
    """Something that has waited, and comes with ``arrival``."""
    return _Arrival(admitted, arrival.now_s, arrival.via, source)
