"""The core: ``handle(input, now_ms, effects)`` judges an input, changes the replica, and says what to do.

The caller makes ``effects.records`` durable before it does anything else that they ask for, and takes the core as lost
if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from crabnet import limits
from crabnet.core import build
from crabnet.core.applied import Applied, Change
from crabnet.core.authors import AuthorBudgets
from crabnet.core.commands import (
    Answered,
    CreateClaim,
    FinishRun,
    Input,
    Operation,
    Publish,
    Received,
    RenewRun,
    Roused,
    Settle,
    StartRun,
    SubmitBid,
    Tick,
)
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda, at_rest_since_ms
from crabnet.core.effects import Awake, Effects, EndedClaim, FeedPlace, FieldValue, Notice, RunOrder, Send, Sleep
from crabnet.core.mending import Containment, Part
from crabnet.core.neighbours import Neighbours
from crabnet.core.notices import (
    applied_notice,
    blocked_notice,
    change_notice,
    drop_notice,
    fork_notice,
    given_up_notice,
    proof_notice,
    quarantined_notice,
    refused_notice,
)
from crabnet.core.parking import Parking
from crabnet.core.records import SegmentRow, Via
from crabnet.core.replica import Replica
from crabnet.core.rows import decode_seed_row, record_of_row
from crabnet.core.sources import SourceGate
from crabnet.core.sweeper import Sweep, SweepConfig, Sweeper
from crabnet.domain.lifecycle import EMPTY, Record
from crabnet.domain.model import Body, Fact, FactKind, Run, SeedStatus, Settlement, Termination, TerminationCause
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.protocol.admission import Ahead, Muted, nobody_muted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.fork_proof import PROOF_START, ProofRefusedError, place_of, verify_proof
from crabnet.protocol.identity import Signer, VerifyAll, verify_each

_EMPTY_OUTPUT_HASH: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


_NOT_THE_SOURCE: Final = frozenset({Reason.FORK, Reason.LIMIT_EXCEEDED})
"""Rejects that honest neighbours can bring about by passing on what they hold."""
_BEHIND: Final = frozenset({Reason.GAP, Reason.BROKEN_CHAIN, Reason.PARKING_FULL})


def _anything(_: EnvelopeMeta) -> bool:
    return True


class Core:
    """One node's brain. ``entropy`` returns random integers up to 2^53-1, ``verify_all`` checks many signatures."""

    def __init__(
        self, config: CoreConfig, signer: Signer, entropy: Callable[[], int], verify_all: VerifyAll = verify_each
    ) -> None:
        self.config = config
        self.signer = signer
        self.replica = Replica(
            config.policy,
            seen_ttl_s=config.seen_ttl_s,
            seen_capacity=config.seen_capacity,
            parked_ttl_s=config.parked_ttl_s,
            caps=config.caps,
            verify_all=verify_all,
        )
        self.mending = self.replica.mending
        self.mending.parts, self.mending.renew = self._parts, self._renew
        self._soft = self.mending.soft
        self.authors = self._new_budgets()
        self.replica.knows = self._knows
        self.neighbours = Neighbours(config, signer, self.replica, entropy, self._room)
        self._gate = SourceGate(config.sources)
        self._report_drops_at_ms = 0
        self.sweeper = self._new_sweeper()
        self._resting = Agenda()
        self._deadlines_wrong = False
        self._deadlines_from_ms = 0
        self._entropy = entropy
        self._interrupted: list[str] = []
        self.overdue_at_start = 0

    def handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        """Do what an input asks for; adds to ``effects``. Raises RefusedError or UsageError for operations only.

        Raises ReplicaFailedError when something unexpected happens while the replica is being changed, and from then
        on: ``effects`` are void then. Whatever else nobody expected is left in ``mending`` for the caller.
        """
        operation = None
        if isinstance(given, Received):
            self.mending.handling(given.data, given.source)
        else:
            self.mending.handling()
            operation = None if isinstance(given, Answered | Tick | Roused) else type(given).__name__
        with Containment(self.mending, operation):
            self._handle(given, now_ms, effects)

    def _handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        if isinstance(given, Received):
            self._received(given, now_ms, effects)
        elif isinstance(given, Tick):
            self._tick(now_ms, effects)
        elif isinstance(given, Answered):
            with self._soft:
                self.neighbours.served(given.ranges, given.to, now_ms, effects)
        elif isinstance(given, Roused):
            self._roused(given, now_ms, effects)
        else:
            self._operate(given, now_ms, effects)

    def begin(self, now_ms: int, effects: Effects) -> None:
        """To be called once after the replica was loaded: interrupted runs are recorded, deadlines noted."""
        me = self.signer.node_id
        with self._soft:
            self.authors.begin((author, head[0]) for author, head in self.replica.feeds.heads().items())
        with self._soft:
            self.neighbours.begin()
        for seed_id, record in self.replica.state.records.items():
            progress = record.progress
            if progress.status is SeedStatus.RUNNING and progress.claimed_by == me:
                self._interrupted.append(seed_id)
            self._watch(seed_id, record, now_ms)
        with self._soft:
            self.overdue_at_start = self.sweeper.begin(now_ms)
        self._deadlines_from_ms = now_ms
        if self.feed_risk:
            self.neighbours.warn("the data dir was repaired, or is a copy", effects)
        self._record_interrupted(now_ms, effects)

    @property
    def feed_risk(self) -> bool:
        """True while others may hold more of this node's feed than it does itself: nothing is written into it."""
        return self.neighbours.guard.at_risk

    @feed_risk.setter
    def feed_risk(self, at_risk: bool) -> None:
        self.neighbours.guard.at_risk = at_risk

    def _watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Note when time will matter to a seed that has changed."""
        with self._soft:
            self.sweeper.watch(seed_id, record, now_ms)
        with self._soft:
            since_ms = at_rest_since_ms(record) if self.config.archive_after_ms else None
            if since_ms is not None:
                self._resting.add(since_ms + self.config.archive_after_ms, seed_id)

    def archivable(self, now_ms: int) -> list[tuple[str, Record]]:
        """Seeds that have been at rest for the retention time. Give those that were written to ``archived``."""
        found: list[tuple[str, Record]] = []
        for seed_id in self._resting.due(now_ms, limits.ARCHIVE_SEGMENT_SEEDS_MAX):
            record = self.replica.state.records.get(seed_id)
            since_ms = None if record is None else at_rest_since_ms(record)
            if record is not None and since_ms is not None and since_ms + self.config.archive_after_ms <= now_ms:
                found.append((seed_id, record))
        return found

    def archived(self, segment: SegmentRow, written: list[tuple[str, Record]], now_ms: int, effects: Effects) -> None:
        """A durable segment holds ``written``; those that have not changed meanwhile leave memory.

        Raises ReplicaFailedError.
        """
        records = self.replica.state.records
        self.mending.handling()
        with Containment(self.mending):
            ids = tuple(seed_id for seed_id, record in written if records.get(seed_id) is record)
            effects.records.append(self.replica.archive(segment, ids, now_ms // 1000))
            self.mending.boundary.close()
            for seed_id, _ in written:
                changed = records.get(seed_id)
                if changed is not None:
                    self._watch(seed_id, changed, now_ms)

    def record(self, seed_id: str) -> Record:
        """What is known about a seed, archived or not. Raises RefusedError for an unknown one."""
        record = self.replica.state.records.get(seed_id)
        if record is None and seed_id not in self.replica.state.erased:
            row = self.replica.attic.thaw(seed_id)
            record = None if row is None else record_of_row(decode_seed_row(row))
        if record is None or record.seed is None:
            raise RefusedError(f"no seed {seed_id} is known here", Reason.UNKNOWN_SEED)
        return record

    def awaits_result(self, seed_id: str, claim_id: str) -> bool:
        """True while a claim counts and no result of it is held."""
        progress = self.replica.state.records.get(seed_id, EMPTY).progress
        return progress.claim_id == claim_id and progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}

    def allows(self, source: str, now_ms: int, effects: Effects, size_bytes: int = 0, *, crowded: bool = False) -> bool:
        """Step 1 of verification: may this source speak now? To be asked once for every datagram."""
        proven = self._proven(source)
        with self._soft:
            refused = self._gate.check(source, now_ms, proven=proven, size_bytes=size_bytes, crowded=crowded)
            if self._gate.blocked:
                self._tell_blocks(effects)
            return refused is None
        return True

    def blame(self, source: str, now_ms: int, effects: Effects) -> None:
        """Count something broken or hostile against the address that sent it."""
        proven = self._proven(source)
        with self._soft:
            self._gate.reject(source, now_ms, proven=proven)
            if self._gate.blocked:
                self._tell_blocks(effects)

    def _tell_blocks(self, effects: Effects) -> None:
        effects.notices.extend(blocked_notice(block) for block in self._gate.take_blocks())

    def look_ahead(self, messages: Sequence[Received], now_ms: int) -> None:
        """Check all signatures of messages that are about to be handled at once, for ``verify_all`` to share out."""
        self.mending.handling()
        with self.mending.judging(b""):
            self.replica.admission.look_ahead(
                [message.data for message in messages], now_ms // 1000, self._wanted, self._muted(now_ms)
            )
            return
        self.replica.admission.forget_ahead()

    def collect(self, messages: Sequence[Received], now_ms: int) -> Ahead:
        """The first half of ``look_ahead``: which signatures are to be checked, by whom and when the caller likes."""
        self.mending.handling()
        with self.mending.judging(b""):
            return self.replica.admission.collect(
                [message.data for message in messages], now_ms // 1000, self._wanted, self._muted(now_ms)
            )
        self.replica.admission.forget_ahead()
        return Ahead([], [], {})

    def answered(self, ahead: Ahead, genuine: Sequence[bool] | None) -> None:
        """The second half: what became of ``ahead.signed``, None if nobody could tell: each is checked alone then.

        To be called just before its messages are handled.
        """
        if genuine is None:
            self.replica.admission.forget_ahead()
            return
        with self.mending.judging(b""):
            self.replica.admission.answered(ahead, genuine)
            return
        self.replica.admission.forget_ahead()

    @property
    def hungry(self) -> bool:
        """True if ``rest`` would ask for more."""
        with self._soft:
            return self.neighbours.planner.hungry or self.neighbours.reconciler.hungry
        return False

    def rest(self, now_ms: int, effects: Effects) -> None:
        """To be called when some messages were handled: asks on for what is missing, without waiting for a tick."""
        self.mending.handling()
        with self._soft:
            self.neighbours.rest(now_ms, effects)

    def confirmed_peers(self) -> list[str]:
        """Addresses that have proved themselves."""
        with self._soft:
            return self.neighbours.peers.confirmed()
        return []

    def _proven(self, source: str) -> bool:
        with self._soft:
            return self.neighbours.proven(source)
        return False

    def _wanted(self, meta: EnvelopeMeta) -> bool:
        with self._soft:
            return self.neighbours.planner.wanted(meta.from_, meta.seq)
        return False

    def _knows(self, author: str) -> bool:
        with self._soft:
            return self.authors.knows(author)
        return True

    def _room(self, author: str, now_ms: int) -> int:
        return self.authors.room(author, now_ms)

    def _muted(self, now_ms: int) -> Muted:
        with self._soft:
            if self.authors.pausing(now_ms):
                return partial(self._paused, now_ms)
        return nobody_muted

    def _paused(self, now_ms: int, author: str) -> bool:
        with self._soft:
            return self.authors.paused(author, now_ms)
        return False

    def _pays(self, now_ms: int, proven: bool, meta: EnvelopeMeta, size: int) -> bool:
        """What cannot be charged is taken: budgets only delay."""
        requested = proven and self._wanted(meta)
        with self._soft:
            return self.authors.charge(meta.from_, size, now_ms, requested=requested)
        return True

    def _limited(self) -> bool:
        with self._soft:
            return self.authors.enabled
        return False

    def _new_budgets(self) -> AuthorBudgets:
        feeds = self.replica.feeds
        return AuthorBudgets(self.config.authors, lambda author: feeds.get(author).head_seq, self.signer.node_id)

    def _new_sweeper(self) -> Sweeper:
        sweeps = SweepConfig(
            execution_grace_ms=self.config.execution_grace_ms,
            auto_reclaim=self.config.auto_reclaim,
            attempts_max=self.config.reclaim_attempts_max,
        )
        return Sweeper(sweeps, self.signer.node_id, self.replica.state, self._shuns)

    def _parts(self) -> dict[Part, object]:
        """The soft parts as they are now."""
        return {
            Part.SOURCES: self._gate,
            Part.BUDGETS: self.authors,
            Part.PARKING: self.replica.parking,
            Part.DEADLINES: self.sweeper,
            **self.neighbours.parts(),
        }

    def _renew(self, part: Part) -> None:
        """Make a soft part anew, from the configuration and the replica."""
        if part is Part.SOURCES:
            self._gate = SourceGate(self.config.sources)
        elif part is Part.BUDGETS:
            self.authors = self._new_budgets()
            self.authors.begin((author, head[0]) for author, head in self.replica.feeds.heads().items())
        elif part is Part.PARKING:
            self.replica.parking = Parking(self.config.parked_ttl_s)
            self.neighbours.renew(Part.WANTS)
        elif part is Part.DEADLINES:
            self._deadlines_wrong = True
        else:
            self.neighbours.renew(part)

    def _renew_deadlines(self, now_ms: int) -> None:
        """At most now and then: this looks at every seed."""
        if not self._deadlines_wrong or now_ms < self._deadlines_from_ms:
            return
        self._deadlines_from_ms = now_ms + limits.DEADLINES_RENEW_MS
        self.sweeper, self._resting = self._new_sweeper(), Agenda()
        for seed_id, record in self.replica.state.records.items():
            self._watch(seed_id, record, now_ms)
        self.sweeper.begin(now_ms)
        self._deadlines_wrong = False

    def _received(self, received: Received, now_ms: int, effects: Effects) -> None:
        if self.mending.refuses(received.data):
            effects.notices.append(quarantined_notice(received.source))
            return
        if received.data.startswith(PROOF_START):
            self._proof_received(received, now_ms, effects)
            return
        source = received.source
        now_s = now_ms // 1000
        imported = received.via is Via.IMPORT
        proven = self._proven(source)
        limited = not imported and self._limited()
        applied = self.replica.receive(
            received.data,
            now_s,
            via=received.via,
            source=source,
            wanted=_anything if imported else self._wanted,
            muted=self._muted(now_ms) if limited else nobody_muted,
            pays=partial(self._pays, now_ms, proven) if limited else None,
        )
        self._hand_over(applied, effects)
        first = applied[0]
        if not imported:
            with self._soft:
                self._hold_to_account(first, source, now_ms, effects, proven=proven)
        if first.admitted is not None and first.record is None and first.outcome is Outcome.ACCEPTED:
            with self._soft:
                self.neighbours.talk(first.admitted, source, now_ms, effects)
            return
        meta = first.meta
        asked_for = meta is not None and self._wanted(meta)
        for item in applied:
            self._report(item, source, now_ms, effects)
            if not asked_for and not imported:
                with self._soft:
                    self.neighbours.pass_on(item, source, now_ms, effects)
        with self._soft:
            for parked in self.replica.parking.take_evicted():
                effects.notices.append(given_up_notice(parked, Reason.PARKING_FULL))
        if meta is None or meta.v is None or imported or first.outcome is Outcome.REJECTED:
            return
        if first.reason is Reason.DUPLICATE and not asked_for:
            with self._soft:
                self.neighbours.repeated(meta, source, now_ms)
        over_budget = first.reason is Reason.AUTHOR_LIMITED and first.admitted is not None
        if over_budget or first.reason in _BEHIND:
            with self._soft:
                self.neighbours.gap(meta, first.reason, source, now_ms, effects)
        if first.record is not None or first.parked:
            with self._soft:
                self.neighbours.heard(source, now_ms, effects)

    def _proof_received(self, received: Received, now_ms: int, effects: Effects) -> None:
        """A document that proves a fork. One that nobody asked for is not even verified."""
        source = received.source
        if not len(self.neighbours.forks):
            effects.notices.append(proof_notice(source, Reason.UNSOLICITED, "nobody asked for a fork proof"))
            return
        try:
            author, seq = place_of(received.data, self.replica.admission)
            if not self.neighbours.forks.wanted(author, seq):
                detail = f"nobody asked for proof of a fork at seq {seq}"
                effects.notices.append(proof_notice(source, Reason.UNSOLICITED, detail, author))
                return
            evidence = verify_proof(received.data, self.replica.admission)
        except ProofRefusedError as error:
            effects.notices.append(proof_notice(source, error.reason, error.detail))
            self.blame(source, now_ms, effects)
            return
        applied = self.replica.learn_fork(evidence, now_ms // 1000, source)
        self._hand_over(applied, effects)
        for item in applied:
            self._report(item, source, now_ms, effects)
            if item.parked and item.meta is not None and item.reason is not None:
                with self._soft:
                    self.neighbours.gap(item.meta, item.reason, source, now_ms, effects)

    def _hold_to_account(self, item: Applied, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        """What came speaks for or against its source. What has a place in a feed is its author's fault alone: honest
        nodes pass that on as well.
        """
        if item.outcome is Outcome.ACCEPTED:
            self._gate.praise(source, proven=proven)
        elif item.outcome is Outcome.REJECTED and item.record is None and item.reason not in _NOT_THE_SOURCE:
            self.blame(source, now_ms, effects)

    def import_fact(self, fact: Fact, now_ms: int, effects: Effects) -> None:
        """An unsigned fact of a baseline state that the operator brings: judged as an unsigned envelope would be.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        with Containment(self.mending):
            item = self.replica.import_fact(fact, now_ms // 1000)
            self._hand_over([item], effects)
            self._report(item, "import", now_ms, effects)

    def _hand_over(self, applied: Sequence[Applied], effects: Effects) -> None:
        """Journal records, and what belongs to them, before anything else is done with what was applied."""
        for item in applied:
            if item.record is not None:
                self._persist(item, item.record, effects)
            effects.roused += item.roused
            if item.meta is not None:
                self._rests(item, item.meta, effects)
        self.mending.boundary.close()

    def _report(self, item: Applied, source: str, now_ms: int, effects: Effects) -> None:
        """Notices and consequences of one applied envelope."""
        meta = item.meta
        with self._soft:
            if not item.learned:
                effects.notices.append(applied_notice(item, source))
            if item.proof is not None and meta is not None:
                effects.notices.append(fork_notice(meta.from_, item.proof, source))
                self.neighbours.forks.learned(meta.from_, item.proof.seq)
        for change in item.changes:
            self._changed(change, meta.id if meta is not None else "", now_ms, effects)
        if meta is not None and meta.v is not None and not item.learned and not item.woken:
            with self._soft:
                self.neighbours.applied(item, source, now_ms, effects)

    def _roused(self, given: Roused, now_ms: int, effects: Effects) -> None:
        """Facts that have slept until something counted are judged now, as if their envelopes came at last."""
        for raw in given.envelopes:
            if self.mending.refuses(raw):
                continue
            item = None
            with self.mending.judging(raw):
                item = self.replica.wake(raw, given.parent, now_ms // 1000)
            if item is not None:
                self._hand_over([item], effects)
                self._report(item, "journal", now_ms, effects)
        if given.last:
            self.replica.dormancy.calmed(given.parent, given.since)

    def _rests(self, item: Applied, meta: EnvelopeMeta, effects: Effects) -> None:
        """Tell the index whose facts sleep."""
        if item.woken or (item.in_feed and item.proof is not None):
            effects.dormancy.append(Awake(meta.from_, meta.seq, branch=not item.woken))
        if item.asleep:
            effects.dormancy.append(Sleep(item.asleep, meta.from_, meta.seq, meta.id))

    def _persist(self, item: Applied, record: bytes, effects: Effects) -> None:
        if item.in_feed and item.meta is not None:
            effects.places.append(FeedPlace(item.meta.from_, item.meta.seq, item.meta.id, len(effects.records)))
        elif item.proof is not None and item.meta is not None:
            place = FeedPlace(item.meta.from_, item.proof.seq, item.meta.id, len(effects.records), fork=True)
            effects.places.append(place)
        effects.records.append(record)

    def _changed(self, change: Change, envelope_id: str, now_ms: int, effects: Effects) -> None:
        record = self.replica.state.records.get(change.seed_id, EMPTY)
        before, after = change.before, change.after
        self._watch(change.seed_id, record, now_ms)
        if before is not None and before.claim_id is not None and before.claimed_by == self.signer.node_id:
            over = after.claim_id != before.claim_id or after.status not in {SeedStatus.CLAIMED, SeedStatus.RUNNING}
            if over:
                effects.ended_claims.append(EndedClaim(change.seed_id, before.claim_id, after.status))
        effects.notices.append(change_notice(change, envelope_id))

    def _operate(self, wish: Operation, now_ms: int, effects: Effects) -> None:
        if self._blocked(now_ms):
            raise RefusedError(
                "the data dir was repaired, is a copy, or is older than what peers hold: it may lack envelopes that"
                " this node has sent; run `crabnet listen` until a peer has told how far our feed goes, or accept the"
                " risk of forking it with --accept-feed-risk",
                Reason.FEED_RISK,
            )
        now_s = now_ms // 1000
        record = EMPTY if isinstance(wish, Publish) else self.record(wish.seed_id)
        if not isinstance(wish, Publish) and wish.seed_id not in self.replica.state.records:
            raise RefusedError(
                f"seed {wish.seed_id} is {record.progress.status.value} and archived", Reason.WRONG_STATE
            )
        me = self.signer.node_id

        def made(object_id: str) -> tuple[FactKind, Body]:
            match wish:
                case Publish():
                    return build.build_seed(wish, object_id, me, now_s)
                case SubmitBid():
                    return build.build_bid(wish, object_id, me, now_s)
                case CreateClaim():
                    return build.build_claim(wish, record, object_id, now_s)
                case StartRun():
                    return build.build_run(wish, record, object_id, me, now_s)
                case RenewRun():
                    return build.build_renewal(wish, record, object_id, me, now_s)
                case FinishRun():
                    return build.build_result(wish, record, object_id, me, now_s)
                case Settle():
                    return build.build_settlement(wish, record, object_id, now_s)

        shunned = self._shunned(record)
        applied, body, raw = self.replica.propose(self.signer, made, now_s, self._entropy(), shunned)
        self._stated(applied, raw, wish.announce and self._readable(wish), now_ms, effects)
        effects.reply_seed_id = applied.seed_id
        definition = self.replica.definition(applied.seed_id)
        if isinstance(wish, StartRun) and definition is not None:
            progress = self.replica.state.records[applied.seed_id].progress
            effects.reply = RunOrder(
                applied.seed_id,
                progress.claim_id or "",
                body.id,
                definition.command,
                definition.timeout_ms,
                progress.attempt,
            )
        else:
            effects.reply = None if isinstance(body, Run | Settlement) else body

    def _blocked(self, now_ms: int) -> bool:
        """True while nothing may be written into this node's feed."""
        with self._soft:
            return self.neighbours.guard.blocks(now_ms)
        return True

    def _shunned(self, record: Record) -> frozenset[str]:
        """The parties of a seed that have forked their feeds, if the policy is to make no new deals with such."""
        feeds = self.replica.feeds
        if not self.config.refuse_equivocators or not feeds.equivocators():
            return frozenset()
        parties = {entry.fact.author for entry in record.bids}
        if record.seed is not None:
            parties.add(record.seed.author)
        return frozenset(each for each in parties - {self.signer.node_id} if self._shuns(each))

    def _shuns(self, author: str) -> bool:
        """True if the policy is to make no new deals with this author."""
        return self.config.refuse_equivocators and self.replica.feeds.is_equivocator(author)

    def _readable(self, wish: Operation) -> bool:
        """False for what baseline peers could not read, when they are among those who listen."""
        known = {SeedStatus.ACCEPTED, SeedStatus.REJECTED}
        return self.config.talk or not isinstance(wish, Settle) or wish.outcome in known

    def _stated(self, applied: Applied, raw: bytes, announce: bool, now_ms: int, effects: Effects) -> None:
        meta = applied.meta
        if applied.record is None or meta is None:
            raise RefusedError("nothing was stated", Reason.INTERNAL)
        self._persist(applied, applied.record, effects)
        effects.roused += applied.roused
        fields: dict[str, FieldValue] = {
            "envelope_id": meta.id,
            "kind": meta.kind,
            "seq": meta.seq,
            "seed_id": applied.seed_id,
        }
        effects.notices.append(Notice("envelope_created", fields))
        for change in applied.changes:
            self._changed(change, meta.id, now_ms, effects)
        if announce:
            effects.sends.append(Send(raw, meta.kind, meta.id))
        with self._soft:
            self.neighbours.changed(meta.from_)

    def _tick(self, now_ms: int, effects: Effects) -> None:
        now_s = now_ms // 1000
        self._renew_deadlines(now_ms)
        if now_ms >= self._report_drops_at_ms:
            self._report_drops_at_ms = now_ms + limits.DROPS_REPORT_MS
            with self._soft:
                for source, reason, count in self._gate.take_dropped():
                    effects.notices.append(drop_notice(source, reason, count))
        boundary = self.mending.boundary
        boundary.cross()
        pruned = self.replica.seen.prune(now_s)
        boundary.close()
        if pruned:
            fields: dict[str, FieldValue] = {"expired": pruned, "count": len(self.replica.seen)}
            effects.notices.append(Notice("seen_pruned", fields))
        with self._soft:
            expired = self.replica.parking.expire(now_s)
            effects.notices.extend(given_up_notice(parked, Reason.GAP) for parked in expired)
        self.neighbours.tick(now_ms, effects)
        if not self._blocked(now_ms):
            self._record_interrupted(now_ms, effects)
            self._sweep(now_ms, effects)
        with self._soft:
            effects.notices += self.sweeper.silent(now_ms)

    def _sweep(self, now_ms: int, effects: Effects) -> None:
        sweeps: list[Sweep] = []
        with self._soft:
            sweeps = self.sweeper.sweep(now_ms)
        for sweep in sweeps:
            if not self._try(sweep.wish, now_ms, effects):
                with self._soft:
                    self.sweeper.again(sweep, now_ms)
            elif sweep.notice is not None:
                effects.notices.append(sweep.notice)

    def _record_interrupted(self, now_ms: int, effects: Effects) -> None:
        if self._blocked(now_ms):
            return
        for seed_id in self._interrupted:
            progress = self.replica.state.records.get(seed_id, EMPTY).progress
            if progress.status is not SeedStatus.RUNNING:
                continue
            fields: dict[str, FieldValue] = {
                "seed_id": seed_id,
                "claim_id": progress.claim_id,
                "run_id": progress.run_id,
                "reason": Reason.RUN_INTERRUPTED.value,
            }
            effects.notices.append(Notice("run_interrupted", fields))
            interrupted = FinishRun(
                seed_id=seed_id,
                exit_code=limits.EXIT_CODE_INTERRUPTED,
                timed_out=False,
                stdout="",
                stderr="run interrupted: the worker's node stopped while the command ran; it was not run again",
                output_hash=_EMPTY_OUTPUT_HASH,
                duration_ms=0,
                termination=Termination(cause=TerminationCause.INTERRUPTED),
            )
            self._try(interrupted, now_ms, effects)
        self._interrupted = []

    def _try(self, wish: Operation, now_ms: int, effects: Effects) -> bool:
        """Do by itself what an operator could ask for; a refusal becomes a notice."""
        try:
            with Containment(self.mending, type(wish).__name__):
                self._operate(wish, now_ms, effects)
        except CrabnetError as error:
            effects.notices.append(refused_notice(type(wish).__name__, error))
            return False
        finally:
            effects.reply = None
        return True
