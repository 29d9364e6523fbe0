"""A network of nodes with virtual time: everything that happens follows from one seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from crabnet.core.config import CoreConfig
from crabnet.core.replica.records import envelopes_of_frame
from crabnet.protocol.identity import SignedBytes, verify
from tests.sim.node import Observer, SimNode, attempt
from tests.support.envelopes import NOW_S

if TYPE_CHECKING:
    from tests.sim.p2p import P2p

__all__ = ["START_MS", "SimNode", "Weather", "World", "attempt"]

START_MS = NOW_S * 1000
_VERIFIED_MAX = 200_000
_FRAMES_MAX = 5_000


class Weather(NamedTuple):
    """What the network does to datagrams. Delays in milliseconds; a long range of them reorders."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_ms: tuple[int, int] = (1, 30)


class Traffic(NamedTuple):
    """What was sent, lost or not."""

    datagrams: int = 0
    bytes: int = 0


class Outsider:
    """Somebody with an address and no node: given whatever is sent there."""

    def receive(self, source: str, datagram: bytes) -> None:
        """A datagram came."""


class World:
    """Nodes, a network, and a clock that moves from event to event."""

    sync_ms = 5
    """Longest time until what was decided is durable, on a disk that is not slow."""

    def __init__(self, seed: int, *, forks: bool = False) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.forks = forks
        self.now_ms = START_MS
        self.weather = Weather()
        self.nodes: dict[str, SimNode] = {}
        self.outsiders: dict[str, Outsider] = {}
        self.observers: list[Observer] = []
        self.p2p: P2p | None = None
        """The libp2p network, if there is one."""
        self.cut: frozenset[tuple[str, str]] = frozenset()
        self.delivered = 0
        self.traffic = Traffic()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._verified: dict[SignedBytes, bool] = {}
        self._frames: dict[bytes, list[bytes]] = {}
        self._trace = crc32(b"")

    def entropy(self) -> int:
        """Random integers up to 2^53-1."""
        return self.rng.getrandbits(53)

    def verify_all(self, signed: Sequence[SignedBytes]) -> list[bool]:
        """``verify``, a pure function of bytes, worked out once for all nodes."""
        answers = []
        for each in signed:
            answer = self._verified.get(each)
            if answer is None:
                if len(self._verified) >= _VERIFIED_MAX:
                    self._verified.clear()
                answer = self._verified[each] = verify(*each)
            answers.append(answer)
        return answers

    @property
    def virtual_ms(self) -> int:
        """Time since the beginning."""
        return self.now_ms - START_MS

    def digest(self) -> str:
        """A fingerprint of all that has happened: equal in two runs that are the same in every datagram."""
        return f"{self._trace:08x}-{self.delivered}-{self.rng.getrandbits(32):08x}"

    def raw(self, frame: bytes, record_no: int) -> bytes:
        """The envelope in a journal record."""
        raws = self._frames.get(frame)
        if raws is None:
            if len(self._frames) >= _FRAMES_MAX:
                self._frames.clear()
            raws = self._frames[frame] = envelopes_of_frame(frame)
        return raws[record_no]

    def add(self, name: str, config: CoreConfig | None = None, *, skew_ms: int = 0) -> SimNode:
        """A new node, not started."""
        node = SimNode(self, name, CoreConfig() if config is None else config, skew_ms=skew_ms)
        self.nodes[node.address] = node
        return node

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do something in a while."""
        heapq.heappush(self._events, (self.now_ms + delay_ms, next(self._numbers), action))

    def send(self, source: str, target: str, data: bytes) -> None:
        """One datagram on its way: lost, doubled, delayed."""
        if self.p2p is not None and self.p2p.takes(source, target):
            self.p2p.tell(source, target, data)
            return
        weather = self.weather
        self.count(len(data))
        for _ in range(1 + (self.rng.random() < weather.duplicate)):
            if self.rng.random() >= weather.loss:
                self.later(self.rng.randint(*weather.delay_ms), lambda: self._deliver(source, target, data))

    def count(self, size_bytes: int) -> None:
        """Something is sent."""
        self.traffic = Traffic(self.traffic.datagrams + 1, self.traffic.bytes + size_bytes)

    def note(self, data: bytes) -> None:
        """Something has arrived."""
        self.delivered += 1
        self._trace = crc32(data, self._trace)

    def _deliver(self, source: str, target: str, data: bytes) -> None:
        if (source, target) in self.cut:
            return
        node = self.nodes.get(target) or self.outsiders.get(target)
        if node is not None:
            self.note(data)
            node.receive(source, data)

    def partition(self, *sides: list[SimNode]) -> None:
        """Nodes of different sides cannot reach each other; no sides heal the network."""
        addresses = [[node.address for node in side] for side in sides]
        pairs = [
            (one, other)
            for at, side in enumerate(addresses)
            for rest in addresses[at + 1 :]
            for one in side
            for other in rest
        ]
        self.cut = frozenset((*pairs, *((other, one) for one, other in pairs)))

    def block(self, sources: list[SimNode], targets: list[SimNode]) -> None:
        """What ``sources`` send does not reach ``targets``, while answers do."""
        pairs = ((one.address, other.address) for one in sources for other in targets if one is not other)
        self.cut = self.cut | frozenset(pairs)

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
                node.tick()
            if self.p2p is not None:
                self.p2p.tick()
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
