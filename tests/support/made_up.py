"""Histories of facts, made up at random: plausible ones with strangers, mistakes and forks."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from hypothesis import strategies as st

from crabnet.domain.model import Fact, FactKind, Progress, SeedStatus, TaskResult
from tests.support.facts import CREATOR, OUTCOMES, RIVAL, STRANGER, WORKER, Scribe, Witness

_K = FactKind
_LIKELY: dict[SeedStatus, list[FactKind]] = {
    SeedStatus.OPEN: [*[_K.BID] * 4, *[_K.CLAIM] * 7, _K.CLOSE],
    SeedStatus.CLAIMED: [_K.STARTED, _K.STARTED, _K.STARTED, _K.RESULT, _K.FORFEIT, _K.SETTLE],
    SeedStatus.RUNNING: [*[_K.RESULT] * 6, _K.FORFEIT, _K.STARTED, _K.STARTED, _K.CLOSE],
    SeedStatus.DONE: [*[_K.SETTLE] * 6, _K.FORFEIT, _K.RESULT, _K.CLOSE],
    SeedStatus.FORFEITED: [_K.CLAIM, _K.CLAIM, _K.CLAIM, _K.BID, _K.CLOSE, _K.RESULT],
    SeedStatus.ACCEPTED: [_K.ACKNOWLEDGED, _K.ACKNOWLEDGED, _K.SETTLE, _K.BID, _K.CLAIM],
    SeedStatus.REJECTED: [_K.ACKNOWLEDGED, _K.ACKNOWLEDGED, _K.SETTLE, _K.BID, _K.CLAIM],
}
_ANY = [_K.BID, _K.CLAIM, _K.STARTED, _K.RESULT, _K.SETTLE, _K.FORFEIT, _K.CLOSE, _K.SEED, _K.ACKNOWLEDGED]
_RARELY = 0.08


class _Author:
    """Makes up the next fact: mostly what is due in the seed's status, sometimes anything.

    With ``forks``, authors sign second branches, and others follow one or the other.
    """

    def __init__(self, random: Random, forks: float = 0.0) -> None:
        self.scribe = Scribe()
        self.random = random
        self.forks = forks
        self.view = Witness()

    def rarely(self) -> bool:
        return self.random.random() < _RARELY

    def by(self, usual: str) -> str:
        return self.random.choice([CREATOR, WORKER, RIVAL, STRANGER]) if self.rarely() else usual

    def pick(self, usual: str | None, facts: list[Fact], kind: FactKind) -> str | None:
        """An object to name: the usual one, or one of the latest of its kind."""
        if usual is not None and not self.rarely():
            return usual
        known = [fact.key for fact in facts if fact.kind is kind][-3:]
        return self.random.choice(known) if known else None

    def seed(self) -> None:
        choice = self.random.choice
        named = choice([CREATOR, STRANGER]) if self.rarely() else None
        self.scribe.seed(created_by=named, max_bids=choice([0, 1, 2]), claim_window_s=choice([None, 60, 200]))
        self.view.observe(self.scribe.facts[-1])

    def branch(self) -> None:
        """Somebody begins a branch, or all go on with another one that somebody has."""
        scribe, random = self.scribe, self.random
        author = random.choice([name for name, chains in scribe.chains.items() if chains[0]])
        branches, length = len(scribe.chains[author]), len(scribe.chain(author))
        if branches > 1 and (length == 0 or random.random() < 0.6):
            scribe.switch(author, random.randrange(branches))
        else:
            scribe.fork(author, random.randint(max(1, length - 3), length))
        seen = {fact.envelope for name in scribe.chains for fact in scribe.chain(name)}
        self.view = Witness()
        for fact in scribe.facts:
            if fact.envelope in seen and (not fact.rests_on or fact.rests_on in self.view.heard):
                self.view.observe(fact)

    def write(self, seed_id: str) -> None:
        if self.random.random() < self.forks:
            self.branch()
        written = self._made_up(seed_id)
        if written is not None:
            self.view.observe(written)

    def _made_up(self, seed_id: str) -> Fact | None:
        choice, scribe = self.random.choice, self.scribe
        record = self.view.state.records.get(seed_id)
        progress = Progress() if record is None else record.progress
        mine = [fact for fact in self.view.heard.values() if fact.seed_id == seed_id]
        if not mine:
            self.seed()
            return None
        kind = choice(_ANY if self.rarely() else _LIKELY.get(progress.status, _ANY))
        bids = [fact.key for fact in mine if fact.kind is _K.BID]
        if kind is _K.CLAIM and not bids:
            kind = _K.BID
        if kind is _K.SEED or (progress.status is SeedStatus.EXPIRED and choice([True, False])):
            self.seed()
            return None
        if kind in {_K.FORFEIT, _K.CLOSE}:
            scribe.now_s += choice([0, 11, 11])
        wrong = choice(mine).envelope if self.rarely() else None
        if kind is _K.BID:
            author = choice([WORKER, RIVAL])
            return scribe.bid(seed_id, author, price=choice([1, 2, 5, 5]), bidder=self.by(author), rests_on=wrong)
        attempt = progress.attempt + self.rarely()
        if kind is _K.CLAIM:
            bid_id = self.pick(choice(bids), mine, _K.BID)
            bidder = next((fact.author for fact in mine if fact.key == bid_id), WORKER)
            attempt += progress.status is SeedStatus.FORFEITED
            by = self.by(CREATOR)
            on = self._on(mine, bid_id, wrong)
            return scribe.claim(seed_id, bid_id or "none", self.by(bidder), by, attempt=attempt, rests_on=on)
        claim_id = self.pick(progress.claim_id, mine, _K.CLAIM)
        worker = self.by(progress.claimed_by or WORKER)
        if kind is _K.STARTED:
            renews = self.pick(progress.run_id, mine, _K.STARTED) if choice([True, False, False]) else progress.run_id
            on = self._on(mine, claim_id, wrong)
            return scribe.started(seed_id, claim_id or "none", worker, renews=renews, rests_on=on)
        if kind is _K.RESULT:
            on = self._on(mine, progress.run_id or claim_id, wrong)
            failed = choice([None, None, "task", "worker", "worker", "weather"])
            return scribe.result(seed_id, claim_id or "none", worker, failed=failed, rests_on=on)
        if kind is _K.ACKNOWLEDGED:
            settlements = [fact for fact in mine if fact.kind is _K.SETTLE]
            if not settlements:
                return None
            return scribe.acknowledges(choice(settlements[-2:]), worker, rests_on=wrong)
        result_id = self.pick(progress.result_id, mine, _K.RESULT) if kind is _K.SETTLE else None
        if kind is _K.CLOSE and not self.rarely():
            claim_id = progress.claim_id if progress.status is not SeedStatus.FORFEITED else None
        failed = self._failed(mine, progress.result_id) if kind is _K.FORFEIT else None
        on = self._on(mine, failed or result_id or claim_id or seed_id, wrong)
        outcome, by = choice(OUTCOMES[kind]), self.by(CREATOR)
        return scribe.settle(seed_id, outcome, claim_id, result_id, by, attempt=attempt, rests_on=on)

    def _failed(self, mine: list[Fact], result_id: str | None) -> str | None:
        """The result on which a forfeit may rest, mostly."""
        body = next((fact.body for fact in mine if fact.key == result_id), None)
        said = isinstance(body, TaskResult) and body.worker_failed
        return result_id if said is not self.rarely() else None

    def _on(self, mine: list[Fact], key: str | None, wrong: str | None) -> str:
        """The latest fact in view with this key; a wrong one if that is wanted, or if there is none."""
        if wrong is not None:
            return wrong
        latest = next((fact for fact in reversed(mine) if fact.key == key), mine[0])
        return latest.envelope


def told(seed: int, facts_max: int, seeds_max: int, forks: float = 0.0) -> Scribe:
    """Who has written facts, mostly right ones, about ``seeds_max`` seeds and a few more.

    Each comes after what it rests on, and what its author said before.
    """
    random = Random(seed)
    author = _Author(random, forks)
    for _ in range(random.randint(1, seeds_max)):
        author.seed()
    seed_ids = [fact.key for fact in author.scribe.facts]
    while len(author.scribe.facts) < facts_max:
        author.scribe.now_s += random.choice([0, 0, 1, 5]) + 100 * (random.random() < 0.02)
        author.write(random.choice(seed_ids))
    return author.scribe


def history(seed: int, facts_max: int, seeds_max: int, forks: float = 0.0) -> list[Fact]:
    """The facts of ``told`` in the order in which they were made."""
    return told(seed, facts_max, seeds_max, forks).facts


def histories(*, facts_max: int = 24, seeds_max: int = 2, forks: float = 0.0) -> st.SearchStrategy[list[Fact]]:
    """Histories by number, so that they reach the ends of lives; those that fail are made shorter."""
    number = st.integers(0, 2**32 - 1)
    return st.builds(history, number, st.integers(1, facts_max), st.just(seeds_max), st.just(forks))


def interleaved(facts: list[Fact], random: Random, heard: Iterable[str] = ()) -> list[Fact]:
    """The facts in another order in which each comes after what it rests on, and after its author's earlier ones.

    ``heard`` are envelopes that have come before.
    """
    queues: dict[str, list[Fact]] = {}
    for fact in facts:
        queues.setdefault(fact.author, []).append(fact)
    come = {"", *heard}
    order: list[Fact] = []
    while queues:
        ready = [author for author, queue in queues.items() if queue[0].rests_on in come]
        author = random.choice(ready)
        fact = queues[author].pop(0)
        order.append(fact)
        come.add(fact.envelope)
        if not queues[author]:
            del queues[author]
    return order
