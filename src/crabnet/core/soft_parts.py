"""The soft parts of a core (ADR 27). A query has an answer even if a part fails.

A part that fails is made anew. The query then gets an answer that neither refuses nor delays anything. The only
exception is the question whether this node may write into its own feed: the answer is then no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from crabnet import limits
from crabnet.core.budgets.authors import AuthorBudgets
from crabnet.core.budgets.sources import Block, SourceGate
from crabnet.core.commands import Misbehaved
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda, at_rest_since_ms
from crabnet.core.effects import Effects, Notice
from crabnet.core.mending import Part
from crabnet.core.moves import Move
from crabnet.core.notices import Trifles, blocked_notice, drop_notice, misbehaved_notice
from crabnet.core.replica.parking import Parking
from crabnet.core.replica.replica import Pays, Replica
from crabnet.core.sweeper import Sweeper
from crabnet.core.sync.gauges import SyncGauges, gauges_of
from crabnet.core.sync.neighbours import Neighbours
from crabnet.core.trading.trading import Trading
from crabnet.domain.record import Record
from crabnet.errors import Reason
from crabnet.protocol.admission import Muted, nobody_muted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.identity import Signer
from crabnet.protocol.sync import ForkMark


class Terms(Struct, frozen=True):
    """The terms for an envelope of a source.

    ``proven``: the source is configured or has proved its address. ``muted`` says which envelopes are refused at the
    moment without a check of their signature. ``pays`` charges authors. It is None if authors have no budgets.
    """

    proven: bool
    muted: Muted
    pays: Pays | None


class SoftParts:
    """Sources, budgets, neighbours and deadlines of a node.

    ``denies`` says with which authors the node makes no new deals.
    """

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        replica: Replica,
        entropy: Callable[[], int],
        denies: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._node_id = signer.node_id
        self._replica = replica
        self._soft = replica.mending.soft
        self._gate = SourceGate(config.sources)
        self._trifles = Trifles()
        self._budgets = self._new_budgets()
        self._sweeper = self._new_sweeper()
        self.trading = Trading(config, self._node_id, replica, entropy, denies)
        self._resting = Agenda()
        self._away_again_ms: dict[str, int] = {}
        """When seeds from the archive may leave memory again, in milliseconds."""
        self._clock_suspect = False
        self._deadlines_wrong = False
        self._deadlines_from_ms = 0
        self.neighbours = Neighbours(config, signer, replica, entropy, self._room)
        replica.waiting.knows = self.knows
        replica.mending.parts, replica.mending.renew = self._parts, self._renew

    def begin(self) -> None:
        """Call this once after the replica was loaded, before ``watch`` of every seed."""
        with self._soft:
            self._begin_budgets()
        with self._soft:
            self.neighbours.begin()
        with self._soft:
            self.trading.histories.begin()
        self._away_again_ms = dict.fromkeys(self._replica.state.outdated, 0)

    def begin_deadlines(self, now_ms: int) -> int:
        """Call this once after ``watch`` of every seed. Returns how many deadlines have passed."""
        self._deadlines_from_ms = now_ms
        with self._soft:
            self.trading.buyer.begin(now_ms)
        with self._soft:
            return self._sweeper.begin(now_ms)
        return 0

    # --- sources and authors ---------------------------------------------------------------------------

    def allows(self, source: str, now_ms: int, effects: Effects, size_bytes: int, *, crowded: bool) -> bool:
        """True if the node may read a datagram of this source at the moment."""
        with self._soft:
            proven = self.neighbours.proven(source)
            refused = self._gate.check(source, now_ms, proven=proven, size_bytes=size_bytes, crowded=crowded)
            self._tell_blocks(effects)
            return refused is None
        return True

    def praise(self, source: str, *, proven: bool) -> None:
        """Count an acceptable message in favour of the address that sent it."""
        with self._soft:
            self._gate.praise(source, proven=proven)

    def blame(self, source: str, now_ms: int, effects: Effects) -> None:
        """Count a broken or hostile message against the address that sent it."""
        proven = self.proven(source)
        with self._soft:
            self._gate.reject(source, now_ms, proven=proven)
            self._tell_blocks(effects)

    def misbehaved(self, given: Misbehaved, now_ms: int, effects: Effects) -> None:
        """Count messages against a libp2p peer that its process has refused, and report them."""
        effects.notices.append(misbehaved_notice(given))
        with self._soft:
            if given.hostile:
                self._gate.reject(given.source, now_ms, count=given.count)
            elif given.reason is Reason.RATE_LIMITED:
                self._gate.overran(given.source, now_ms, given.count)
            self._tell_blocks(effects)

    def blocked_peers(self, now_ms: int) -> list[Block]:
        """The libp2p peers that are blocked at the moment."""
        with self._soft:
            return self._gate.blocked_peers(now_ms)
        return []

    def trifle(self, source: str, size_bytes: int, now_ms: int, effects: Effects) -> bool:
        """True for a message that is too small to be valid, after many such.

        It counts the message against its source and reports it together with others.
        """
        if size_bytes >= limits.TOLD_BYTES_MIN or not self._trifles.crowded():
            return False
        self.blame(source, now_ms, effects)
        effects.notices.extend(self._trifles.add(source, size_bytes))
        return True

    def _tell_blocks(self, effects: Effects) -> None:
        if self._gate.blocked:
            blocks = self._gate.take_blocks()
            effects.blocks += blocks
            effects.notices.extend(map(blocked_notice, blocks))

    def tell_drops(self, effects: Effects) -> None:
        """Report how many datagrams were dropped unread."""
        with self._soft:
            for source, reason, count in self._gate.take_dropped():
                effects.notices.append(drop_notice(source, reason, count))

    def knows(self, author: str) -> bool:
        """True if an author is not a newcomer."""
        with self._soft:
            return self._budgets.knows(author)
        return True

    def terms(self, source: str, now_ms: int) -> Terms:
        """The terms on which the node takes an envelope of a source."""
        with self._soft:
            proven = self.neighbours.proven(source)
            if self._budgets.enabled:
                return Terms(proven, self._muted(now_ms), partial(self._pays, now_ms, proven))
            return Terms(proven, nobody_muted, None)
        return Terms(False, nobody_muted, None)

    def muted(self, now_ms: int) -> Muted:
        """Which envelopes are refused at the moment without a check of their signature."""
        with self._soft:
            return self._muted(now_ms)
        return nobody_muted

    def _muted(self, now_ms: int) -> Muted:
        return partial(self._paused, now_ms) if self._budgets.pausing(now_ms) else nobody_muted

    def _paused(self, now_ms: int, meta: EnvelopeMeta) -> bool:
        with self._soft:
            return self._budgets.paused(meta.from_, now_ms) and self._voucher(meta) is None
        return False

    def _voucher(self, meta: EnvelopeMeta) -> str | None:
        """A known author whose parked envelope waits for this one, or None.

        This author's budget may pay for it, so that a flood does not delay the author's envelopes.
        """
        return self._replica.parking.voucher(meta.from_, meta.seq, meta.id, self._budgets.knows)

    def _pays(self, now_ms: int, proven: bool, meta: EnvelopeMeta, size: int) -> bool:
        """Charge an envelope. True if a budget fails: budgets only delay, so the node then takes the envelope."""
        requested = proven and self.wanted(meta)
        with self._soft:
            if self._budgets.charge(meta.from_, size, now_ms, requested=requested):
                return True
            voucher = self._voucher(meta)
            return voucher is not None and self._budgets.charge(voucher, size, now_ms, requested=False)
        return True

    def _room(self, author: str, now_ms: int) -> int:
        room = self._budgets.room(author, now_ms)
        if room:
            return room
        last = self._replica.parking.last_named(author)
        voucher = self._replica.parking.voucher(author, last - 1, "", self._budgets.knows) if last else None
        if voucher is None:
            return 0
        return min(self._budgets.room(voucher, now_ms), last - self._replica.feeds.get(author).head_seq)

    # --- neighbours ------------------------------------------------------------------------------------

    def proven(self, source: str) -> bool:
        """True if this address is configured or has proved itself."""
        with self._soft:
            return self.neighbours.proven(source)
        return False

    def confirmed_peers(self) -> list[str]:
        """Addresses that have proved themselves."""
        with self._soft:
            return self.neighbours.peers.confirmed()
        return []

    def sync_gauges(self, now_ms: int) -> SyncGauges:
        """How far this node and its neighbours are behind each other."""
        with self._soft:
            return gauges_of(self.neighbours, self._replica.feeds, len(self._replica.parking), now_ms)
        return SyncGauges()

    def wanted(self, meta: EnvelopeMeta) -> bool:
        """True for an envelope that this node has asked for, or on which a waiting envelope rests."""
        with self._soft:
            return self.neighbours.planner.wanted(meta.from_, meta.seq) or self._replica.parking.names(meta.id)
        return False

    def asked_for(self, meta: EnvelopeMeta) -> bool:
        """True for an envelope that this node has asked for by its place."""
        with self._soft:
            return self.neighbours.planner.wanted(meta.from_, meta.seq)
        return False

    def hungry(self) -> bool:
        """True if the node would send further requests to neighbours at once."""
        with self._soft:
            return self.neighbours.planner.hungry or self.neighbours.reconciler.hungry
        return False

    def awaits_proofs(self) -> bool:
        """True if the node has asked for a fork proof, or is about to."""
        with self._soft:
            return len(self.neighbours.proofs) > 0
        return False

    def awaits_proof(self, mark: ForkMark) -> bool:
        """True if the node has asked for the proof of this fork, or is about to."""
        with self._soft:
            return mark in self.neighbours.proofs
        return False

    def blocked(self, now_ms: int) -> bool:
        """True while the node may not write into its own feed, because the end of the feed or the clock is in doubt."""
        with self._soft:
            return self.neighbours.guard.blocks(now_ms) or bool(self.clock_suspicion(now_ms))
        return True

    def clock_suspicion(self, now_ms: int) -> str:
        """A description of what is wrong with this node's clock, "" if nothing is known to be wrong."""
        with self._soft:
            if self._config.clock_check:
                written_s = self._replica.written_until_s if self.neighbours.has_peers else 0
                return self.neighbours.clocks.suspicion(now_ms, written_s)
        return ""

    def tell_clock(self, now_ms: int, effects: Effects) -> None:
        """Report when the clock becomes suspect and when it no longer is."""
        suspicion = self.clock_suspicion(now_ms)
        if suspicion and not self._clock_suspect:
            detail = suspicion[: limits.EVENT_DETAIL_CHARS]
            effects.notices.append(Notice("clock_suspect", {"detail": detail, "reason": Reason.CLOCK_SUSPECT.value}))
        elif self._clock_suspect and not suspicion:
            effects.notices.append(Notice("clock_confirmed", {}))
        self._clock_suspect = bool(suspicion)

    def clock_behind_s(self, now_ms: int) -> int:
        """The seconds by which this node's clock is behind those of peers. Negative if it is ahead, 0 if they agree."""
        with self._soft:
            return self.neighbours.clocks.ahead_s(now_ms) if self._config.clock_check else 0
        return 0

    def feed_wait_left_ms(self, now_ms: int) -> int:
        """For how many milliseconds an answer of a peer may still allow the node to write into its own feed."""
        with self._soft:
            guard, clocks = self.neighbours.guard, self.neighbours.clocks
            if clocks.unheard(now_ms, self._replica.written_until_s):
                return max(0, guard.patience_until_ms - now_ms)
            return 0 if self.clock_suspicion(now_ms) else guard.wait_left_ms(now_ms)
        return 0

    # --- deadlines -------------------------------------------------------------------------------------

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Update the deadlines of a seed that has changed."""
        with self._soft:
            self._sweeper.watch(seed_id, record, now_ms)
        self.trading.watch(seed_id, record, now_ms)
        with self._soft:
            self.trading.declines.watch(seed_id, record)
        if not self._config.archive_after_ms:
            return
        with self._soft:
            due_ms = self._away_at_ms(seed_id, record, now_ms)
            if due_ms is not None:
                self._resting.add(due_ms, seed_id)

    def _away_at_ms(self, seed_id: str, record: Record, now_ms: int) -> int | None:
        """When a seed is to leave memory, in milliseconds. None if it is not at rest.

        A seed that came back from the archive stays for as long again as it has been at rest. The reason: a message of
        a few hundred bytes can bring back a seed of a megabyte, and the node writes the seed each time it comes and
        goes.
        """
        since_ms = at_rest_since_ms(record)
        if since_ms is None:
            return None
        due_ms = since_ms + self._config.archive_after_ms
        if seed_id not in self._replica.state.outdated:
            return due_ms
        rest_ms = max(self._config.archive_after_ms, now_ms - since_ms)
        return max(due_ms, self._away_again_ms.setdefault(seed_id, now_ms + rest_ms))

    def archivable(self, now_ms: int) -> list[tuple[str, Record]]:
        """The seeds that have been at rest for the retention time."""
        found: list[tuple[str, Record]] = []
        for seed_id in self._resting.due(now_ms, limits.ARCHIVE_SEGMENT_SEEDS_MAX):
            record = self._replica.state.records.get(seed_id)
            due_ms = None if record is None else self._away_at_ms(seed_id, record, now_ms)
            if record is not None and due_ms is not None and due_ms <= now_ms:
                found.append((seed_id, record))
        return found

    def archived(self, seeds: Sequence[tuple[str, Record]]) -> None:
        """Call this for seeds that have left memory."""
        for seed_id, _ in seeds:
            self._away_again_ms.pop(seed_id, None)
        self.trading.archived(seeds)

    def sweeps(self, now_ms: int) -> list[Move]:
        """The operations for deadlines that have passed."""
        with self._soft:
            return self._sweeper.sweep(now_ms)
        return []

    def again(self, move: Move, now_ms: int) -> None:
        """An operation failed: retry it later."""
        with self._soft:
            if move.by is Part.BUYER:
                self.trading.buyer.again(move, now_ms)
            elif move.by is Part.SELLER:
                self.trading.seller.again(move, now_ms)
            else:
                self._sweeper.again(move, now_ms)

    def silent_runs(self, now_ms: int) -> list[Notice]:
        """Notices about runs whose lease has run out without a renewal."""
        with self._soft:
            return self._sweeper.silent(now_ms)
        return []

    def unsettled(self, now_ms: int) -> list[Notice]:
        """Notices about results that were not settled in time."""
        with self._soft:
            return self._sweeper.unsettled(now_ms)
        return []

    def renew_deadlines(self, now_ms: int) -> None:
        """Compute all deadlines anew if they may be wrong.

        This reads every seed, so it happens at most once in DEADLINES_RENEW_MS.
        """
        if not self._deadlines_wrong or now_ms < self._deadlines_from_ms:
            return
        self._deadlines_from_ms = now_ms + limits.DEADLINES_RENEW_MS
        self._sweeper, self._resting = self._new_sweeper(), Agenda()
        self.trading.renew_policies()
        for seed_id, record in self._replica.state.records.items():
            self.watch(seed_id, record, now_ms)
        self._sweeper.begin(now_ms)
        self.trading.buyer.begin(now_ms)
        self._deadlines_wrong = False

    # --- making parts anew -----------------------------------------------------------------------------

    def _new_budgets(self) -> AuthorBudgets:
        feeds = self._replica.feeds
        return AuthorBudgets(self._config.authors, lambda author: feeds.get(author).head_seq, self._node_id)

    def _begin_budgets(self) -> None:
        self._budgets.begin((author, head[0]) for author, head in self._replica.feeds.heads().items())

    def _new_sweeper(self) -> Sweeper:
        return Sweeper(self._config.execution_grace_ms, self._node_id, self._replica.state)

    def _parts(self) -> dict[Part, object]:
        """The present soft parts."""
        return {
            Part.SOURCES: self._gate,
            Part.BUDGETS: self._budgets,
            Part.PARKING: self._replica.parking,
            Part.DEADLINES: self._sweeper,
            **self.trading.parts(),
            **self.neighbours.parts(),
        }

    def _renew(self, part: Part) -> None:
        """Make a soft part anew from the configuration and the replica."""
        if part is Part.SOURCES:
            self._gate = SourceGate(self._config.sources)
        elif part is Part.BUDGETS:
            self._budgets = self._new_budgets()
            self._begin_budgets()
        elif part is Part.PARKING:
            self._replica.waiting.parking = Parking(self._config.parked_ttl_s)
            self.neighbours.renew(Part.WANTS)
        elif part in {Part.DECLINES, Part.HISTORIES}:
            self.trading.renew(part)
        elif part in {Part.DEADLINES, Part.BUYER, Part.SELLER}:
            self._deadlines_wrong = True
        else:
            self.neighbours.renew(part)
