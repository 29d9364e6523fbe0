"""What all have in common who wish the network ill: an address, keys, and talk as peers do."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from crabnet.core.replica.records import stored_envelope
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.fragment_wire import Shape, classify, is_whole
from crabnet.protocol.fragments import Complete, Reassembler, SentCache
from crabnet.protocol.sync import Hello, NodeIdentity, Talk, payload_of
from crabnet.source import udp_source
from tests.sim.world import Outsider, World
from tests.support.envelopes import NOW_S, Author

_HEARD_MAX = 400
_HEARD_OF_KIND_MAX = 40
_KINDS_HEARD = (b"SeedCreated", b"BidSubmitted", b"ClaimCreated", b"TaskStarted", b"TaskResult", b"TaskSettle")


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

    def twin(self) -> Voice:
        """See ``Author``; what both say is kept together."""
        twin = super().twin()
        if not isinstance(twin, Voice):
            raise TypeError("the twin of a voice is one")
        return twin

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
        self.address = udp_source(f"{name}:9012")
        self.author = Voice(name)
        self.voices = [self.author]
        self.forkers = {self.author.id} if self.forks else set()
        """The authors whose feeds it may fork."""
        self.budget = self._given = budget
        self.heard: deque[bytes] = deque(maxlen=_HEARD_MAX)
        self.heard_of: dict[bytes, deque[bytes]] = {kind: deque(maxlen=_HEARD_OF_KIND_MAX) for kind in _KINDS_HEARD}
        self._reassembler = Reassembler()
        self._sent = SentCache()
        self._hello_at_ms = 0
        self._nonce = 1 << 40
        world.outsiders[self.address] = self

    @property
    def now_s(self) -> int:
        """The true time in seconds."""
        return self.world.now_ms // 1000

    @property
    def spent(self) -> int:
        """What it has done."""
        return self._given - self.budget

    def voice(self, label: str, *, forks: bool | None = None) -> Voice:
        """One more key, whose envelopes it serves; ``forks`` as the adversary does if it does not say."""
        voice = Voice(f"{self.name} {label} {len(self.voices)}")
        self.voices.append(voice)
        if self.forks if forks is None else forks:
            self.forkers.add(voice.id)
        return voice

    def victims(self) -> list[str]:
        """Addresses of all nodes."""
        return list(self.world.nodes)

    def receive(self, source: str, datagram: bytes) -> None:
        """Echo challenges, keep the rest."""
        message: bytes = datagram
        shape = classify(datagram)
        if shape is Shape.REQUEST:
            for answer in self._sent.answer(source, datagram, self.world.now_ms):
                self.world.send(self.address, source, answer)
            return
        if shape is Shape.FRAGMENT:
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
        elif b'"FeedHeads"' in message[:1_000]:
            self.heads_said(message, source)
        else:
            self.heard.append(message)
            for kind, heard in self.heard_of.items():
                if kind in message[:1_000]:
                    heard.append(message)

    def heads_said(self, message: bytes, source: str) -> None:
        """A node has told what it holds, or how far an answer went."""

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
            p2p = self.world.p2p
            whole = is_whole(raw) or (p2p is not None and p2p.takes(source or self.address, target))
            for datagram in [raw] if whole else self._sent.split(raw, self.world.now_ms):
                self.world.send(source or self.address, target, datagram)

    def _talk(self, target: str, *, echo: str = "", source: str = "") -> None:
        hello = Hello(NodeIdentity(self.author.id), "", echo)
        self.world.send(source or self.address, target, self.talk(hello).raw)

    def talk(self, said: Talk) -> Envelope:
        """A message that belongs to no feed."""
        kind, payload = payload_of(said)
        self._nonce += 1
        return seal(
            self.author.signer, kind=kind, namespace="default", ts=self.now_s, nonce=self._nonce, payload=payload
        )

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

    def find(self, kind: Kind, test: Callable[[Envelope], bool] | None = None) -> Envelope | None:
        """One of the envelopes of a kind that were overheard, one that passes the test."""
        found = [stored_envelope(raw) for raw in self.heard_of[kind.value.encode()]]
        fitting = [each for each in found if each.meta.kind == kind and each.meta.seq and (test is None or test(each))]
        return self.rng.choice(fitting) if fitting else None
