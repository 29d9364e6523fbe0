"""Histories of authors who continue from older copies of themselves, while others build on every branch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope
from tests.support.teller import Mistake, Pen, Said, Teller

NOBODY_HOLDS = "ab" * 32
FOLLOWS: dict[str, tuple[tuple[str, int], ...]] = {
    "seed": (("bid", 12), ("close", 1)),
    "bid": (("claim", 8), ("bid", 2)),
    "claim": (("start", 8), ("result", 3), ("forfeit", 2), ("close", 1), ("claim", 1)),
    "start": (("renewal", 3), ("result", 8), ("forfeit", 1), ("close", 1)),
    "renewal": (("renewal", 2), ("result", 4), ("forfeit", 1)),
    "result": (("settle", 10), ("result", 1), ("forfeit", 4), ("close", 1)),
    "settle": (("ack", 8), ("bid", 1), ("settle", 1)),
    "ack": (("settle", 1), ("bid", 1)),
}
"""What may be said next of a step, and how often."""


@dataclass
class Odds:
    """Chances per step."""

    fork: float = 0.06
    deep: float = 0.3
    """Of a fork, that it is at any depth and not in the last few entries."""
    mistake: float = 0.06
    stop: float = 0.004
    """That a step names what nobody holds about its seed, so that the copy's feed stops there."""
    filler: float = 0.05
    unforked: frozenset[str] = field(default_factory=frozenset)
    """Names of authors that never fork."""


class Branches(Teller):
    """Makes a history, the same for the same ``rng``. Each author has one copy, and one more for each of its forks."""

    def __init__(self, rng: Random, *, authors: int = 4, odds: Odds | None = None) -> None:
        super().__init__()
        self.rng = rng
        self.odds = odds or Odds()
        self.pens: dict[str, list[Pen]] = defaultdict(list)
        for number in range(authors):
            pen = Pen(f"author{number}")
            self.pens[pen.id].append(pen)

    def tell(self, steps: int) -> list[Envelope]:
        """So many envelopes more; returns all."""
        until = len(self.envelopes) + steps
        while len(self.envelopes) < until:
            if self.rng.random() < self.odds.fork:
                self._fork()
            if self.rng.random() < self.odds.filler:
                self.filler(self._pen(), self.rng.choice([1, 1, 3]))
            else:
                self._step()
        return self.envelopes

    def deepen(self, entries: int) -> None:
        """One copy says so many things that mean nothing here: later forks can be that deep."""
        self.filler(self._pen(), entries)

    def descend(self, forks: int) -> None:
        """One author forks again and again, each time before the last fork; somebody builds on some of the branches."""
        pen = max(self.pens[self._pen().id], key=lambda pen: pen.seq)
        place = pen.seq
        while forks and place >= 1:
            branch = pen.copy_before(place)
            self.pens[pen.id].append(branch)
            if self.rng.random() < 0.5:
                seed = self.seed(branch)
                if self.rng.random() < 0.7:
                    self.bid(self._pen(), seed)
            else:
                self.filler(branch)
            place -= self.rng.choice([1, 1, 2])
            forks -= 1

    def _pen(self, author: str = "") -> Pen:
        """A copy of that author or of any, mostly the latest."""
        pens = self.pens[author or self.rng.choice(sorted(self.pens))]
        return pens[-1] if self.rng.random() < 0.6 else self.rng.choice(pens)

    def _fork(self) -> None:
        pen = self._pen()
        if pen.seq == 0 or pen.name in self.odds.unforked:
            return
        shallow = max(1, pen.seq - 4)
        place = self.rng.randint(1 if self.rng.random() < self.odds.deep else shallow, pen.seq)
        self.pens[pen.id].append(pen.copy_before(place))

    def _step(self) -> None:
        recent = self.said[-16:]
        if not recent or self.rng.random() < 0.08:
            self._seed()
            return
        before = self.rng.choice(recent if self.rng.random() < 0.9 else self.said)
        kinds, weights = zip(*FOLLOWS[before.kind], strict=True)
        kind = self.rng.choices(kinds, weights)[0]
        self.mistake = self._mistake(before) if kind != "seed" else None
        self._follow(before, kind)

    def _seed(self) -> None:
        changes: JsonObject = {"max_bids": self.rng.choice([0, 1, 2]), "min_price": self.rng.choice([0, 1, 4])}
        changes["bid_deadline_ts"] = self.now + self.rng.choice([20, 1_000])
        changes["exec_deadline_ms"] = self.rng.choice([0, 5_000, 60_000])
        if self.rng.random() < 0.3:
            changes["claim_deadline_ts"] = self.now + self.rng.choice([15, 40])
        if self.rng.random() < self.odds.mistake / 4:
            changes["title"] = 7
        self.seed(self._pen(), **changes)

    def _who(self, author: str) -> Pen:
        """A copy of the one whose turn it is; sometimes a stranger."""
        return self._pen("" if self.rng.random() < self.odds.mistake / 3 else author)

    def _follow(self, before: Said, kind: str) -> None:
        """Say a step of this kind that rests on ``before``, or on what ``before`` rests on."""
        creator = before.back_to("seed").author
        if kind == "bid":
            self.bid(self._pen(), before.back_to("seed"), self.rng.choice([0, 3, 5, 5, 5, 5]))
        elif kind == "claim":
            self.claim(self._who(creator), before.back_to("bid"), self._attempt(before))
        elif kind == "close":
            target = before.back_to("claim", "seed")
            self.settle(self._who(creator), target if self.rng.random() < 0.9 else target.back_to("seed"), "Expired")
        elif kind == "forfeit":
            said = before if before.kind == "result" and self.rng.random() < 0.8 else before.back_to("claim")
            self.settle(self._who(creator), said, "Forfeited")
        elif kind == "settle":
            status = self.rng.choice(["Accepted", "Rejected"])
            results = [said for said in self.said if said.kind == "result" and said.about == before.about]
            parent = before if before.kind == "result" else (results or [before.back_to("seed")])[-1]
            self.settle(self._who(creator), parent, status)
        elif kind == "ack":
            claimed = before.back_to("claim", "seed")
            self.acknowledge(self._who(claimed.worker), before)
        else:
            claim = before.back_to("claim")
            worker = self._who(claim.worker)
            starts = [said for said in self.said if said.kind == "start" and said.parent is claim]
            if kind == "start" or (kind == "renewal" and not starts):
                self.start(worker, claim)
            elif kind == "renewal":
                self.renew(worker, self.rng.choice(starts))
            elif before.kind == "result" or not starts:
                on = claim if self.rng.random() < 0.5 or not starts else self.rng.choice(starts)
                self.result(worker, on, self._failed())
            else:
                self.result(worker, before if before.kind in {"claim", "start"} else starts[-1], self._failed())

    def _failed(self) -> str | None:
        """Whose failure a result tells of, if of any."""
        return self.rng.choice([None, None, None, "task", "worker", "worker", "weather"])

    def _attempt(self, before: Said) -> int:
        over = [said for said in self.said if said.kind == "settle" and said.about == before.about]
        ended = [said for said in over if said.parent and said.parent.kind in {"claim", "result"}]
        forfeits = {said.back_to("claim").attempt for said in ended}
        return self.rng.choice([1 + max(forfeits, default=0)] * 6 + [1, 2])

    def _mistake(self, before: Said) -> Mistake | None:
        if self.rng.random() < self.odds.stop:
            strangers = [said.envelope.meta.id for said in self.said if said.about != before.about]
            nobody = self.rng.choice([NOBODY_HOLDS, *strangers[-1:]])
            return lambda stated: stated.update(rests_on=nobody)
        if self.rng.random() >= self.odds.mistake:
            return None
        wrong = self.rng.choice([said for said in self.said if said.about == before.about])
        other_id = self.rng.choice(self.said).id
        changes: list[JsonObject] = [
            {"rests_on": wrong.envelope.meta.id},
            {"rests_on": wrong.envelope.meta.id},
            {"rests_on": 7},
            {"rests_on": None},
            {"seed_id": 1, "status": "Open"},
            {"bid_id": other_id, "claim_id": other_id},
            {"attempt": 3},
            {"attempt": 0, "worker": 0},
            {"result_id": other_id},
        ]
        change = self.rng.choice(changes)

        def apply(stated: JsonObject) -> None:
            stated.update({name: value for name, value in change.items() if name in stated})

        return apply


def history(number: int, steps: int = 60) -> list[Envelope]:
    """One of many histories; some are long, some deep, some with descending forks, some with one honest author."""
    rng = Random(number)
    odds = Odds(fork=rng.choice([0.02, 0.08, 0.2]), mistake=rng.choice([0.0, 0.05, 0.15]))
    odds.stop = rng.choice([0.0, 0.0, 0.01])
    if rng.random() < 0.3:
        odds.unforked = frozenset({"author0"})
    story = Branches(rng, authors=rng.choice([2, 3, 4]), odds=odds)
    first = rng.randint(0, steps)
    story.tell(first)
    if rng.random() < 0.1:
        story.deepen(rng.choice([20, 300]))
    story.tell(steps - first)
    if rng.random() < 0.2:
        story.descend(rng.randint(2, 12))
        story.tell(5)
    return story.envelopes


def deep_history(number: int, depth: int = 3_000) -> list[Envelope]:
    """A history in which one author forks before thousands of its entries, after others have built on both branches."""
    rng = Random(number)
    story = Branches(rng, authors=3, odds=Odds(fork=0.1, deep=0.0, mistake=0.02))
    story.tell(20)
    story.deepen(depth)
    story.tell(20)
    story.odds.deep = 1.0
    story.tell(40)
    return story.envelopes
