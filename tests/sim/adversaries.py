"""Those who wish the network ill. Each has an address and keys, talks as peers do, and never stops by itself."""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.fragment_wire import Shape, classify, is_whole, split
from crabnet.protocol.fragments import Complete, Reassembler
from tests.hostile.case import rehash, resign
from tests.sim.node import SimNode
from tests.sim.world import Outsider, World
from tests.support.envelopes import NOW_S, Author, signer

_HEARD_MAX = 400
_HEARD_OF_KIND_MAX = 40
_KINDS_HEARD = (b"SeedCreated", b"BidSubmitted", b"ClaimCreated")
_BOMB = struct.pack(">HHI", 0, 227, 227 * 1_155) + b"{" * 1_155
"""The first of many fragments, of which no other ever comes."""


class Voice(Author):
    """An author who keeps what it has said, to say it again to those who ask."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.said: dict[int, bytes] = {}
        self.by_id: dict[str, bytes] = {}

    def say(self, kind: Kind, payload: JsonObject, ts: int = NOW_S) -> Envelope:
        envelope = super().say(kind, payload, ts)
        self.said[envelope.meta.seq] = envelope.raw
        self.by_id[envelope.meta.id] = envelope.raw
        return envelope

    def state(self, kind: Kind, key: str, fields: JsonObject, ts: int) -> Envelope:
        """The next envelope, about an object that it creates."""
        return self.say(kind, {key: {"id": self.next_object_id(), "created_at": ts, **fields}}, ts)


class Adversary(Outsider):
    """Somebody who gets what is announced, since it proves its address, and sends what it likes."""

    forks = False
    """True for those who sign two envelopes for one place."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        self.world = world
        self.rng = world.rng
        self.name = name
        self.address = f"{name}:9012"
        self.author = Voice(name)
        self.voices = [self.author]
        self.budget = self._given = budget
        self.heard: deque[bytes] = deque(maxlen=_HEARD_MAX)
        self.heard_of: dict[bytes, deque[bytes]] = {kind: deque(maxlen=_HEARD_OF_KIND_MAX) for kind in _KINDS_HEARD}
        self._reassembler = Reassembler()
        self._hello_at_ms = 0
        world.outsiders[self.address] = self

    @property
    def now_s(self) -> int:
        """The true time in seconds."""
        return self.world.now_ms // 1000

    @property
    def spent(self) -> int:
        """What it has done."""
        return self._given - self.budget

    def victims(self) -> list[str]:
        """Addresses of all nodes."""
        return list(self.world.nodes)

    def receive(self, source: str, datagram: bytes) -> None:
        """Echo challenges, keep the rest."""
        message: bytes = datagram
        if classify(datagram) is Shape.FRAGMENT:
            taken = self._reassembler.add(source, datagram, self.world.now_ms)
            if not isinstance(taken, Complete):
                return
            message = taken.message
        if b'"NodeHello"' in message[:1_000]:
            payload = json.loads(message)["payload"]
            if payload.get("challenge"):
                self._talk(source, echo=payload["challenge"])
            return
        if b'"FeedRequest"' in message[:1_000]:
            asked = json.loads(message)["payload"]
            self._answer(source, asked["wants"], asked.get("names", []))
        elif b'"FeedHeads"' not in message:
            self.heard.append(message)
            for kind, heard in self.heard_of.items():
                if kind in message[:1_000]:
                    heard.append(message)

    def _answer(self, source: str, wants: list[list[Any]], names: list[list[str]]) -> None:
        """What is asked for of its own feeds is served: else nobody would hear the rest."""
        for _, envelope_id in names:
            for voice in self.voices:
                if envelope_id in voice.by_id:
                    self._send(voice.by_id[envelope_id], [source])
        for author, first, last in wants:
            for voice in self.voices:
                if voice.id == author:
                    for seq in range(first, min(last, first + 63) + 1):
                        if seq in voice.said:
                            self._send(voice.said[seq], [source])

    def _send(self, raw: bytes, targets: list[str], source: str = "") -> None:
        for target in targets:
            for datagram in [raw] if is_whole(raw) else split(raw):
                self.world.send(source or self.address, target, datagram)

    def _talk(self, target: str, *, echo: str = "") -> None:
        hello: JsonObject = {"identity": {"node_id": self.author.id, "alias": "", "agent": ""}}
        hello |= {"challenge": "", "echo": echo}
        self.author.nonce += 1
        sealed = seal(
            self.author.signer,
            kind=Kind.NODE_HELLO,
            namespace="default",
            ts=self.now_s,
            nonce=self.author.nonce,
            payload=hello,
        )
        self.world.send(self.address, target, sealed.raw)

    def act(self) -> None:
        """Do harm, as long as the budget lasts."""
        if self.world.now_ms >= self._hello_at_ms:
            self._hello_at_ms = self.world.now_ms + 3_000
            for target in self.victims():
                self._talk(target)
        if self.budget > 0:
            self.harm()

    def harm(self) -> None:
        """What this kind of adversary does, a few times a second."""

    def tell(self, raw: bytes, targets: list[str] | None = None, source: str = "") -> None:
        """Send a message to some nodes, all by default."""
        self.budget -= 1
        self._send(raw, self.victims() if targets is None else targets, source)

    def some(self) -> list[str]:
        """At least one node."""
        victims = self.victims()
        return self.rng.sample(victims, self.rng.randint(1, len(victims)))

    def overheard(self, *kinds: bytes) -> dict[str, Any] | None:
        """An envelope of a feed that was overheard, of one of these kinds if any are named."""
        heard = self.heard_of[self.rng.choice(kinds)] if kinds else self.heard
        if not heard:
            return None
        envelope = json.loads(self.rng.choice(heard))
        return cast("dict[str, Any]", envelope) if envelope["meta"].get("seq") else None


class Forger(Adversary):
    """Changes what it overhears, and says in its own name what only others may say."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._thief = signer(f"{name} thief")

    def harm(self) -> None:
        if self.rng.random() < 0.5:
            self._tamper()
        else:
            self._usurp()

    def _tamper(self) -> None:
        found = self.overheard()
        if found is None:
            return
        raw = json.dumps(found).encode()
        meta = found["meta"]
        ways = (
            lambda: raw.replace(b'"price": ', b'"price": 1').replace(b'"title": "', b'"title": "x'),
            lambda: rehash(raw, nonce=self.rng.randrange(2**40)),
            lambda: rehash(raw, seq=meta["seq"] + 1, prev=meta["id"]),
            lambda: rehash(raw, ts=self.now_s + self.rng.randrange(-(10**5), 10**5)),
            lambda: resign(self.author.signer, raw, seq=meta["seq"] + 1, prev=meta["id"]),
            lambda: resign(self._thief, raw, **{"from": self._thief.node_id, "key_id": self._thief.key_id}),
            lambda: raw[: self.rng.randrange(len(raw))],
            lambda: raw.replace(b"default", b"another"),
            lambda: bytes(self.rng.randrange(256) for _ in range(60)),
            lambda: b"CRB2\x01" + bytes(self.rng.randrange(256) for _ in range(200)),
        )
        self.tell(self.rng.choice(ways)(), self.some())

    def _usurp(self) -> None:
        found = self.overheard(*_KINDS_HEARD, b"ClaimCreated")
        if found is None:
            return
        payload = found["payload"]
        if "seed" in payload:
            said = self._usurp_seed(payload["seed"], found["meta"]["id"])
        elif "bid" in payload:
            bid = payload["bid"]
            said = self._object(
                Kind.CLAIM_CREATED,
                "claim",
                {
                    "seed_id": bid["seed_id"],
                    "bid_id": bid["id"],
                    "worker": bid["bidder"],
                    "attempt": 1,
                    "rests_on": found["meta"]["id"],
                },
            )
        else:
            said = self._usurp_claim(payload["claim"], found["meta"]["id"])
        self.tell(said.raw, self.some())

    def _usurp_seed(self, seed: dict[str, Any], envelope_id: str) -> Envelope:
        status = self.rng.choice(["Accepted", "Rejected", "Forfeited", "Expired", ""])
        if status:
            ended: JsonObject = {**seed, "status": status, "rests_on": envelope_id}
            return self.author.say(Kind.TASK_SETTLE, {"seed": ended}, self.now_s)
        about: JsonObject = {"seed_id": seed["id"], "price": 9, "rests_on": envelope_id}
        return self._object(Kind.BID_SUBMITTED, "bid", {**about, "bidder": seed["created_by"]})

    def _usurp_claim(self, claim: dict[str, Any], envelope_id: str) -> Envelope:
        worker = claim["worker"] if self.rng.random() < 0.2 else self.author.id
        about: JsonObject = {"seed_id": claim["seed_id"], "worker": worker, "rests_on": envelope_id}
        if self.rng.random() < 0.1:
            return self._object(Kind.SETTLE_ACKNOWLEDGED, "acknowledgement", about)
        about["claim_id"] = claim["id"]
        if self.rng.random() < 0.3:
            return self._object(Kind.TASK_STARTED, "run", about)
        outcome: JsonObject = {"exit_code": 0, "timed_out": False, "output_hash": "0" * 64, "duration_ms": 1}
        return self._object(Kind.TASK_RESULT, "result", {**about, **outcome, "stdout": "forged", "stderr": ""})

    def _object(self, kind: Kind, key: str, fields: JsonObject) -> Envelope:
        return self.author.state(kind, key, fields, self.now_s)


class Replayer(Adversary):
    """Sends again what it has overheard, later, to others, and in the name of others' addresses."""

    def receive(self, source: str, datagram: bytes) -> None:
        super().receive(source, datagram)
        self.heard.append(datagram)

    def harm(self) -> None:
        for _ in range(3):
            if self.heard:
                spoofed = self.rng.choice(
                    ["", self.rng.choice(self.victims()), f"198.51.100.{self.rng.randrange(99)}:9"]
                )
                self.tell_as_is(self.rng.choice(self.heard), spoofed)

    def tell_as_is(self, datagram: bytes, source: str) -> None:
        """Send a datagram, which may be a fragment."""
        self.budget -= 1
        self.world.send(source or self.address, self.rng.choice(self.victims()), datagram)


class Equivocator(Adversary):
    """Tells some nodes one thing and others another, under the same number, and goes on with either."""

    forks = True

    def harm(self) -> None:
        if self.rng.random() < 0.6:
            return
        victims = self.victims()
        self.rng.shuffle(victims)
        half = self.rng.randint(1, len(victims))
        seq, head = self.author.seq, self.author.head
        said = self._say()
        self.tell(said.raw, victims[:half])
        if self.rng.random() < 0.4:
            after = (self.author.seq, self.author.head)
            self.author.seq, self.author.head = seq, head
            other = self._say()
            self.tell(other.raw, victims[half:] or victims)
            if self.rng.random() < 0.5:
                self.author.seq, self.author.head = after
        elif self.rng.random() < 0.5:
            self.tell(said.raw)

    def _say(self) -> Envelope:
        found = self.overheard(b"SeedCreated")
        if found is not None and self.rng.random() < 0.7:
            seed = found["payload"]["seed"]
            bid: JsonObject = {"seed_id": seed["id"], "bidder": self.author.id, "price": self.rng.randrange(50)}
            bid["rests_on"] = found["meta"]["id"]
            return self.author.state(Kind.BID_SUBMITTED, "bid", bid, self.now_s)
        changes: dict[str, JsonValue] = {"title": f"fork {self.rng.randrange(10**9)}"}
        return self.author.say(Kind.SEED_CREATED, {"seed": self.author.seed(self.now_s, **changes)}, self.now_s)


class Flooder(Adversary):
    """Sends well-signed envelopes, junk, fragment bombs and spoofed sources, faster than anybody needs."""

    def harm(self) -> None:
        for _ in range(2):
            self.tell(self.author.say(Kind.SEED_CREATED, {"seed": self.author.seed(self.now_s)}, self.now_s).raw)
        for _ in range(2):
            digest = self.rng.randbytes(32)
            for junk in (b"{" + digest, b"CRB2\x01" + digest + _BOMB):
                spoofed = f"203.0.113.{self.rng.randrange(256)}:{self.rng.randrange(1, 65_536)}"
                self.world.send(spoofed, self.rng.choice(self.victims()), junk)
                self.budget -= 1


class BidSpammer(Adversary):
    """Bids for all it hears of, again and again, with its own name and with names that nobody has seen before."""

    def harm(self) -> None:
        found = self.overheard(b"SeedCreated")
        if found is None:
            return
        seed = found["payload"]["seed"]
        for number in range(3):
            author = self.author if number else Voice(f"{self.name} {self.budget}")
            bid: JsonObject = {"seed_id": seed["id"], "bidder": author.id, "rests_on": found["meta"]["id"]}
            bid["price"] = seed["min_price"] + self.rng.randrange(20)
            self.tell(author.state(Kind.BID_SUBMITTED, "bid", bid, self.now_s).raw, self.some())


class Cheat(Adversary):
    """A creator and a worker who play together, and say again and again what can be said once only."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._worker = Voice(f"{name} worker")
        self.voices.append(self._worker)
        self._life: Iterator[Envelope] = iter(())

    def harm(self) -> None:
        said = next(self._life, None)
        if said is None:
            self._life = self._next_life()
            said = next(self._life)
        self.tell(said.raw, self.some())

    def _next_life(self) -> Iterator[Envelope]:
        """A whole life of a seed, with everything said twice, and things said after its end."""
        maker, worker = self.author, self._worker
        seed = maker.seed(self.now_s, min_price=0)
        seed_id = str(seed["id"])
        offered = maker.say(Kind.SEED_CREATED, {"seed": seed}, self.now_s)
        yield offered
        bid_id = worker.next_object_id()
        bid = self._bid(worker, seed_id, offered)
        yield bid
        claim_id = maker.next_object_id()
        about: JsonObject = {"seed_id": seed_id, "bid_id": bid_id, "worker": worker.id, "rests_on": bid.meta.id}
        claim = maker.state(Kind.CLAIM_CREATED, "claim", about, self.now_s)
        yield claim
        yield maker.state(Kind.CLAIM_CREATED, "claim", {**about, "attempt": self.rng.choice([1, 2])}, self.now_s)
        work: JsonObject = {"seed_id": seed_id, "claim_id": claim_id, "worker": worker.id, "rests_on": claim.meta.id}
        begun = worker.state(Kind.TASK_STARTED, "run", work, self.now_s)
        yield begun
        yield worker.state(Kind.TASK_STARTED, "run", work, self.now_s)
        outcome: JsonObject = {"exit_code": 0, "timed_out": False, "output_hash": "0" * 64, "duration_ms": 1}
        done: JsonObject = {**work, **outcome, "rests_on": begun.meta.id, "stdout": "", "stderr": ""}
        result_id = worker.next_object_id()
        result = worker.state(Kind.TASK_RESULT, "result", done, self.now_s)
        yield result
        yield worker.state(Kind.TASK_RESULT, "result", {**done, "stdout": "again"}, self.now_s)
        ended: JsonObject = {**seed, "claim_id": claim_id, "result_id": result_id, "attempt": 1}
        for again in range(3):
            if again == 2:
                last = {**about, "attempt": self.rng.choice([1, 2])}
                yield maker.state(Kind.CLAIM_CREATED, "claim", last, self.now_s)
            status = self.rng.choice(["Accepted", "Accepted", "Rejected", "Expired", "Forfeited"])
            rests_on = result if status in {"Accepted", "Rejected"} else claim
            settled: JsonObject = {**ended, "status": status, "rests_on": rests_on.meta.id}
            settlement = maker.say(Kind.TASK_SETTLE, {"seed": settled}, self.now_s)
            yield settlement
            known: JsonObject = {"seed_id": seed_id, "worker": worker.id, "rests_on": settlement.meta.id}
            yield worker.state(Kind.SETTLE_ACKNOWLEDGED, "acknowledgement", known, self.now_s)

    def _bid(self, worker: Voice, seed_id: str, seed: Envelope) -> Envelope:
        bid: JsonObject = {"seed_id": seed_id, "bidder": worker.id, "price": 1, "rests_on": seed.meta.id}
        return worker.state(Kind.BID_SUBMITTED, "bid", bid, self.now_s)


class Withholder(SimNode):
    """A node that takes all, promises all, and gives nothing."""

    withholds = True


KINDS: dict[str, type[Adversary]] = {
    "forger": Forger,
    "replayer": Replayer,
    "equivocator": Equivocator,
    "flooder": Flooder,
    "spammer": BidSpammer,
    "cheat": Cheat,
}
