"""The core: ``handle(input, now_ms, effects)`` judges an input, changes the replica, and says what to do.

The caller makes ``effects.records`` durable before it does anything else that they ask for, and takes the core as lost
if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from crabnet import limits
from crabnet.core import build
from crabnet.core.chores import Chores
from crabnet.core.commands import (
    Answered,
    Input,
    Operation,
    Publish,
    Received,
    Settle,
    StartRun,
    Tick,
)
from crabnet.core.config import CoreConfig
from crabnet.core.containment import SoftParts
from crabnet.core.effects import Effects, EndedClaim, FeedPlace, FieldValue, Notice, RunOrder, Send
from crabnet.core.mending import Containment
from crabnet.core.notices import (
    applied_notice,
    change_notice,
    ended_notice,
    fork_notice,
    given_up_notice,
    proof_notice,
    quarantined_notice,
    refused_notice,
)
from crabnet.core.replica.applied import Applied, Change
from crabnet.core.replica.records import SegmentRow, Via
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.domain.lifecycle import EMPTY, Record
from crabnet.domain.model import (
    Acknowledgement,
    Body,
    Fact,
    FactKind,
    Run,
    SeedStatus,
    Settlement,
)
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError
from crabnet.protocol.admission import Admitted, Ahead, nobody_muted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.fork_proof import PROOF_START, ForkEvidence, ProofRefusedError, place_of, verify_proof
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.sync import ForkMark

_NOT_THE_SOURCE: Final = frozenset({Reason.FORK, Reason.LIMIT_EXCEEDED})
"""Rejects that honest neighbours can bring about by passing on what they hold."""
_AHEAD: Final = frozenset({Reason.GAP, Reason.BROKEN_CHAIN, Reason.PARKING_FULL})
IMPORTED: Final = "import"
"""Stands for the source of what no neighbour has sent."""


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
        self._soft = self.mending.soft
        self._containment = Containment(self.mending)
        self._parts = SoftParts(config, signer, self.replica, entropy, self._denies)
        self.neighbours = self._parts.neighbours
        self._report_drops_at_ms = 0
        self._entropy = entropy
        self._chores = Chores(
            signer.node_id, self.replica.state, self._parts, self.mending, self._operate, talk=config.talk
        )
        self._ends_wait = False
        """The consequences of ends could not be drawn: this is left to the next tick."""
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
            operation = None if isinstance(given, Answered | Tick) else type(given).__name__
        with self._containment if operation is None else Containment(self.mending, operation):
            self._handle(given, now_ms, effects)

    def _handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        if isinstance(given, Received):
            if self.mending.refuses(given.data):
                effects.notices.append(quarantined_notice(given.source))
            elif given.via is Via.IMPORT or not self.trifle(given.source, len(given.data), now_ms, effects):
                self._received(given, now_ms, effects)
        elif isinstance(given, Tick):
            self._tick(now_ms, effects)
        elif isinstance(given, Answered):
            with self._soft:
                self.neighbours.served(given.ranges, given.to, now_ms, effects)
        else:
            self._operate(given, now_ms, effects)

    def begin(self, now_ms: int, effects: Effects) -> None:
        """To be called once after the replica was loaded: interrupted runs are recorded, deadlines noted.

        Raises CrabnetError when what is held cannot be read, and ReplicaFailedError.
        """
        self._parts.begin()
        for seed_id, record in self.replica.state.records.items():
            self._parts.watch(seed_id, record, now_ms)
            self._chores.found(seed_id, record)
        with Containment(self.mending, "start"):
            resumed = self.replica.settling.resume(now_ms // 1000)
            self._hand_over(resumed, effects)
            for item in resumed:
                self._report(item, IMPORTED, now_ms, effects)
        self.overdue_at_start = self._parts.begin_deadlines(now_ms)
        if self.feed_risk:
            self.neighbours.warn("the data dir was repaired, or is a copy", effects)
        if not self._parts.blocked(now_ms):
            self._chores.record_interrupted(now_ms, effects)

    @property
    def feed_risk(self) -> bool:
        """True while others may hold more of this node's feed than it does itself: nothing is written into it."""
        return self.neighbours.guard.at_risk

    @feed_risk.setter
    def feed_risk(self, at_risk: bool) -> None:
        self.neighbours.guard.at_risk = at_risk

    def archivable(self, now_ms: int) -> list[tuple[str, Record]]:
        """Seeds that have been at rest for the retention time. Give those that were written to ``archived``."""
        return self._parts.archivable(now_ms)

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
            self._parts.archived(ids)
            for seed_id, _ in written:
                changed = records.get(seed_id)
                if changed is not None:
                    self._parts.watch(seed_id, changed, now_ms)

    def record(self, seed_id: str) -> Record:
        """What is known about a seed, archived or not. Raises RefusedError for an unknown one."""
        record = self.replica.state.records.get(seed_id)
        if record is None and seed_id not in self.replica.state.erased:
            row = self.replica.archived.read_row(seed_id)
            record = None if row is None else record_of_row(decode_seed_row(row))
        if record is None or record.seed is None:
            raise RefusedError(f"no seed {seed_id} is known here", Reason.UNKNOWN_SEED)
        return record

    def awaits_result(self, seed_id: str, claim_id: str) -> bool:
        """True while a claim counts and no result of it is held."""
        progress = self.replica.state.records.get(seed_id, EMPTY).progress
        return progress.claim_id == claim_id and progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}

    def knows(self, author: str) -> bool:
        """True if an author is not a newcomer, so that its envelopes have a budget of their own."""
        return self._parts.knows(author)

    def allows(self, source: str, now_ms: int, effects: Effects, size_bytes: int = 0, *, crowded: bool = False) -> bool:
        """Step 1 of verification: may this source speak now? To be asked once for every datagram."""
        return self._parts.allows(source, now_ms, effects, size_bytes, crowded=crowded)

    def blame(self, source: str, now_ms: int, effects: Effects) -> None:
        """Count something broken or hostile against the address that sent it."""
        self._parts.blame(source, now_ms, effects)

    def trifle(self, source: str, size_bytes: int, now_ms: int, effects: Effects) -> bool:
        """True for one more message that is too small to say anything: it is told with others, and not looked at."""
        return self._parts.trifle(source, size_bytes, now_ms, effects)

    def confirmed_peers(self) -> list[str]:
        """Addresses that have proved themselves."""
        return self._parts.confirmed_peers()

    def look_ahead(self, messages: Sequence[Received], now_ms: int) -> None:
        """Check all signatures of messages that are about to be handled at once, for ``verify_all`` to share out."""
        self.mending.handling()
        with self.mending.judging(b""):
            self.replica.admission.look_ahead(
                [message.data for message in messages], now_ms // 1000, self._parts.wanted, self._parts.muted(now_ms)
            )
            return
        self.replica.admission.forget_ahead()

    def collect(self, messages: Sequence[Received], now_ms: int) -> Ahead:
        """The first half of ``look_ahead``: which signatures are to be checked, by whom and when the caller likes."""
        self.mending.handling()
        with self.mending.judging(b""):
            return self.replica.admission.collect(
                [message.data for message in messages], now_ms // 1000, self._parts.wanted, self._parts.muted(now_ms)
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
        """True if ``rest`` would do more."""
        return (self.replica.settling.pending and not self._ends_wait) or self._parts.hungry()

    def rest(self, now_ms: int, effects: Effects) -> None:
        """To be called when some messages were handled: goes on with what is due, without waiting for a tick.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        if not self._ends_wait:
            self.settle_ends(now_ms, effects)
        with self._soft:
            self.neighbours.rest(now_ms, effects)

    def _received(self, received: Received, now_ms: int, effects: Effects) -> None:
        if received.data.startswith(PROOF_START):
            self._proof_received(received, now_ms, effects)
            return
        source = received.source
        now_s = now_ms // 1000
        imported = received.via is Via.IMPORT
        parts = self._parts
        terms = parts.terms(source, now_ms)
        proven = terms.proven
        applied = self.replica.receive(
            received.data,
            now_s,
            via=received.via,
            source=source,
            wanted=_anything if imported else parts.wanted,
            muted=nobody_muted if imported else terms.muted,
            pays=None if imported else terms.pays,
        )
        self._hand_over(applied, effects)
        first = applied[0]
        if first.admitted is not None and first.record is None and first.outcome is Outcome.ACCEPTED:
            self._talk(first.admitted, source, now_ms, effects, proven=proven)
            return
        if not imported:
            self._hold_to_account(first, source, now_ms, effects, proven=proven)
        meta = first.meta
        asked_for = meta is not None and parts.asked_for(meta)
        for item in applied:
            self._report(item, source, now_ms, effects, fetched=asked_for and not imported)
        with self._soft:
            for item in () if asked_for or imported else applied:
                if not self.neighbours.asked_for(item):
                    self.neighbours.pass_on(item, source, now_ms, effects)
            for parked in self.replica.parking.take_evicted():
                effects.notices.append(given_up_notice(parked, Reason.PARKING_FULL))
            if meta is not None and meta.v is not None and not imported:
                self._consider(first, meta, source, now_ms, effects, asked_for=asked_for)

    def _consider(
        self, first: Applied, meta: EnvelopeMeta, source: str, now_ms: int, effects: Effects, *, asked_for: bool
    ) -> None:
        """What an envelope says of the neighbour that sent it, and of what may be asked of it."""
        if first.outcome is Outcome.REJECTED:
            return
        if first.reason is Reason.DUPLICATE and not asked_for:
            self.neighbours.repeated(meta, source, now_ms)
        over_budget = first.reason is Reason.AUTHOR_LIMITED and first.admitted is not None
        if over_budget or first.reason in _AHEAD:
            self.neighbours.gap(meta, first.reason, source, now_ms, effects)
        if first.record is not None or first.parked:
            self.neighbours.heard(source, now_ms, effects)

    def _talk(self, admitted: Admitted, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        with self._soft:
            if self.neighbours.talk(admitted, source, now_ms, effects):
                self._parts.praise(source, proven=proven)
            else:
                self.blame(source, now_ms, effects)

    def _proof_received(self, received: Received, now_ms: int, effects: Effects) -> None:
        """A document that proves a fork. One that nobody asked for is not even verified."""
        source = received.source
        if not self._parts.awaits_proofs():
            effects.notices.append(proof_notice(source, Reason.UNSOLICITED, "nobody asked for a fork proof"))
            return
        try:
            author, seq = place_of(received.data, self.replica.admission)
            if not self._parts.awaits_proof(ForkMark(author, seq)):
                detail = f"nobody asked for proof of a fork at seq {seq}"
                effects.notices.append(proof_notice(source, Reason.UNSOLICITED, detail, author))
                return
            evidence = verify_proof(received.data, self.replica.admission)
        except ProofRefusedError as error:
            effects.notices.append(proof_notice(source, error.reason, error.detail))
            self.blame(source, now_ms, effects)
            return
        self._learn_fork(evidence, source, now_ms, effects)

    def learn_fork(self, evidence: ForkEvidence, source: str, now_ms: int, effects: Effects) -> Reason | None:
        """Take in a verified proof that the operator brings; why it was not taken, None if it was.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        with Containment(self.mending):
            return self._learn_fork(evidence, source, now_ms, effects)
        return Reason.INTERNAL

    def _learn_fork(self, evidence: ForkEvidence, source: str, now_ms: int, effects: Effects) -> Reason | None:
        try:
            learned = self.replica.learn_fork(evidence, now_ms // 1000, source)
        except CrabnetError as error:  # what is held cannot be read now: the proof must come again
            if self.mending.boundary.is_open or isinstance(error, DataDirDamagedError):
                raise
            effects.notices.append(proof_notice(source, Reason.UNAVAILABLE, error.message, evidence.meta.from_))
            return Reason.UNAVAILABLE
        self._hand_over(learned, effects)
        for item in learned:
            self._report(item, source, now_ms, effects)
        return None if learned else Reason.DUPLICATE

    def _hold_to_account(self, item: Applied, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        """What came speaks for or against its source. What has a place in a feed is its author's fault alone: honest
        nodes pass that on as well.
        """
        if item.outcome is Outcome.ACCEPTED:
            self._parts.praise(source, proven=proven)
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
            self._report(item, IMPORTED, now_ms, effects)

    def _hand_over(self, applied: Sequence[Applied], effects: Effects) -> None:
        """Journal records before anything else is done with what was applied."""
        for item in applied:
            if item.record is not None:
                self._persist(item, item.record, effects)
        self.mending.boundary.close()

    def _report(self, item: Applied, source: str, now_ms: int, effects: Effects, *, fetched: bool = False) -> None:
        """Notices and consequences of one applied envelope. That one that was ``fetched`` waits is not told."""
        meta = item.meta
        with self._soft:
            if not (item.quiet or (fetched and item.parked)):
                effects.notices.append(applied_notice(item, source))
            if item.fork is not None:
                effects.notices.append(fork_notice(item.fork, source))
                if item.fork.author == self.signer.node_id:
                    effects.notices.append(ended_notice(item.fork))
            if item.lacks is not None and meta is not None and item.reason is not Reason.PARKING_FULL:
                self.neighbours.lacks(item.lacks, meta, source, now_ms)
            if meta is not None and meta.v is not None:
                self.neighbours.applied(item, source, now_ms, effects)
        for change in item.changes:
            self._changed(change, meta.id if meta is not None else "", now_ms, effects)

    def settle_ends(self, now_ms: int, effects: Effects) -> None:
        """Draw some of the consequences of feeds that have ended. Raises ReplicaFailedError."""
        self.mending.handling()
        self._ends_wait = False
        if not self.replica.settling.pending:
            return
        settled: list[Applied] = []
        try:
            with Containment(self.mending, "settle_ends"):
                settled = self.replica.settling.settle_some(limits.SETTLED_AT_ONCE_MAX, now_ms // 1000)
                self._hand_over(settled, effects)
        except CrabnetError as error:  # mostly, what is held cannot be read now
            if isinstance(error, DataDirDamagedError):
                raise
            self._ends_wait = True
            effects.notices.append(refused_notice("settle_ends", error))
        for item in settled:
            self._report(item, IMPORTED, now_ms, effects)

    def _persist(self, item: Applied, record: bytes, effects: Effects) -> None:
        if item.row is not None:
            effects.places.append(FeedPlace(item.row, len(effects.records)))
        effects.records.append(record)

    def _changed(self, change: Change, envelope_id: str, now_ms: int, effects: Effects) -> None:
        record = self.replica.state.records.get(change.seed_id, EMPTY)
        before, after = change.before, change.after
        self._parts.watch(change.seed_id, record, now_ms)
        if before is not None and before.claim_id is not None and before.claimed_by == self.signer.node_id:
            over = after.claim_id != before.claim_id or after.status not in {SeedStatus.CLAIMED, SeedStatus.RUNNING}
            if over:
                effects.ended_claims.append(EndedClaim(change.seed_id, before.claim_id, after.status))
        self._chores.changed(change.seed_id, record)
        effects.notices.append(change_notice(change, envelope_id))

    def _operate(self, wish: Operation, now_ms: int, effects: Effects) -> None:
        self.replica.check_open(self.signer.node_id)
        if self._parts.blocked(now_ms):
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
            return build.build(wish, record, object_id, me, now_s)

        denied = self._denied(record)
        applied, body, raw = self.replica.propose(self.signer, made, now_s, self._entropy(), denied)
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
            effects.reply = None if isinstance(body, Run | Settlement | Acknowledgement) else body

    def _denied(self, record: Record) -> frozenset[str]:
        """The parties of a seed that have forked their feeds, if the policy is to make no new deals with such."""
        feeds = self.replica.feeds
        if not self.config.refuse_equivocators or not feeds.equivocators():
            return frozenset()
        parties = {bid.author for bid in record.bids}
        if record.seed is not None:
            parties.add(record.seed.author)
        return frozenset(each for each in parties - {self.signer.node_id} if self._denies(each))

    def _denies(self, author: str) -> bool:
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
        parts = self._parts
        parts.renew_deadlines(now_ms)
        if now_ms >= self._report_drops_at_ms:
            self._report_drops_at_ms = now_ms + limits.DROPS_REPORT_MS
            parts.tell_drops(effects)
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
        if not parts.blocked(now_ms) and not self.replica.feeds.get(self.signer.node_id).end:
            self._chores.do(now_ms, effects)
        self.settle_ends(now_ms, effects)
        effects.notices += parts.silent_runs(now_ms)
