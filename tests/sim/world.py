"""A network of cores with virtual time: everything that happens follows from one seed.

Each node has a disk of journal frames and does what ``node/`` does, in one thread: inputs go through ``Core.handle``,
effects wait until a sync makes them durable, and only then are told, sent and served. A crash loses what was not
synced.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from random import Random
from typing import NamedTuple

from crabnet import limits
from crabnet.core.commands import Input, Operation, Received, Tick
from crabnet.core.core import Core, CoreConfig
from crabnet.core.effects import Effects, Notice, Reply, Serve
from crabnet.core.records import EnvelopeRecord, decode_frame, envelope_of, frame_of
from crabnet.core.snapshot import Snapshot, restore
from crabnet.domain.model import FINAL, SeedStatus
from crabnet.errors import CrabnetError, RefusedError
from tests.support.envelopes import NOW_S, signer

START_MS = NOW_S * 1000


class Weather(NamedTuple):
    """What the network does to datagrams. Delays in milliseconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_ms: tuple[int, int] = (1, 30)


class Disk:
    """What survives a crash: frames, and a checkpoint with the number of frames that it covers."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.rows: list[bytes] = []
        self.covered = 0

    def copy(self) -> Disk:
        """A backup."""
        other = Disk()
        other.frames, other.rows, other.covered = list(self.frames), list(self.rows), self.covered
        return other


class SimNode:
    """One node: alive while ``core`` is there."""

    def __init__(self, world: World, name: str, config: CoreConfig, *, skew_ms: int = 0) -> None:
        self.world = world
        self.name = name
        self.address = f"{name}:9012"
        self.config = config
        self.skew_ms = skew_ms
        self.disk = Disk()
        self.targets: list[str] = []
        self.acknowledged: list[tuple[str, int, str]] = []
        self.notices: list[Notice] = []
        self.core: Core | None = None
        self._pending: list[tuple[Effects, bool]] = []
        self._log: dict[str, list[tuple[int, str, bytes]]] = {}
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
        return signer(self.name).node_id

    def start(self, *, feed_risk: bool = False) -> None:
        """Replay the disk, then begin."""
        core = Core(self.config, signer(self.name), self.world.entropy)
        core.neighbours.trusted = frozenset(self.targets)
        if self.disk.rows:
            restore(core.replica, self.disk.rows)
        for frame in self.disk.frames[self.disk.covered :]:
            for record in decode_frame(frame):
                core.replica.replay(record)
        self._log = defaultdict(list)
        for frame in self.disk.frames:
            self._note(frame)
        core.feed_risk = feed_risk
        self.core = core
        effects = Effects()
        core.begin(self.now_ms, effects)
        self._submit(effects, acknowledge=False)

    def crash(self) -> None:
        """Lose everything but the disk."""
        self.core = None
        self._pending = []

    def checkpoint(self) -> None:
        """Write a checkpoint of what is synced; the caller sees to it that nothing is pending."""
        self.disk.rows = list(Snapshot(self.running.replica).rows())
        self.disk.covered = len(self.disk.frames)

    def give(self, given: Input) -> None:
        """An input that nobody waits for."""
        if self.core is not None:
            effects = Effects()
            self.core.handle(given, self.now_ms, effects)
            self._submit(effects, acknowledge=False)

    def operate(self, wish: Operation) -> Reply:
        """What the operator asks for. Raises RefusedError; the reply counts once it is acknowledged."""
        effects = Effects()
        self.running.handle(wish, self.now_ms, effects)
        self._submit(effects, acknowledge=True)
        return effects.reply

    def _submit(self, effects: Effects, *, acknowledge: bool) -> None:
        if not self._pending:
            self.world.later(self.world.rng.randint(0, self.world.sync_ms), self.sync)
        self._pending.append((effects, acknowledge))

    def sync(self) -> None:
        """Group commit: one frame for all that is pending, then what it asks for."""
        if self.core is None:
            return
        batch, self._pending = self._pending, []
        records = [record for effects, _ in batch for record in effects.records]
        if records:
            frame = frame_of(records)
            self.disk.frames.append(frame)
            self._note(frame)
        for effects, acknowledge in batch:
            if acknowledge:
                self.acknowledged += [(place.author, place.seq, place.envelope_id) for place in effects.places]
            self.notices += effects.notices
            for send in effects.sends:
                known = [] if send.to is not None else self.core.neighbours.peers.confirmed()
                targets = dict.fromkeys((*self.targets, *known)) if send.to is None else [send.to]
                for target in targets:
                    self.world.send(self.address, target, send.data)
            for serve in effects.serves:
                self._serve(serve)
        self._check_final()

    def _note(self, frame: bytes) -> None:
        for record in decode_frame(frame):
            if isinstance(record, EnvelopeRecord):
                meta = envelope_of(record).meta
                self._log[meta.from_].append((meta.seq, meta.id, bytes(record.raw)))

    def _serve(self, serve: Serve) -> None:
        feed = self.running.replica.feeds.get(serve.author)
        size = 0
        for seq, envelope_id, raw in sorted(self._log.get(serve.author, [])):
            standing = feed.entry(seq)
            stands = standing is None or standing.id == envelope_id
            if not serve.from_seq <= seq <= min(serve.to_seq, feed.head_seq) or not stands:
                continue
            size += len(raw)
            if size > limits.SYNC_RESPONSE_BYTES_MAX:
                return
            self.world.send(self.address, serve.to, raw)

    def _check_final(self) -> None:
        """Nothing settled re-opens; only a world with forgers may take that back."""
        for seed_id, record in self.running.replica.state.records.items():
            status = record.progress.status
            before = self._final.get(seed_id)
            if before is not None and status is not before and not self.world.forks:
                raise AssertionError(f"{self.name}: seed {seed_id} was {before}, is {status}")
            if status in FINAL:
                self._final[seed_id] = status


class World:
    """Nodes, a network, and a clock that moves from event to event."""

    sync_ms = 5
    """Longest time until what was decided is durable."""

    def __init__(self, seed: int, *, forks: bool = False) -> None:
        self.rng = Random(seed)
        self.forks = forks
        self.now_ms = START_MS
        self.weather = Weather()
        self.nodes: dict[str, SimNode] = {}
        self.cut: frozenset[frozenset[str]] = frozenset()
        self.delivered = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()

    def entropy(self) -> int:
        """Random integers up to 2^53-1."""
        return self.rng.getrandbits(53)

    def add(self, name: str, config: CoreConfig | None = None, *, skew_ms: int = 0) -> SimNode:
        """A new node, not started."""
        node = SimNode(self, name, CoreConfig() if config is None else config, skew_ms=skew_ms)
        self.nodes[node.address] = node
        return node

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something in a while."""
        heapq.heappush(self._events, (self.now_ms + delay_ms, next(self._numbers), action))

    def send(self, source: str, target: str, data: bytes) -> None:
        """One message on its way: lost, doubled, delayed."""
        weather = self.weather
        for _ in range(1 + (self.rng.random() < weather.duplicate)):
            if self.rng.random() >= weather.loss:
                self.later(self.rng.randint(*weather.delay_ms), lambda: self._deliver(source, target, data))

    def _deliver(self, source: str, target: str, data: bytes) -> None:
        node = self.nodes.get(target)
        if node is not None and frozenset((source, target)) not in self.cut:
            self.delivered += 1
            node.give(Received(source, data))

    def partition(self, *sides: list[SimNode]) -> None:
        """Nodes of different sides cannot reach each other; no sides heal the network."""
        addresses = [[node.address for node in side] for side in sides]
        self.cut = frozenset(
            frozenset((one, other))
            for at, side in enumerate(addresses)
            for rest in addresses[at + 1 :]
            for one in side
            for other in rest
        )

    def run(self, duration_ms: int, *, tick_ms: int = 100, step: Callable[[], None] | None = None) -> None:
        """Let time pass; each node is given ticks, ``step`` is called as often."""
        end_ms = self.now_ms + duration_ms
        next_tick_ms = self.now_ms
        while self.now_ms < end_ms:
            while self._events and self._events[0][0] <= next_tick_ms:
                self.now_ms, _, action = heapq.heappop(self._events)
                action()
            self.now_ms = next_tick_ms
            for node in self.nodes.values():
                node.give(Tick())
            if step is not None:
                step()
            next_tick_ms += tick_ms

    def settle(self, limit_ms: int = 120_000) -> bool:
        """Run until all nodes that are up agree, at most ``limit_ms``; True if they do."""
        end_ms = self.now_ms + limit_ms
        while self.now_ms < end_ms:
            self.run(1_000)
            if len(self.hashes()) == 1:
                return True
        return False

    def hashes(self) -> set[str]:
        """The different state hashes of nodes that are up."""
        return {node.core.replica.state_hash() for node in self.nodes.values() if node.core is not None}


def attempt(node: SimNode, wish: Operation) -> Reply:
    """Operate; a refusal is fine, any other error of the tree too."""
    try:
        return node.operate(wish)
    except RefusedError:
        return None
    except CrabnetError as error:
        raise AssertionError(f"{node.name}: {wish} raised {error!r}") from error
