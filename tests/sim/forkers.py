"""Adversaries who sign two envelopes for one place of a feed: of seeds, bids, claims, runs, results and settlements, at
any depth, told to different nodes, and with accomplices who rest on both.
"""

from __future__ import annotations

from collections.abc import Callable

from crabnet.protocol.envelope import Envelope, Kind
from tests.sim.adversary import Adversary, Voice
from tests.sim.world import World
from tests.support.envelopes import body_of, claim_id_of, seed_id_of

_GAME_MS = 40_000
"""Until a new game begins, whatever became of the last."""


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
        seed = self.find(Kind.SEED_CREATED)
        if seed is not None and self.rng.random() < 0.7:
            return self.author.bid(seed, self.now_s, price=self.rng.randrange(50))
        return self.author.publish(self.now_s, title=f"fork {self.rng.randrange(10**9)}")


class Descender(Adversary):
    """Publishes and bids for a while, then forks its feed ever further back, at several places at once."""

    forks = True

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._feed: list[Envelope] = []
        self._place = 0
        self._length = 0

    def harm(self) -> None:
        if self._place:
            self._fork()
            return
        if not self._length:
            self.author = self.voice("descender")
            self._feed, self._length = [], self.rng.choice([3, 10, 20, 80, 199])
        for _ in range(4):
            self._feed.append(self._say(self.author))
            self.tell(self._feed[-1].raw, self.some() if self.rng.random() < 0.1 else None)
        if len(self._feed) >= self._length:
            self._place = len(self._feed)

    def _say(self, voice: Voice) -> Envelope:
        seed = self.find(Kind.SEED_CREATED)
        if seed is not None and self.rng.random() < 0.5:
            return voice.bid(seed, self.now_s, price=50)
        return voice.publish(self.now_s)

    def _fork(self) -> None:
        victims = self.victims()
        self.rng.shuffle(victims)
        places = list(range(self._place, max(0, self._place - self.rng.randint(1, 3)), -1))
        for at, place in enumerate(places):
            other = self.author.twin()
            other.nonce += 1_000 * place
            other.rewind(self._feed[place - 1])
            self.tell(other.publish(self.now_s, title=f"fork at {place}").raw, victims[at :: len(places)])
        self._place = places[-1] - self.rng.choice([1, 1, 1, 1, 10])
        if self._place <= 0 or self.rng.random() < 0.02:
            self._place = self._length = 0


class _Branch:
    """One way on from a fork: who says it, to whom, and the last of it that others must answer."""

    def __init__(self, voice: Voice, targets: list[str], last: Envelope) -> None:
        self.voice = voice
        self.targets = targets
        self.last = last
        self.said = [last]


class _Game(Adversary):
    """Plays one job with one key, forks it at a chosen step, then begins with a new key."""

    forks = True

    def __init__(self, world: World, name: str, *, budget: int) -> None:
        super().__init__(world, name, budget=budget)
        self._branches: list[_Branch] = []
        self._begun_ms = 0
        self._accomplice = self.voice("accomplice", forks=False)
        self._bystander = self.voice("bystander", forks=False)
        self._later: list[tuple[int, _Branch]] = []

    def harm(self) -> None:
        for due_ms, away in list(self._later):
            if due_ms <= self.world.now_ms:
                self._later.remove((due_ms, away))
                self._branches.append(away)
                self.tell(away.last.raw, away.targets)
        if not self._branches or self.world.now_ms > self._begun_ms + _GAME_MS:
            self._branches = self._begin()
            self._begun_ms = self.world.now_ms
            return
        branch = self.rng.choice(self._branches)
        if not self._go_on(branch) and self.rng.random() < 0.05:
            self.tell(self.rng.choice(branch.said).raw, self.some())

    def _begin(self) -> list[_Branch]:
        raise NotImplementedError

    def _go_on(self, branch: _Branch) -> bool:
        """The next step of a branch; False if it has to wait."""
        raise NotImplementedError

    def _parted(self) -> tuple[list[str], list[str]]:
        """All nodes in two parts, or all of them twice."""
        victims = self.victims()
        self.rng.shuffle(victims)
        half = self.rng.randint(1, len(victims))
        return (victims[:half], victims[half:] or victims) if self.rng.random() < 0.8 else (victims, victims)

    def _step(self, branch: _Branch, say: Callable[[Voice], Envelope], other: Callable[[Voice], Envelope]) -> None:
        """Take a step, and with some chance another one for the same place, which another branch follows."""
        if self.rng.random() < 0.5 and len(self._branches) + len(self._later) < 4:
            twin = branch.voice.twin()
            first, second = self._parted()
            away = _Branch(twin, second, other(twin))
            away.said = [*branch.said, away.last]
            self._later.append((self.world.now_ms + self.rng.choice([0, 0, 2_000, 8_000]), away))
            branch.targets = first
        branch.last = say(branch.voice)
        branch.said.append(branch.last)
        self.tell(branch.last.raw, branch.targets)


class ForkingCreator(_Game):
    """Offers a task, and says of it different things to different nodes: the seed, the claim, the settlement.

    Honest workers bid on it and work; an accomplice does as well, whichever branch it hears of.
    """

    def _begin(self) -> list[_Branch]:
        maker = self.voice("creator")
        for _ in range(self.rng.randrange(3)):
            self.tell(maker.publish(self.now_s).raw)
        twin = maker.twin()
        seed = maker.publish(self.now_s, title="one", min_price=0)
        branches = [_Branch(maker, self.victims(), seed)]
        if self.rng.random() < 0.3:
            branches = [_Branch(maker, first := self._parted()[0], seed)]
            other = twin.publish(self.now_s, title="other", min_price=0)
            branches.append(_Branch(twin, [each for each in self.victims() if each not in first] or first, other))
        for branch in branches:
            self.tell(branch.last.raw, branch.targets)
            if self.rng.random() < 0.5:
                self.tell(self._accomplice.bid(branch.last, self.now_s).raw)
        return branches

    def _go_on(self, branch: _Branch) -> bool:
        last = branch.last
        match last.meta.kind:
            case Kind.SEED_CREATED:
                return self._claim(branch, last)
            case Kind.CLAIM_CREATED:
                worked = body_of(last)["worker"] == self._accomplice.id and self._work(last)
                return worked or self._settle(branch)
            case Kind.TASK_RESULT:
                return self._settle(branch)
        return False

    def _claim(self, branch: _Branch, seed: Envelope) -> bool:
        bid = self.find(Kind.BID_SUBMITTED, lambda bid: _rests_on(bid) == seed.meta.id)
        if bid is None:
            if self.rng.random() < 0.1:
                self._hear(self._accomplice.bid(seed, self.now_s))
            return False
        rival = self._accomplice.bid(seed, self.now_s, price=self.rng.randrange(1, 9))
        self._hear(rival)
        ways: list[Callable[[Voice], Envelope]] = [
            lambda voice: voice.claim(rival, self.now_s),
            lambda voice: voice.settle(seed, "Expired", self.now_s),
            lambda voice: voice.publish(self.now_s, title="instead of a claim"),
        ]
        self._step(branch, lambda voice: voice.claim(bid, self.now_s), self.rng.choice(ways))
        return True

    def _work(self, claim: Envelope) -> bool:
        """The accomplice begins and ends the work on a claim at once."""
        if self.find(Kind.TASK_RESULT, lambda result: claim_id_of(result) == body_of(claim)["id"]) is not None:
            return False
        begun = self._accomplice.start(claim, self.now_s)
        self._hear(begun)
        if self.rng.random() < 0.8:
            self._hear(self._accomplice.finish(begun, self.now_s))
        return True

    def _settle(self, branch: _Branch) -> bool:
        claim = branch.last
        result = self.find(Kind.TASK_RESULT, lambda result: claim_id_of(result) == body_of(claim)["id"])
        if result is None:
            return False
        ways: list[Callable[[Voice], Envelope]] = [
            lambda voice: voice.settle(result, "Rejected", self.now_s),
            lambda voice: voice.settle(claim, "Expired", self.now_s),
            lambda voice: voice.publish(self.now_s, title="instead of a settlement"),
        ]
        self._step(branch, lambda voice: voice.settle(result, "Accepted", self.now_s), self.rng.choice(ways))
        if self.rng.random() < 0.4:
            self.tell(self._bystander.acknowledge(branch.last, self.now_s).raw)
        elif result.meta.from_ == self._accomplice.id:
            for each in self._branches:
                if each.last.meta.kind == Kind.TASK_SETTLE and _rests_on(each.last) == result.meta.id:
                    self.tell(self._accomplice.acknowledge(each.last, self.now_s).raw)
        return True

    def _hear(self, said: Envelope) -> None:
        """The accomplice says something to all, also to its friend."""
        self.tell(said.raw)
        self.heard_of[said.meta.kind.encode()].append(said.raw)


class ForkingWorker(_Game):
    """Bids on honest seeds, and if it is chosen says different things to different nodes: bid, start, result."""

    def _begin(self) -> list[_Branch]:
        seed = self.find(Kind.SEED_CREATED)
        if seed is None:
            return []
        worker = self.voice("worker")
        for _ in range(self.rng.randrange(3)):
            self.tell(worker.publish(self.now_s).raw)
        price = 20 + self.rng.randrange(10)
        branch = _Branch(worker, self.victims(), worker.bid(seed, self.now_s, price=price))
        self.tell(branch.last.raw)
        if self.rng.random() < 0.3:
            twin = worker.twin()
            twin.rewind(branch.last)
            self.tell(twin.publish(self.now_s, title="instead of a bid").raw, self.some())
        return [branch]

    def _go_on(self, branch: _Branch) -> bool:
        match branch.last.meta.kind:
            case Kind.BID_SUBMITTED:
                return self._start(branch)
            case Kind.TASK_STARTED:
                return self._finish(branch)
        if self.rng.random() < 0.1:
            self._begun_ms = 0
        return False

    def _start(self, branch: _Branch) -> bool:
        seed_id = seed_id_of(branch.last)
        claim = self.find(
            Kind.CLAIM_CREATED,
            lambda claim: body_of(claim)["worker"] == branch.voice.id and seed_id_of(claim) == seed_id,
        )
        if claim is None:
            return False
        ways: list[Callable[[Voice], Envelope]] = [
            lambda voice: voice.finish(claim, self.now_s, stdout="at once"),
            lambda voice: voice.start(claim, self.now_s),
            lambda voice: voice.publish(self.now_s, title="instead of a start"),
        ]
        self._step(branch, lambda voice: voice.start(claim, self.now_s), self.rng.choice(ways))
        return True

    def _finish(self, branch: _Branch) -> bool:
        begun = branch.last
        self._step(
            branch,
            lambda voice: voice.finish(begun, self.now_s, stdout="one"),
            lambda voice: voice.finish(begun, self.now_s, stdout="other"),
        )
        return True


def _rests_on(envelope: Envelope) -> str:
    return str(body_of(envelope).get("rests_on", ""))
