"""Adversaries who fill tables, parking places and seeds with what counts for nothing, and lie about what is held."""

from __future__ import annotations

import json
from collections import deque
from functools import partial

from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.sync import Head, Heads, Hello, NodeIdentity, Served
from tests.sim.adversary import Adversary, Voice
from tests.sim.world import Outsider, World
from tests.support.envelopes import body_of, seed_id_of, signer

_PORTS = 1_100
_PORTS_PROVEN = 40
_BURST_COST = 60
"""What a burst from all ports costs of the budget: its messages are small."""


class _Port(Outsider):
    """One address of a crowd: it proves itself, and that is all that it listens to."""

    def __init__(self, crowd: Crowd, address: str) -> None:
        self._crowd = crowd
        self._address = address

    def receive(self, source: str, datagram: bytes) -> None:
        if b'"NodeHello"' in datagram[:1_000]:
            challenge = str(json.loads(datagram)["payload"].get("challenge", ""))
            if challenge:
                self._crowd.greet(source, self._address, challenge)


class Crowd(Adversary):
    """One key at very many ports, some of which prove themselves: each tells of feeds that nobody has."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._proven = [f"udp:198.51.100.7:{port}" for port in range(1, _PORTS_PROVEN + 1)]
        for address in self._proven:
            world.outsiders[address] = _Port(self, address)

    def greet(self, target: str, source: str, echo: str = "") -> None:
        """Say hello from one of the ports."""
        self._send(self.talk(Hello(NodeIdentity(self.author.id), "", echo)).raw, [target], source)

    def harm(self) -> None:
        if self.rng.random() < 0.9:
            for source in self.rng.sample(self._proven, 4):
                victim = self.rng.choice(self.victims())
                self.greet(victim, source)
                self.tell(self.talk(Heads([self._head() for _ in range(8)])).raw, [victim], source)
            return
        victim = self.rng.choice(self.victims())
        for port in range(_PORTS):
            raw = self.talk(Heads([self._head()])).raw
            self.world.later(port * 200 // _PORTS, partial(self._send, raw, [victim], f"udp:198.51.100.7:{100 + port}"))
        self.budget -= _BURST_COST

    def _head(self) -> Head:
        author = signer(f"{self.name} nobody {self.rng.randrange(500)}").node_id
        return Head(author, self.rng.randrange(1, 900), self.rng.randbytes(32).hex(), self.rng.choice([0, 0, 3]))


class Parker(Adversary):
    """Three keys that each fill their parking place with what comes ahead of the first envelope, then bring that."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._first: list[Envelope] = []
        self._release_at_ms = 0

    def harm(self) -> None:
        if self._first:
            if self.world.now_ms >= self._release_at_ms:
                for first in self._first:
                    self.tell(first.raw)
                self._first = []
            return
        large = self.rng.random() < 0.3
        for number in range(3):
            voice = self.voice(f"parker {number}")
            self._first.append(voice.publish(self.now_s))
            targets = self.some()
            for _ in range(6 if large else 30):
                text = "x" * (self.rng.randrange(20_000, 60_000) if large else 10)
                self._send(voice.publish(self.now_s, description=text).raw, targets)
            self.budget -= 10
        self._release_at_ms = self.world.now_ms + self.rng.choice([500, 5_000, 70_000])


class Cycler(Adversary):
    """Opens seeds and closes the oldest or the newest again, by tides of many and few open ones."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._open: deque[Envelope] = deque()
        self._closing = 0.1

    def harm(self) -> None:
        if not self._open or self.rng.random() < 0.02:
            self._closing = self.rng.choice([0.1, 0.5, 0.9])
        for _ in range(3):
            if self._open and self.rng.random() < self._closing:
                closed = self.rng.choice((self._open.popleft, self._open.pop))()
                self.tell(self.author.settle(closed, "Expired", self.now_s).raw, self.some())
            else:
                self._open.append(self.author.publish(self.now_s))
                self.tell(self._open[-1].raw, self.some())


class VoidFlooder(Adversary):
    """Says of honest seeds all that it may not say, a few keys taking turns."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._speakers = [self.author, self.voice("void"), self.voice("void")]

    def harm(self) -> None:
        for _ in range(5):
            said = self._say(self.rng.choice(self._speakers))
            if said is not None:
                self.tell(said.raw, self.some())

    def _say(self, voice: Voice) -> Envelope | None:
        now_s = self.now_s
        seed = self.find(Kind.SEED_CREATED)
        bid = self.find(Kind.BID_SUBMITTED)
        claim = self.find(Kind.CLAIM_CREATED)
        result = self.find(Kind.TASK_RESULT)
        settlement = self.find(Kind.TASK_SETTLE)
        match self.rng.randrange(8):
            case 0:
                return seed and voice.settle(seed, "Expired", now_s)
            case 1:
                return bid and voice.claim(bid, now_s, attempt=self.rng.randrange(1, 4))
            case 2:
                return claim and voice.start(claim, now_s)
            case 3:
                return claim and voice.finish(claim, now_s)
            case 4:
                return result and voice.settle(result, self.rng.choice(["Accepted", "Rejected"]), now_s)
            case 5:
                return settlement and voice.acknowledge(settlement, now_s)
            case 6:
                return seed and voice.bid(seed, now_s, price=0, bidder=self.rng.choice([voice.id, "somebody"]))
            case _:
                return bid and voice.start(bid, now_s, claim_id=str(body_of(bid)["id"]))


class Namer(Adversary):
    """Names what does not exist, what it keeps for itself, what comes late, and in two feeds each the other's next."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._late: list[tuple[int, bytes]] = []

    def harm(self) -> None:
        now_ms = self.world.now_ms
        for due_ms, raw in list(self._late):
            if due_ms <= now_ms:
                self._late.remove((due_ms, raw))
                self.tell(raw, self.some())
        if self.rng.random() < 0.5:
            return
        ways = (self._of_nothing, self._of_a_secret, self._of_the_late, self._of_each_other, self._of_another_seed)
        self.rng.choice(ways)()

    def _bid(self, voice: Voice, seed: Envelope, **changes: str) -> Envelope:
        fields: JsonObject = {"seed_id": seed_id_of(seed), "rests_on": seed.meta.id, "bidder": voice.id, "price": 5}
        return voice.state(Kind.BID_SUBMITTED, "bid", {**fields, **changes}, self.now_s)

    def _of_nothing(self) -> None:
        voice = self.voice("nothing")
        seed = self.find(Kind.SEED_CREATED) or voice.publish(self.now_s)
        self.tell(self._bid(voice, seed, rests_on=self.rng.randbytes(32).hex()).raw)

    def _of_a_secret(self) -> None:
        secret = Voice(f"{self.name} secret {self.rng.randrange(10**9)}").publish(self.now_s)
        for _ in range(self.rng.randint(1, 3)):
            self.tell(self._bid(self.voice("bidder"), secret).raw, self.some())
        if self.rng.random() < 0.5:
            self._late.append((self.world.now_ms + self.rng.randrange(1_000, 90_000), secret.raw))

    def _of_the_late(self) -> None:
        """A whole chain of which each part comes before the one that it rests on."""
        maker, worker = self.voice("maker"), self.voice("worker")
        seed = maker.publish(self.now_s)
        bid = worker.bid(seed, self.now_s)
        claim = maker.claim(bid, self.now_s)
        result = worker.finish(claim, self.now_s)
        settlement = maker.settle(result, "Accepted", self.now_s)
        acknowledgement = worker.acknowledge(settlement, self.now_s)
        due_ms = self.world.now_ms
        for said in (acknowledgement, settlement, result, claim, bid, seed):
            due_ms += self.rng.choice([100, 3_000, 10_000])
            self._late.append((due_ms, said.raw))

    def _of_each_other(self) -> None:
        """What the first envelope of each rests on is the second of the other: neither ever enters its feed."""
        one, other = self.voice("one"), self.voice("other")
        seeds = []
        for voice in (one, other):
            later = voice.twin()
            later.seq, later.head = 1, self.rng.randbytes(32).hex()
            seeds.append(later.publish(self.now_s))
        for said in (self._bid(one, seeds[1]), self._bid(other, seeds[0]), *seeds):
            self.tell(said.raw, self.some())

    def _of_another_seed(self) -> None:
        seed, other = self.find(Kind.SEED_CREATED), self.find(Kind.SEED_CREATED)
        if seed is not None and other is not None and seed is not other:
            self.tell(self._bid(self.voice("mistaken"), seed, rests_on=other.meta.id).raw, self.some())


class HeadLiar(Adversary):
    """Says that feeds are longer, other, or forked, above all those of the nodes that it talks to."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._known: dict[str, tuple[int, str]] = {}

    def heads_said(self, message: bytes, source: str) -> None:
        for author, seq, envelope_id, *_ in json.loads(message)["payload"].get("heads", []):
            if len(self._known) < 200 or author in self._known:
                self._known[author] = (seq, envelope_id)

    def harm(self) -> None:
        victim = self.rng.choice(self.victims())
        heads = [self._head(self.world.nodes[victim].id)]
        heads += [self._head(self.rng.choice(list(self._known))) for _ in range(4 if self._known else 0)]
        heads += [self._head(f"nobody {self.rng.randrange(10**6)}") for _ in range(self.rng.choice([0, 40]))]
        served = []
        if self._known and self.rng.random() < 0.5:
            author = self.rng.choice(list(self._known))
            served.append(Served(author, self.rng.randrange(1, 50), self.rng.randrange(60)))
        root = self.rng.choice(["", self.rng.randbytes(16).hex()])
        self.tell(self.talk(Heads(heads, root, served=served)).raw, [victim])

    def _head(self, author: str) -> Head:
        seq, envelope_id = self._known.get(author, (self.rng.randrange(1, 40), self.rng.randbytes(32).hex()))
        lie = self.rng.randrange(4)
        if lie == 0:
            return Head(author, seq + self.rng.randrange(1, 300), self.rng.randbytes(32).hex())
        if lie == 1:
            return Head(author, max(1, seq - self.rng.randrange(3)), self.rng.randbytes(32).hex())
        if lie == 2:
            return Head(author, 0, "", self.rng.randrange(1, seq + 2))
        return Head(author, seq, envelope_id, self.rng.randrange(seq + 1, seq + 3))
