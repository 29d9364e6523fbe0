"""One node of the simulation: the real core, ledger and fragments, with virtual time, network and disk around them.

It does what ``node/`` does, in one thread: inputs go through ``Core.handle``; a frame takes as long as the disk is
slow; what it holds is told, sent, served and acknowledged only then.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from crabnet import limits
from crabnet.core.commands import Answered, Input, Operation, Received, Tick, Turn
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FeedPlace, Notice, Reply, Send, Serve
from crabnet.core.mending import Fault
from crabnet.core.replica.held import NothingHeld
from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.core.sync.feed_guard import FeedWait
from crabnet.domain.model import FINAL, SeedStatus
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.node.durable.framing import Batch, Framing
from crabnet.node.durable.own_feed import RiskMark
from crabnet.protocol.fragment_wire import Shape, classify, parse_request
from crabnet.protocol.fragments import Complete, Dropped, Reassembler, SentCache
from crabnet.protocol.sync import Served
from crabnet.source import is_p2p, is_udp, udp_source
from crabnet.storage.checkpoint.format import CheckpointHeader
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.sim.disk import CutError, MemoryFiles
from tests.sim.stored import Stored
from tests.support.envelopes import signer

if TYPE_CHECKING:
    from tests.sim.p2p import P2p
    from tests.sim.world import World


FEED_WAIT_MS = 2_000


class _Waiting(NamedTuple):
    """Effects that wait for the disk; the operator is answered if ``acknowledge``."""

    effects: Effects
    acknowledge: bool


def _framed(waiting: list[_Waiting]) -> Iterator[Batch[_Waiting]]:
    """Effects as the frames of the journal that they become."""
    framing: Framing[_Waiting] = Framing(limits.FRAME_BYTES_TARGET)
    for each in waiting:
        framing.put(each.effects, each)
    while framing:
        yield framing.take()


class Observer(Protocol):
    """Looks at nodes after each step. Raises AssertionError for what must not be."""

    def stepped(self, node: SimNode, effects: Effects) -> None:
        """The node has handled an input."""
        ...

    def received(self, node: SimNode, given: Received, effects: Effects) -> None:
        """The node has handled a message; ``effects`` are of this message alone."""
        ...

    def durable(self, node: SimNode, effects: Effects) -> None:
        """What a step has written is durable, and is told, sent and acknowledged from now on."""
        ...

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None:
        """The node has told its operator that a change is durable."""
        ...

    def sent(self, node: SimNode, send: Send) -> None:
        """The node sends an envelope, or says something."""
        ...

    def started(self, node: SimNode) -> None:
        """The node has recovered its data dir."""
        ...


class Trading(Protocol):
    """What ``node.trading`` and ``node.execution`` do for a node: runs, checks, and what a worker knows of itself."""

    def opened(self, core: Core) -> None:
        """The node has recovered its data dir, and is about to begin."""
        ...

    def durable(self, effects: Effects) -> None:
        """What a step has written is durable."""
        ...


class SimNode:
    """One node: alive while ``core`` is there."""

    data_dir = Path("/data")
    withholds = False
    """True for a liar that passes nothing on and serves nothing."""

    def __init__(self, world: World, name: str, config: CoreConfig, *, skew_ms: int = 0) -> None:
        self.world = world
        self.name = name
        self.address = udp_source(f"{name}:9012")
        self.config = config
        self.skew_ms = skew_ms
        self.signer = signer(name)
        self.disk = MemoryFiles()
        self.disk_ms: tuple[int, int] | None = None
        self.targets: list[str] = []
        self.with_udp = True
        self.p2p: P2p | None = None
        """The libp2p network, if the node is in it."""
        self.trading: Trading | None = None
        self.takes_turns = True
        """False: its policies wait for ticks."""
        self.acknowledged: list[tuple[str, int, str]] = []
        self.notices: list[Notice] = []
        self.keep_notices = True
        self.tolerates_faults = False
        self.faults: list[Fault] = []
        """Errors that nobody expected; raised unless they are tolerated."""
        self.core: Core | None = None
        self.ledger: Ledger | None = None
        self.reassembler = Reassembler()
        self.sent_cache = SentCache()
        self.lives = 0
        self._pending: list[_Waiting] = []
        self._in_flight: list[_Waiting] = []
        self._busy = False
        self._resting = False
        self._turning = False
        self.history = Stored(world.raw)
        self._final: dict[str, SeedStatus] = {}

    @property
    def now_ms(self) -> int:
        """This node's clock."""
        return self.world.now_ms + self.skew_ms

    @property
    def running(self) -> Core:
        """The core of a node that is up."""
        if self.core is None:
            raise RuntimeError(f"{self.name} is down")
        return self.core

    @property
    def id(self) -> str:
        """The node id."""
        return self.signer.node_id

    # --- life ------------------------------------------------------------------------------------------

    def start(self, *, feed_risk: bool = False) -> None:
        """Recover the data dir, then begin."""
        self.recover(feed_risk=feed_risk)
        effects = Effects()
        self.running.begin(self.now_ms, effects, FeedWait(FEED_WAIT_MS, then_writes=True) if self.lives > 1 else None)
        self._submit(effects, acknowledge=False)
        self._rest_soon()

    def recover(self, *, feed_risk: bool = False) -> None:
        """Open the data dir as ``node.store.open_store`` does, but without its indexes and its archive."""
        ledger = Ledger.open(
            self.data_dir, files=self.disk, now_ms=self.now_ms, role=LockRole.NODE, expected_node_id=self.id
        )
        core = Core(self.config, self.signer, self.world.entropy, self.world.verify_all)
        core.neighbours.trusted = frozenset(self.targets)
        core.neighbours.expects_p2p = self.p2p is not None and self.p2p.knows_any(self)
        core.replica.held = NothingHeld()
        if ledger.recovery.checkpoint is not None:
            restore(core.replica, ledger.recovery.rows())
        for frame in ledger.recovery.frames():
            for record in decode_frame(frame.payload):
                core.replica.replay(record)
        self.history = Stored(self.world.raw)
        for frame in ledger.frames_after(0):
            self.history.recover(frame.payload)
        core.replica.held = self.history.held
        mark = RiskMark(self.disk, self.data_dir)
        at_risk = mark.present or ledger.recovery.may_lack_frames or feed_risk
        if at_risk and not self.config.accept_feed_risk:
            core.endanger_feed("the data dir was repaired")
        mark.keep(at_risk)
        self._mark = mark
        self.core, self.ledger = core, ledger
        if self.trading is not None:
            self.trading.opened(core)
        self.reassembler, self.sent_cache = Reassembler(), SentCache()
        self.lives += 1
        for observer in self.world.observers:
            observer.started(self)

    def crash(self, *, power: bool = False) -> None:
        """Lose all but the disk. With ``power`` the disk loses what was not synced, and what is under way is torn."""
        if power and self.ledger is not None and self._in_flight:
            self._cut_in_append(self.ledger)
        self.core = self.ledger = None
        self._pending, self._in_flight = [], []
        self._busy = False
        self._resting = self._turning = False
        if power:
            self.disk.power_cut(self.world.rng)
        else:
            self.disk.kill()

    def _cut_in_append(self, ledger: Ledger) -> None:
        """The power goes while one of the frames under way is being written or synced."""
        frames = [frame_of(batch.records) for batch in _framed(self._in_flight) if batch.records]
        if frames:
            cut = self.world.rng.randrange(len(frames)) if len(frames) > 1 else 0
            for frame in frames[:cut]:
                ledger.append(frame)
            self.disk.cut_after(1)
            try:
                ledger.append(frames[cut])
            except CutError:
                return

    def checkpoint(self, *, cut_after: int = 0) -> None:
        """Write a checkpoint of what is synced. With ``cut_after`` the power goes at that change of the disk."""
        self.sync()
        ledger = self.ledger
        if ledger is None:
            return
        snapshot = Snapshot(self.running.replica)
        header = CheckpointHeader(state_hash=snapshot.state_hash, created_at_ms=self.now_ms, node_id=self.id, extra={})
        if cut_after:
            self.disk.cut_after(cut_after)
        try:
            writer = ledger.begin_checkpoint(header)
            writer.write_rows(snapshot.rows())
            writer.commit()
        except CutError:
            self.crash(power=True)
        self.disk.cut_after(0)

    # --- inputs ----------------------------------------------------------------------------------------

    def receive(self, source: str, datagram: bytes) -> None:
        """A datagram from the network, as ``node.network.Network`` takes it."""
        core = self.core
        if core is None or not self.with_udp:
            return
        effects = Effects()
        if not core.allows(source, self.now_ms, effects):
            return
        shape = classify(datagram)
        message: bytes | None = None
        if shape is Shape.WHOLE:
            message = datagram
        elif shape is Shape.FRAGMENT:
            taken = self.reassembler.add(source, datagram, self.world.now_ms)
            message = taken.message if isinstance(taken, Complete) else None
            if isinstance(taken, Dropped) and taken.reason is Reason.MALFORMED_FRAGMENT:
                core.blame(source, self.now_ms, effects)
        elif shape is Shape.REQUEST and parse_request(datagram) is not None:
            for answer in self.sent_cache.answer(source, datagram, self.world.now_ms):
                self.world.send(self.address, source, answer)
        else:
            core.blame(source, self.now_ms, effects)
        if message is not None:
            self._handle(core, Received(source, message), effects)
        self._submit(effects, acknowledge=False)
        self._rest_soon()

    def take(self, source: str, message: bytes) -> None:
        """A whole message of a libp2p peer, as ``node.network.DhtNetwork`` takes it."""
        core = self.core
        if core is None:
            return
        effects = Effects()
        if core.allows(source, self.now_ms, effects, len(message)):
            self._handle(core, Received(source, message), effects)
        self._submit(effects, acknowledge=False)
        self._rest_soon()

    def _handle(self, core: Core, received: Received, effects: Effects) -> None:
        core.look_ahead([received], self.now_ms)
        core.handle(received, self.now_ms, effects)
        for observer in self.world.observers:
            observer.received(self, received, effects)

    def tick(self) -> None:
        """Time has passed."""
        core = self.core
        if core is None:
            return
        effects = Effects()
        core.handle(Tick(), self.now_ms, effects)
        now_ms = self.world.now_ms
        for source, request in self.reassembler.requests(now_ms):
            self.world.send(self.address, source, request)
        self.reassembler.expire(now_ms)
        self._mark.keep(core.feed_risk)
        self._submit(effects, acknowledge=False)

    def give(self, given: Input) -> None:
        """An input that nobody waits for."""
        if self.core is not None:
            effects = Effects()
            self.core.handle(given, self.now_ms, effects)
            self._submit(effects, acknowledge=False)
            self._rest_soon()

    def _rest_soon(self) -> None:
        """Let the core ask for more once what came at the same moment is handled."""
        if self.core is not None and self.core.hungry and not self._resting:
            self._resting = True
            self.world.later(1, partial(self._rest, self.lives))

    def _rest(self, life: int) -> None:
        """What was handled lately has made room for more requests."""
        self._resting = False
        if life == self.lives and self.core is not None:
            effects = Effects()
            self.core.rest(self.now_ms, effects)
            self._submit(effects, acknowledge=False)
            self._rest_soon()

    def _turn_soon(self) -> None:
        """Let policies take the steps that are due, as ``node.trading.turns`` does after each durable change."""
        if self.takes_turns and self.core is not None and not self._turning and self.core.trades(self.now_ms):
            self._turning = True
            self.world.later(1, partial(self._turn, self.lives))

    def _turn(self, life: int) -> None:
        if life == self.lives and self.core is not None:
            self._turning = False
            self.give(Turn())

    def operate(self, wish: Operation) -> Reply:
        """What the operator asks for. Raises RefusedError; the reply counts once it is acknowledged."""
        effects = Effects()
        try:
            self.running.handle(wish, self.now_ms, effects)
        finally:
            self._take_faults()
        self._submit(effects, acknowledge=True)
        return effects.reply

    # --- group commit ----------------------------------------------------------------------------------

    def _take_faults(self) -> None:
        faults, _ = self.running.mending.take_faults()
        self.faults += faults
        if faults and not self.tolerates_faults:
            raise AssertionError(f"{self.name}: unexpected error in {faults[0].part}") from faults[0].error

    def _submit(self, effects: Effects, *, acknowledge: bool) -> None:
        self._take_faults()
        for observer in self.world.observers:
            observer.stepped(self, effects)
        if not acknowledge and not (
            effects.records
            or effects.sends
            or effects.serves
            or effects.proofs
            or effects.serves_named
            or effects.notices
            or effects.blocks
            or effects.checks
        ):
            return
        self._pending.append(_Waiting(effects, acknowledge))
        if not self._busy:
            self._begin_commit()

    def _begin_commit(self) -> None:
        self._busy = True
        self._in_flight, self._pending = self._pending, []
        slow = (0, self.world.sync_ms) if self.disk_ms is None else self.disk_ms
        self.world.later(self.world.rng.randint(*slow), partial(self._end_commit, self.lives))

    def _end_commit(self, life: int) -> None:
        """The frame under way is durable, unless the node died meanwhile or ``sync`` was quicker."""
        if life != self.lives or self.core is None or not self._busy:
            return
        self._commit()
        self._busy = False
        if self._pending:
            self._begin_commit()

    def sync(self) -> None:
        """Make all durable that waits, at once."""
        self._commit()
        while self._pending:
            self._in_flight, self._pending = self._pending, []
            self._commit()

    def _commit(self) -> None:
        """Group commit: one frame for all that waited, or several, then what it asks for."""
        ledger = self.ledger
        waiting, self._in_flight = self._in_flight, []
        if ledger is None or not waiting:
            return
        frames: dict[FramePosition, bytes] = {}
        for batch in _framed(waiting):
            if batch.records:
                frame = frame_of(batch.records)
                position = ledger.append(frame)
                batch.written(position)
                frames[position] = frame
            for durable, _ in batch.whole:
                self.history.add(durable, frames)
            for _, each in batch.whole:
                self._release(each)
        if not self.world.observers:
            self._check_final()

    def _release(self, waiting: _Waiting) -> None:
        """Effects are durable: they are told, acknowledged and carried out."""
        effects = waiting.effects
        for observer in self.world.observers:
            observer.durable(self, effects)
        if waiting.acknowledge:
            for place in effects.places:
                self.acknowledged.append((place.row.author, place.row.seq, place.row.envelope_id))
                for observer in self.world.observers:
                    observer.acknowledged(self, place)
        if self.keep_notices:
            self.notices += effects.notices
        self._carry_out(effects)
        if self.trading is not None:
            self.trading.durable(effects)
        self._turn_soon()

    def _carry_out(self, effects: Effects) -> None:
        for send in effects.sends:
            if send.relayed and self.withholds:
                continue
            for observer in self.world.observers:
                observer.sent(self, send)
            self._send(send)
        for block in effects.blocks:
            if self.p2p is not None and is_p2p(block.source):
                self.p2p.block(self, block.source, block.duration_ms)
        if self.withholds:
            return
        for serve in effects.serves:
            self._serve(serve)
        for wanted in effects.proofs:
            self._send_single(wanted.to, self.history.proof(wanted, self.running.replica.admission))
        for named in effects.serves_named:
            self._send_single(named.to, self.history.named(named))

    def _send(self, send: Send) -> None:
        """Send over both networks, or to one neighbour."""
        if self.p2p is not None and (send.to is None or is_p2p(send.to)):
            self.p2p.send(self, send)
        if self.with_udp and send.to is None:
            for target in dict.fromkeys((*self.targets, *filter(is_udp, self.running.confirmed_peers()))):
                self._transmit(target, send.data)
        elif send.to is not None and is_udp(send.to):
            self._transmit(send.to, send.data)

    def _send_single(self, to: str, found: bytes | None) -> None:
        if found is not None:
            self._transmit(to, found)

    def _transmit(self, target: str, message: bytes) -> None:
        if is_p2p(target):
            if self.p2p is not None:
                self.p2p.stream(self, target, message)
            return
        for datagram in self.sent_cache.split(message, self.world.now_ms):
            self.world.send(self.address, target, datagram)

    def _serve(self, serve: Serve) -> None:
        last = serve.from_seq - 1
        for seq, raw in self.history.range(serve, self.running.replica.feeds.get(serve.author)):
            self._transmit(serve.to, raw)
            last = seq
        self.give(Answered(serve.to, [Served(serve.author, serve.from_seq, last)]))

    def _check_final(self) -> None:
        """Nothing settled re-opens; only a world with forgers may take that back."""
        for seed_id, record in self.running.replica.state.records.items():
            status = record.progress.status
            before = self._final.get(seed_id)
            if before is not None and status is not before and not self.world.forks:
                raise AssertionError(f"{self.name}: seed {seed_id} was {before}, is {status}")
            if status in FINAL:
                self._final[seed_id] = status


def attempt(node: SimNode, wish: Operation) -> Reply:
    """Operate; a refusal is fine, any other error of the tree too."""
    try:
        return node.operate(wish)
    except RefusedError:
        return None
    except CrabnetError as error:
        raise AssertionError(f"{node.name}: {wish} raised {error!r}") from error
