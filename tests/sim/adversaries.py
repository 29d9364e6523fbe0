"""Those who wish the network ill, and need no fork for it. None of them stops by itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from tests.hostile.case import rehash, resign
from tests.sim.adversary import Adversary, Voice
from tests.sim.node import SimNode
from tests.sim.world import World
from tests.support.envelopes import body_of, signer

_BOMB = struct.pack(">HHI", 0, 227, 227 * 1_155) + b"{" * 1_155
"""The first of many fragments, of which no other ever comes."""


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
        found = self.overheard(b"SeedCreated", b"BidSubmitted", b"ClaimCreated", b"ClaimCreated")
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
                    ["", self.rng.choice(self.victims()), f"udp:198.51.100.{self.rng.randrange(99)}:9"]
                )
                self.tell_as_is(self.rng.choice(self.heard), spoofed)

    def tell_as_is(self, datagram: bytes, source: str) -> None:
        """Send a datagram, which may be a fragment."""
        self.budget -= 1
        self.world.send(source or self.address, self.rng.choice(self.victims()), datagram)


class Flooder(Adversary):
    """Sends well-signed envelopes, junk, fragment bombs and spoofed sources, faster than anybody needs."""

    def harm(self) -> None:
        for _ in range(2):
            self.tell(self.author.say(Kind.SEED_CREATED, {"seed": self.author.seed(self.now_s)}, self.now_s).raw)
        for _ in range(2):
            digest = self.rng.randbytes(32)
            for junk in (b"{" + digest, b"CRB2\x01" + digest + _BOMB):
                spoofed = f"udp:203.0.113.{self.rng.randrange(256)}:{self.rng.randrange(1, 65_536)}"
                self.world.send(spoofed, self.rng.choice(self.victims()), junk)
                self.budget -= 1


class BidSpammer(Adversary):
    """Bids for all it hears of, again and again, with its own name and with names that nobody has seen before."""

    def harm(self) -> None:
        seed = self.find(Kind.SEED_CREATED)
        if seed is None:
            return
        for number in range(3):
            author = self.author if number else Voice(f"{self.name} {self.budget}")
            min_price = body_of(seed).get("min_price", 0)
            price = self.rng.randrange(20) + (min_price if isinstance(min_price, int) else 0)
            self.tell(author.bid(seed, self.now_s, price=price).raw, self.some())


class Cheat(Adversary):
    """A creator and a worker who play together, and say again and again what can be said once only."""

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._worker = self.voice("worker")
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
        seed = maker.publish(self.now_s, min_price=0)
        yield seed
        bid = worker.bid(seed, self.now_s)
        yield bid
        claim = maker.claim(bid, self.now_s)
        yield claim
        yield maker.claim(bid, self.now_s, attempt=self.rng.choice([1, 2]))
        begun = worker.start(claim, self.now_s)
        yield begun
        yield worker.start(claim, self.now_s)
        result = worker.finish(begun, self.now_s)
        yield result
        yield worker.finish(begun, self.now_s, stdout="again")
        for again in range(3):
            if again == 2:
                yield maker.claim(bid, self.now_s, attempt=self.rng.choice([1, 2]))
            status = self.rng.choice(["Accepted", "Accepted", "Rejected", "Expired", "Forfeited"])
            settlement = maker.settle(result if status in {"Accepted", "Rejected"} else claim, status, self.now_s)
            yield settlement
            yield worker.acknowledge(settlement, self.now_s)


class Withholder(SimNode):
    """A node that takes all, promises all, and gives nothing."""

    withholds = True
