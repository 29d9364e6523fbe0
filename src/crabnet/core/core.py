"""The core: ``handle(input, now_ms, effects)`` judges an input, changes the replica, and says what to do.

The caller makes ``effects.records`` durable before it does anything else that they ask for, and takes the core as lost
if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from crabnet import limits
from crabnet.core import build
from crabnet.core.applied import Applied, Change
from crabnet.core.authors import AuthorBudgets
from crabnet.core.commands import (
    Acknowledge,
    Answered,
    FinishRun,
    Input,
    Operation,
    Publish,
    Received,
    Settle,
    StartRun,
    Tick,
)
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda, at_rest_since_ms
from crabnet.core.effects import Effects, EndedClaim, FeedPlace, FieldValue, Notice, RunOrder, Send
from crabnet.core.neighbours import Neighbours
from crabnet.core.notices import (
    applied_notice,
    blocked_notice,
    change_notice,
    drop_notice,
    ended_notice,
    fork_notice,
    given_up_notice,
    proof_notice,
    refused_notice,
)
from crabnet.core.records import SegmentRow, Via
from crabnet.core.replica import Pays, Replica
from crabnet.core.rows import decode_seed_row, record_of_row
from crabnet.core.sources import SourceGate
from crabnet.core.sweeper import SweepConfig, Sweeper
from crabnet.domain.lifecycle import EMPTY, Record
from crabnet.domain.model import (
    Acknowledgement,
    Body,
    Fact,
    FactKind,
    Run,
    SeedStatus,
    Settlement,
    Termination,
    TerminationCause,
)
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.protocol.admission import Ahead, Muted, nobody_muted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.fork_proof import PROOF_START, ForkEvidence, ProofRefusedError, place_of, verify_proof
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.sync import ForkMark

_EMPTY_OUTPUT_HASH: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


_NOT_THE_SOURCE: Final = frozenset({Reason.FORK, Reason.LIMIT_EXCEEDED})
"""Rejects that honest neighbours can bring about by passing on what they hold."""
_AHEAD: Final = frozenset({Reason.GAP, Reason.BROKEN_CHAIN, Reason.PARKING_FULL})


_SETTLED: Final = frozenset({SeedStatus.ACCEPTED, SeedStatus.REJECTED})
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
        feeds = self.replica.feeds
        self.authors = AuthorBudgets(config.authors, lambda author: feeds.get(author).head_seq, signer.node_id)
        self.replica.knows = self.authors.knows
        self.neighbours = Neighbours(config, signer, self.replica, entropy, self.authors.room)
        self._gate = SourceGate(config.sources)
        self._report_drops_at_ms = 0
        sweeps = SweepConfig(
            execution_grace_ms=config.execution_grace_ms,
            auto_reclaim=config.auto_reclaim,
            attempts_max=config.reclaim_attempts_max,
        )
        self.sweeper = Sweeper(sweeps, signer.node_id, self.replica.state, self._shuns)
        self._resting = Agenda()
        self._away_again_ms: dict[str, int] = {}
        """When seeds that came back from the archive may leave memory again."""
        self._entropy = entropy
        self._interrupted: list[str] = []
        self._unacknowledged: dict[str, None] = {}
        self.overdue_at_start = 0

    def handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        """Do what an input asks for; adds to ``effects``. Raises RefusedError or UsageError for operations only."""
        if isinstance(given, Received):
            self._received(given, now_ms, effects)
        elif isinstance(given, Tick):
            self._tick(now_ms, effects)
        elif isinstance(given, Answered):
            self.neighbours.served(given.ranges, given.to, now_ms, effects)
        else:
            self._operate(given, now_ms, effects)

    def begin(self, now_ms: int, effects: Effects) -> None:
        """To be called once after the replica was loaded: interrupted runs are recorded, deadlines noted."""
        me = self.signer.node_id
        self.authors.begin((author, head[0]) for author, head in self.replica.feeds.heads().items())
        self.neighbours.begin()
        self._away_again_ms = dict.fromkeys(self.replica.state.outdated, 0)
        for seed_id, record in self.replica.state.records.items():
            progress = record.progress
            if progress.status is SeedStatus.RUNNING and progress.claimed_by == me:
                self._interrupted.append(seed_id)
            self._watch(seed_id, record, now_ms)
            if self._is_to_be_acknowledged(record):
                self._unacknowledged[seed_id] = None
        for item in self.replica.resume(now_ms // 1000):
            self._report(item, IMPORTED, now_ms, effects)
        self.overdue_at_start = self.sweeper.begin(now_ms)
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
        self.sweeper.watch(seed_id, record, now_ms)
        if self.config.archive_after_ms:
            due_ms = self._away_at_ms(seed_id, record, now_ms)
            if due_ms is not None:
                self._resting.add(due_ms, seed_id)

    def _away_at_ms(self, seed_id: str, record: Record, now_ms: int) -> int | None:
        """When a seed is to leave memory, None if more is expected of it.

        One that came back stays as long as it has been at rest, once more: it costs a few hundred bytes to bring back a
        seed of a megabyte, which is written each time that it comes and goes.
        """
        since_ms = at_rest_since_ms(record)
        if since_ms is None:
            return None
        due_ms = since_ms + self.config.archive_after_ms
        if seed_id not in self.replica.state.outdated:
            return due_ms
        rest_ms = max(self.config.archive_after_ms, now_ms - since_ms)
        return max(due_ms, self._away_again_ms.setdefault(seed_id, now_ms + rest_ms))

    def archivable(self, now_ms: int) -> list[tuple[str, Record]]:
        """Seeds that have been at rest for the retention time. Give those that were written to ``archived``."""
        found: list[tuple[str, Record]] = []
        for seed_id in self._resting.due(now_ms, limits.ARCHIVE_SEGMENT_SEEDS_MAX):
            record = self.replica.state.records.get(seed_id)
            due_ms = None if record is None else self._away_at_ms(seed_id, record, now_ms)
            if record is not None and due_ms is not None and due_ms <= now_ms:
                found.append((seed_id, record))
        return found

    def archived(self, segment: SegmentRow, written: list[tuple[str, Record]], now_ms: int, effects: Effects) -> None:
        """A durable segment holds ``written``; those that have not changed meanwhile leave memory."""
        records = self.replica.state.records
        ids = tuple(seed_id for seed_id, record in written if records.get(seed_id) is record)
        effects.records.append(self.replica.archive(segment, ids, now_ms // 1000))
        for seed_id in ids:
            self._away_again_ms.pop(seed_id, None)
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
        proven = self.neighbours.proven(source)
        refused = self._gate.check(source, now_ms, proven=proven, size_bytes=size_bytes, crowded=crowded)
        if self._gate.blocked:
            self._tell_blocks(effects)
        return refused is None

    def blame(self, source: str, now_ms: int, effects: Effects) -> None:
        """Count something broken or hostile against the address that sent it."""
        self._gate.reject(source, now_ms, proven=self.neighbours.proven(source))
        if self._gate.blocked:
            self._tell_blocks(effects)

    def _tell_blocks(self, effects: Effects) -> None:
        effects.notices.extend(blocked_notice(block) for block in self._gate.take_blocks())

    def look_ahead(self, messages: Sequence[Received], now_ms: int) -> None:
        """Check all signatures of messages that are about to be handled at once, for ``verify_all`` to share out."""
        self.replica.admission.look_ahead(
            [message.data for message in messages], now_ms // 1000, self._wanted, self._muted(now_ms)
        )

    def collect(self, messages: Sequence[Received], now_ms: int) -> Ahead:
        """The first half of ``look_ahead``: which signatures are to be checked, by whom and when the caller likes."""
        return self.replica.admission.collect(
            [message.data for message in messages], now_ms // 1000, self._wanted, self._muted(now_ms)
        )

    def answered(self, ahead: Ahead, genuine: Sequence[bool]) -> None:
        """The second half: what became of ``ahead.signed``. To be called just before its messages are handled."""
        self.replica.admission.answered(ahead, genuine)

    @property
    def hungry(self) -> bool:
        """True if ``rest`` would do more."""
        return self.replica.settling or self.neighbours.planner.hungry or self.neighbours.reconciler.hungry

    def rest(self, now_ms: int, effects: Effects) -> None:
        """To be called when some messages were handled: goes on with what is due, without waiting for a tick."""
        self.settle_ends(now_ms, effects)
        self.neighbours.rest(now_ms, effects)

    def _wanted(self, meta: EnvelopeMeta) -> bool:
        return self.neighbours.planner.wanted(meta.from_, meta.seq) or self.replica.parking.names(meta.id)

    def _muted(self, now_ms: int) -> Muted:
        authors = self.authors
        return (lambda author: authors.paused(author, now_ms)) if authors.pausing(now_ms) else nobody_muted

    def _pays(self, now_ms: int, *, proven: bool) -> Pays:
        authors, wanted = self.authors, self._wanted
        return lambda meta, size: authors.charge(meta.from_, size, now_ms, requested=proven and wanted(meta))

    def _received(self, received: Received, now_ms: int, effects: Effects) -> None:
        if received.data.startswith(PROOF_START):
            self._proof_received(received, now_ms, effects)
            return
        source = received.source
        now_s = now_ms // 1000
        imported = received.via is Via.IMPORT
        proven = self.neighbours.proven(source)
        limited = self.authors.enabled and not imported
        applied = self.replica.receive(
            received.data,
            now_s,
            via=received.via,
            source=source,
            wanted=_anything if imported else self._wanted,
            muted=self._muted(now_ms) if limited else nobody_muted,
            pays=self._pays(now_ms, proven=proven) if limited else None,
        )
        first = applied[0]
        if not imported:
            self._hold_to_account(first, source, now_ms, effects, proven=proven)
        if first.admitted is not None and first.record is None and first.outcome is Outcome.ACCEPTED:
            self.neighbours.talk(first.admitted, source, now_ms, effects)
            return
        meta = first.meta
        asked_for = meta is not None and self.neighbours.planner.wanted(meta.from_, meta.seq)
        for item in applied:
            self._report(item, source, now_ms, effects)
            if not asked_for and not imported and not self.neighbours.asked_for(item):
                self.neighbours.pass_on(item, source, now_ms, effects)
        for parked in self.replica.parking.take_evicted():
            effects.notices.append(given_up_notice(parked, Reason.PARKING_FULL))
        if meta is None or meta.v is None or imported or first.outcome is Outcome.REJECTED:
            return
        if first.reason is Reason.DUPLICATE and not asked_for:
            self.neighbours.repeated(meta, source, now_ms)
        over_budget = first.reason is Reason.AUTHOR_LIMITED and first.admitted is not None
        if over_budget or first.reason in _AHEAD:
            self.neighbours.gap(meta, first.reason, source, now_ms, effects)
        if first.record is not None or first.parked:
            self.neighbours.heard(source, now_ms, effects)

    def _proof_received(self, received: Received, now_ms: int, effects: Effects) -> None:
        """A document that proves a fork. One that nobody asked for is not even verified."""
        source = received.source
        if not len(self.neighbours.proofs):
            effects.notices.append(proof_notice(source, Reason.UNSOLICITED, "nobody asked for a fork proof"))
            return
        try:
            author, seq = place_of(received.data, self.replica.admission)
            if ForkMark(author, seq) not in self.neighbours.proofs:
                detail = f"nobody asked for proof of a fork at seq {seq}"
                effects.notices.append(proof_notice(source, Reason.UNSOLICITED, detail, author))
                return
            evidence = verify_proof(received.data, self.replica.admission)
        except ProofRefusedError as error:
            effects.notices.append(proof_notice(source, error.reason, error.detail))
            self.blame(source, now_ms, effects)
            return
        self.learn_fork(evidence, source, now_ms, effects)

    def learn_fork(self, evidence: ForkEvidence, source: str, now_ms: int, effects: Effects) -> Reason | None:
        """Take in a verified proof, from a neighbour or from the operator; why it was not taken, None if it was."""
        try:
            learned = self.replica.learn_fork(evidence, now_ms // 1000, source)
        except CrabnetError as error:  # what is held cannot be read now: the proof must come again
            effects.notices.append(proof_notice(source, Reason.UNAVAILABLE, error.message, evidence.meta.from_))
            return Reason.UNAVAILABLE
        for item in learned:
            self._report(item, source, now_ms, effects)
        return None if learned else Reason.DUPLICATE

    def _hold_to_account(self, item: Applied, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        """What came speaks for or against its source. What has a place in a feed is its author's fault alone: honest
        nodes pass that on as well.
        """
        if item.outcome is Outcome.ACCEPTED:
            self._gate.praise(source, proven=proven)
        elif item.outcome is Outcome.REJECTED and item.record is None and item.reason not in _NOT_THE_SOURCE:
            self.blame(source, now_ms, effects)

    def import_fact(self, fact: Fact, now_ms: int, effects: Effects) -> None:
        """An unsigned fact of a baseline state that the operator brings: judged as an unsigned envelope would be."""
        self._report(self.replica.import_fact(fact, now_ms // 1000), IMPORTED, now_ms, effects)

    def _report(self, item: Applied, source: str, now_ms: int, effects: Effects) -> None:
        """Journal record, notices and consequences of one applied envelope."""
        if item.record is not None:
            self._persist(item, item.record, effects)
        meta = item.meta
        if not item.quiet:
            effects.notices.append(applied_notice(item, source))
        if item.fork is not None:
            effects.notices.append(fork_notice(item.fork, source))
            if item.fork.author == self.signer.node_id:
                effects.notices.append(ended_notice(item.fork))
        if item.lacks is not None and meta is not None and item.reason is not Reason.PARKING_FULL:
            self.neighbours.lacks(item.lacks, meta, source, now_ms)
        for change in item.changes:
            self._changed(change, meta.id if meta is not None else "", now_ms, effects)
        if meta is not None and meta.v is not None:
            self.neighbours.applied(item, source, now_ms, effects)

    def settle_ends(self, now_ms: int, effects: Effects) -> None:
        """Draw some of the consequences of feeds that have ended."""
        if not self.replica.settling:
            return
        try:
            settled = self.replica.settle_some(limits.SETTLED_AT_ONCE_MAX, now_ms // 1000)
        except CrabnetError as error:  # what is held cannot be read now: it is tried again with the next tick
            effects.notices.append(refused_notice("settle_ends", error))
            return
        for item in settled:
            self._report(item, IMPORTED, now_ms, effects)

    def _persist(self, item: Applied, record: bytes, effects: Effects) -> None:
        if item.row is not None:
            effects.places.append(FeedPlace(item.row, len(effects.records)))
        effects.records.append(record)

    def _changed(self, change: Change, envelope_id: str, now_ms: int, effects: Effects) -> None:
        record = self.replica.state.records.get(change.seed_id, EMPTY)
        before, after = change.before, change.after
        self._watch(change.seed_id, record, now_ms)
        if before is not None and before.claim_id is not None and before.claimed_by == self.signer.node_id:
            over = after.claim_id != before.claim_id or after.status not in {SeedStatus.CLAIMED, SeedStatus.RUNNING}
            if over:
                effects.ended_claims.append(EndedClaim(change.seed_id, before.claim_id, after.status))
        if self._is_to_be_acknowledged(record):
            self._unacknowledged[change.seed_id] = None
        effects.notices.append(change_notice(change, envelope_id))

    def _is_to_be_acknowledged(self, record: Record) -> bool:
        """True if another has settled this node's work by a signature, and it has not said yet that it knows."""
        progress, me = record.progress, self.signer.node_id
        if progress.claimed_by != me or progress.status not in _SETTLED or not self.config.talk:
            return False
        if record.seed is None or record.seed.author == me:
            return False  # what both sides are to hold each other to has one side only
        kinds = {fact.kind for fact in record.others if fact.signed}
        return FactKind.SETTLE in kinds and FactKind.ACKNOWLEDGED not in kinds

    def _acknowledge(self, now_ms: int, effects: Effects) -> None:
        waiting, self._unacknowledged = self._unacknowledged, {}
        for seed_id in waiting:
            if self._is_to_be_acknowledged(self.replica.state.records.get(seed_id, EMPTY)):
                self._try(Acknowledge(seed_id=seed_id), now_ms, effects)

    def _operate(self, wish: Operation, now_ms: int, effects: Effects) -> None:
        self.replica.check_open(self.signer.node_id)
        if self.neighbours.guard.blocks(now_ms):
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
            effects.reply = None if isinstance(body, Run | Settlement | Acknowledgement) else body

    def _shunned(self, record: Record) -> frozenset[str]:
        """The parties of a seed that have forked their feeds, if the policy is to make no new deals with such."""
        feeds = self.replica.feeds
        if not self.config.refuse_equivocators or not feeds.equivocators():
            return frozenset()
        parties = {bid.author for bid in record.bids}
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
        self.neighbours.changed(meta.from_)

    def _tick(self, now_ms: int, effects: Effects) -> None:
        now_s = now_ms // 1000
        if now_ms >= self._report_drops_at_ms:
            self._report_drops_at_ms = now_ms + limits.DROPS_REPORT_MS
            for source, reason, count in self._gate.take_dropped():
                effects.notices.append(drop_notice(source, reason, count))
        pruned = self.replica.seen.prune(now_s)
        if pruned:
            fields: dict[str, FieldValue] = {"expired": pruned, "count": len(self.replica.seen)}
            effects.notices.append(Notice("seen_pruned", fields))
        effects.notices.extend(given_up_notice(parked, Reason.GAP) for parked in self.replica.parking.expire(now_s))
        self.neighbours.tick(now_ms, effects)
        if not self.neighbours.guard.blocks(now_ms) and not self.replica.feeds.get(self.signer.node_id).end:
            self._record_interrupted(now_ms, effects)
            self._acknowledge(now_ms, effects)
            self._sweep(now_ms, effects)
        self.settle_ends(now_ms, effects)
        effects.notices += self.sweeper.silent(now_ms)

    def _sweep(self, now_ms: int, effects: Effects) -> None:
        for sweep in self.sweeper.sweep(now_ms):
            if not self._try(sweep.wish, now_ms, effects):
                self.sweeper.again(sweep, now_ms)
            elif sweep.notice is not None:
                effects.notices.append(sweep.notice)

    def _record_interrupted(self, now_ms: int, effects: Effects) -> None:
        if self.neighbours.guard.blocks(now_ms):
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
            self._operate(wish, now_ms, effects)
        except CrabnetError as error:
            effects.notices.append(refused_notice(type(wish).__name__, error))
            return False
        finally:
            effects.reply = None
        return True
