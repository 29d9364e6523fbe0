"""The core: ``handle(input, now_ms, effects)`` decides on an input, changes the replica, and adds effects.

The caller must make ``effects.records`` durable before it carries out any other effect. If that fails, it must discard
the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from crabnet import limits
from crabnet.core.budgets.sources import Block
from crabnet.core.chores import Chores
from crabnet.core.commands import (
    Answered,
    Checked,
    FromPeers,
    Input,
    Misbehaved,
    Operation,
    PeerJoined,
    PeerLeft,
    Received,
    Tick,
    Turn,
)
from crabnet.core.config import CoreConfig
from crabnet.core.consequences import IMPORTED, Consequences
from crabnet.core.declining import Declining
from crabnet.core.effects import Effects, FieldValue, Notice
from crabnet.core.mending import Containment
from crabnet.core.notices import (
    given_up_notice,
    quarantined_notice,
    refused_notice,
)
from crabnet.core.operating import Operating, denies
from crabnet.core.receiving import Receiving
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import RequestRecord, SegmentRow, Via, encode_record
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.requests import Requests
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.core.soft_parts import SoftParts
from crabnet.core.sync.feed_guard import FeedWait
from crabnet.core.sync.gauges import SyncGauges
from crabnet.core.trading.histories import ArchivedTask
from crabnet.core.trading.trading import Trading
from crabnet.domain.model import (
    Fact,
    SeedStatus,
)
from crabnet.domain.record import EMPTY, Record
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError
from crabnet.protocol.admission import Ahead
from crabnet.protocol.fork_proof import ForkEvidence
from crabnet.protocol.identity import Signer, VerifyAll, verify_each


class Core:
    """The core of one node. ``entropy`` returns random integers up to 2^53-1. ``verify_all`` checks many signatures."""

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
            requests=Requests(ttl_s=config.request_ids_ttl_s, capacity=config.request_ids_max),
            caps=config.caps,
            verify_all=verify_all,
        )
        self.mending = self.replica.mending
        self._soft = self.mending.soft
        self._containment = Containment(self.mending)
        self._parts = SoftParts(config, signer, self.replica, entropy, partial(denies, config, self.replica))
        self.neighbours = self._parts.neighbours
        self._report_drops_at_ms = 0
        self._chores = Chores(
            signer.node_id, self.replica.state, self._parts, self.mending, self._operate, talk=config.talk
        )
        self._consequences = Consequences(signer.node_id, self.replica, self._parts, self._chores)
        tells = config.talk and config.tell_declines
        self.declining = Declining(signer.node_id, self.replica, self._parts, entropy, tells=tells)
        self._receiving = Receiving(self.replica, self._parts, self._consequences, self.declining)
        self._operating = Operating(config, signer, self.replica, self._parts, self._consequences, entropy, self.record)
        self._ends_wait = False
        """True if the consequences of ended feeds could not be processed. The next tick retries that."""
        self.overdue_at_start = 0

    def handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        """Handle an input and add to ``effects``. Raises RefusedError or UsageError for operations only.

        Raises ReplicaFailedError if an unexpected error happens while the replica is being changed. From then on every
        call raises it, and ``effects`` are void. Other unexpected errors are in ``mending`` for the caller.
        """
        operation = None
        if isinstance(given, Received):
            self.mending.handling(given.data, given.source)
        else:
            self.mending.handling()
            operation = None if isinstance(given, FromPeers | Tick | Turn | Checked) else type(given).__name__
        with self._containment if operation is None else Containment(self.mending, operation):
            self._handle(given, now_ms, effects)

    def _handle(self, given: Input, now_ms: int, effects: Effects) -> None:
        if isinstance(given, Received):
            if self.mending.refuses(given.data):
                effects.notices.append(quarantined_notice(given.source))
            elif given.via is Via.IMPORT or not self.trifle(given.source, len(given.data), now_ms, effects):
                self._receiving.received(given, now_ms, effects)
        elif isinstance(given, Tick):
            self._tick(now_ms, effects)
        elif isinstance(given, Turn):
            if self._may_write(now_ms):
                self._chores.trade(now_ms, effects)
        elif isinstance(given, Checked):
            self._parts.trading.checked(given, now_ms)
        elif isinstance(given, Misbehaved):
            self._parts.misbehaved(given, now_ms, effects)
        elif isinstance(given, Answered | PeerJoined | PeerLeft):
            with self._soft:
                self._heed(given, now_ms, effects)
        else:
            self._operate(given, now_ms, effects)

    def _heed(self, given: Answered | PeerJoined | PeerLeft, now_ms: int, effects: Effects) -> None:
        if isinstance(given, Answered):
            self.neighbours.served(given.ranges, given.to, now_ms, effects)
        elif isinstance(given, PeerJoined):
            self.neighbours.joined(given.source, given.node_id, now_ms, effects)
        else:
            self.neighbours.left(given.source, effects)

    def begin(self, now_ms: int, effects: Effects, feed_wait: FeedWait | None = None) -> None:
        """Call this once after the replica was loaded. It records interrupted runs and computes deadlines.

        With ``feed_wait`` the node first asks peers for its own feed (ADR 6). Raises CrabnetError if stored data cannot
        be read, and ReplicaFailedError.
        """
        self._parts.begin()
        for seed_id, record in self.replica.state.records.items():
            self._parts.watch(seed_id, record, now_ms)
            self._chores.found(seed_id, record)
        with Containment(self.mending, "start"):
            resumed = self.replica.settling.resume(now_ms // 1000)
            self._consequences.hand_over(resumed, effects)
            for item in resumed:
                self._consequences.report(item, IMPORTED, now_ms, effects)
        self.overdue_at_start = self._parts.begin_deadlines(now_ms)
        if self.feed_risk:
            self.neighbours.warn(self.neighbours.guard.why, effects)
        elif feed_wait is not None:
            with self._soft:
                self.neighbours.wait_for_word(feed_wait, now_ms)
        if not self._parts.blocked(now_ms):
            self._chores.record_interrupted(now_ms, effects)

    @property
    def feed_risk(self) -> bool:
        """True while peers may hold more of this node's feed than the node itself. It then writes nothing into it."""
        return self.neighbours.guard.at_risk

    def endanger_feed(self, why: str, floor_seq: int = 0) -> None:
        """Put this node's feed at risk: peers may hold more of it. Call this before ``begin``.

        The feed is certain to have reached ``floor_seq``.
        """
        self.neighbours.guard.endanger(why, floor_seq)

    def feed_wait_left_ms(self, now_ms: int) -> int:
        """For how many milliseconds an answer of a peer may still allow the node to write into its own feed."""
        return self._parts.feed_wait_left_ms(now_ms)

    def clock_suspicion(self, now_ms: int) -> str:
        """Why this node does not trust its clock, and so signs nothing; empty if it does."""
        self.mending.handling()
        return self._parts.clock_suspicion(now_ms)

    def clock_behind_s(self, now_ms: int) -> int:
        """The seconds by which this node's clock is behind those of peers. Negative if it is ahead, 0 if they agree."""
        return self._parts.clock_behind_s(now_ms)

    def archivable(self, now_ms: int) -> list[tuple[str, Record]]:
        """The seeds that have been at rest for the retention time. Pass those that were written to ``archived``."""
        return self._parts.archivable(now_ms)

    def archived(self, segment: SegmentRow, written: list[tuple[str, Record]], now_ms: int, effects: Effects) -> None:
        """Call this when a durable segment holds ``written``. Seeds that have not changed since then leave memory.

        Raises ReplicaFailedError.
        """
        records = self.replica.state.records
        self.mending.handling()
        with Containment(self.mending):
            moved = [(seed_id, record) for seed_id, record in written if records.get(seed_id) is record]
            ids = tuple(seed_id for seed_id, _ in moved)
            effects.records.append(self.replica.archive(segment, ids, now_ms // 1000))
            self.mending.boundary.close()
            self._parts.archived(moved)
            for seed_id, _ in written:
                changed = records.get(seed_id)
                if changed is not None:
                    self._parts.watch(seed_id, changed, now_ms)

    def record(self, seed_id: str) -> Record:
        """The record of a seed, in memory or archived. Raises RefusedError for an unknown seed."""
        record = self.replica.state.records.get(seed_id)
        if record is None and seed_id not in self.replica.state.erased:
            row = self.replica.archived.read_row(seed_id)
            record = None if row is None else record_of_row(decode_seed_row(row))
        if record is None or record.seed is None:
            raise RefusedError(f"this node knows no task {seed_id}", Reason.UNKNOWN_SEED)
        return record

    def request(self, request_id: str, now_ms: int) -> RequestRecord | None:
        """What this node remembers of a request of this id; None if it does not know the id."""
        return self.replica.requests.get(request_id, now_ms // 1000)

    def note_request(self, record: RequestRecord, effects: Effects) -> None:
        """Remember the answer to a request. Raises ReplicaFailedError."""
        self.mending.handling()
        with Containment(self.mending):
            self.mending.boundary.cross()
            self.replica.requests.put(record)
            effects.records.append(encode_record(record))
            self.mending.boundary.close()

    def awaits_result(self, seed_id: str, claim_id: str) -> bool:
        """True while a claim counts and this node holds no result for it."""
        progress = self.replica.state.records.get(seed_id, EMPTY).progress
        return progress.claim_id == claim_id and progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}

    def fold_histories(self, now_ms: int) -> None:
        """Count some changed tasks in the accounts."""
        self.mending.handling()
        self._parts.trading.fold_histories(limits.HISTORIES_FOLDED_MAX, now_ms)

    def add_archived(self, tasks: Sequence[ArchivedTask]) -> None:
        """Count the next tasks of the archive in the accounts, see ``Histories.add_archived``."""
        self.mending.handling()
        self._parts.trading.add_archived(tasks)

    def knows(self, author: str) -> bool:
        """True if an author is not a newcomer, so that its envelopes have a budget of their own."""
        return self._parts.knows(author)

    def allows(self, source: str, now_ms: int, effects: Effects, size_bytes: int = 0, *, crowded: bool = False) -> bool:
        """Step 1 of verification: True if the node may read a datagram of this source. Call this for each datagram."""
        return self._parts.allows(source, now_ms, effects, size_bytes, crowded=crowded)

    def blocked_peers(self, now_ms: int) -> list[Block]:
        """The libp2p peers that are blocked at the moment. A process of libp2p that begins has to be told."""
        return self._parts.blocked_peers(now_ms)

    def blame(self, source: str, now_ms: int, effects: Effects) -> None:
        """Count a broken or hostile message against the address that sent it."""
        self._parts.blame(source, now_ms, effects)

    def trifle(self, source: str, size_bytes: int, now_ms: int, effects: Effects) -> bool:
        """True for a message that is too small to be valid, if there were many. It is reported with others, unread."""
        return self._parts.trifle(source, size_bytes, now_ms, effects)

    def confirmed_peers(self) -> list[str]:
        """Addresses that have proved themselves."""
        return self._parts.confirmed_peers()

    def sync_gauges(self, now_ms: int) -> SyncGauges:
        """How far this node and its neighbours are behind each other."""
        self.mending.handling()
        return self._parts.sync_gauges(now_ms)

    def look_ahead(self, messages: Sequence[Received], now_ms: int) -> None:
        """Check the signatures of messages that are about to be handled, all in one call of ``verify_all``."""
        self.mending.handling()
        with self.mending.judging(b""):
            self.replica.admission.look_ahead(
                [message.data for message in messages], now_ms // 1000, self._parts.wanted, self._parts.muted(now_ms)
            )
            return
        self.replica.admission.forget_ahead()

    def collect(self, messages: Sequence[Received], now_ms: int) -> Ahead:
        """The first half of ``look_ahead``: the signatures to check. The caller decides where and when to do that."""
        self.mending.handling()
        with self.mending.judging(b""):
            return self.replica.admission.collect(
                [message.data for message in messages], now_ms // 1000, self._parts.wanted, self._parts.muted(now_ms)
            )
        self.replica.admission.forget_ahead()
        return Ahead([], [], {})

    def answered(self, ahead: Ahead, genuine: Sequence[bool] | None) -> None:
        """The second half of ``look_ahead``. Call this just before the messages of ``ahead`` are handled.

        ``genuine`` holds one answer for each item of ``ahead.signed``. If it is None, each signature is checked when
        its message is handled.
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
        """Do work that is due without waiting for a tick. Call this after some messages were handled.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        if not self._ends_wait:
            self.settle_ends(now_ms, effects)
        with self._soft:
            self.neighbours.rest(now_ms, effects)

    def learn_fork(self, evidence: ForkEvidence, source: str, now_ms: int, effects: Effects) -> Reason | None:
        """Accept a verified fork proof from the operator. Returns None, or the Reason why it was not accepted.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        with Containment(self.mending):
            return self._receiving.learn_fork(evidence, source, now_ms, effects)
        return Reason.INTERNAL

    def import_fact(self, fact: Fact, now_ms: int, effects: Effects) -> None:
        """Import an unsigned fact of a baseline state from the operator. It is decided on like an unsigned envelope.

        Raises ReplicaFailedError.
        """
        self.mending.handling()
        with Containment(self.mending):
            item = self.replica.import_fact(fact, now_ms // 1000)
            self._consequences.hand_over([item], effects)
            self._consequences.report(item, IMPORTED, now_ms, effects)

    def settle_ends(self, now_ms: int, effects: Effects) -> None:
        """Process some of the consequences of ended feeds. Raises ReplicaFailedError."""
        self.mending.handling()
        self._ends_wait = False
        if not self.replica.settling.pending:
            return
        settled: list[Applied] = []
        try:
            with Containment(self.mending, "settle_ends"):
                settled = self.replica.settling.settle_some(limits.SETTLED_AT_ONCE_MAX, now_ms // 1000)
                self._consequences.hand_over(settled, effects)
        except CrabnetError as error:  # usually because stored data cannot be read at the moment
            if isinstance(error, DataDirDamagedError):
                raise
            self._ends_wait = True
            effects.notices.append(refused_notice("settle_ends", error))
        for item in settled:
            self._consequences.report(item, IMPORTED, now_ms, effects)

    def _may_write(self, now_ms: int) -> bool:
        return not self._parts.blocked(now_ms) and not self.replica.feeds.get(self.signer.node_id).end

    def trades(self, now_ms: int) -> bool:
        """True if there may be steps to take now: give a ``Turn``. Ticks do so anyway, a little later."""
        due_ms = self._parts.trading.due_ms()
        due = self._chores.acknowledges or (due_ms is not None and due_ms <= now_ms)
        return due and self._may_write(now_ms)

    @property
    def trading(self) -> Trading:
        """What this node knows and does by policy."""
        return self._parts.trading

    def _operate(self, wish: Operation, now_ms: int, effects: Effects) -> None:
        self._operating.operate(wish, now_ms, effects)

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
        self.replica.requests.prune(now_s)
        boundary.close()
        if pruned:
            fields: dict[str, FieldValue] = {"expired": pruned, "count": len(self.replica.seen)}
            effects.notices.append(Notice("seen_pruned", fields))
        with self._soft:
            expired = self.replica.parking.expire(now_s)
            effects.notices.extend(given_up_notice(parked, Reason.GAP) for parked in expired)
        self.neighbours.tick(now_ms, effects)
        with self._soft:
            self.declining.tick(now_ms, effects)
        parts.tell_clock(now_ms, effects)
        if self._may_write(now_ms):
            self._chores.do(now_ms, effects)
        self.settle_ends(now_ms, effects)
        effects.notices += parts.silent_runs(now_ms)
        effects.notices += parts.unsettled(now_ms)
        parts.trading.fold_histories(limits.HISTORIES_FOLDED_MAX, now_ms)
