"""Histories of facts for tests of the domain: plausible ones with strangers, mistakes and missing parents."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from hypothesis import strategies as st

from crabnet.domain.decision import decide
from crabnet.domain.model import (
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.state import Decision, Observe, State, apply

START_S = 1_000
CREATOR, WORKER, RIVAL, STRANGER = "creator", "worker", "rival", "stranger"
OUTCOMES = {
    FactKind.SETTLE: (SeedStatus.ACCEPTED, SeedStatus.REJECTED),
    FactKind.FORFEIT: (SeedStatus.FORFEITED,),
    FactKind.CLOSE: (SeedStatus.EXPIRED,),
}
KIND_OF_OUTCOME = {outcome: kind for kind, outcomes in OUTCOMES.items() for outcome in outcomes}


class Scribe:
    """Writes facts: counts each author's ``seq`` and derives ids from it, as feeds do."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.facts: list[Fact] = []
        self._seqs: dict[str, int] = {}

    def next_id(self, author: str) -> str:
        """The id of the author's next object."""
        return f"{author}/{self._seqs.get(author, 0) + 1}"

    def _write(self, kind: FactKind, author: str, body: Body) -> Fact:
        seq = self._seqs[author] = self._seqs.get(author, 0) + 1
        fact = Fact(kind=kind, author=author, seq=seq, ts=self.now_s, body=body)
        self.facts.append(fact)
        return fact

    def seed(
        self,
        author: str = CREATOR,
        *,
        created_by: str | None = None,
        min_price: int = 2,
        max_bids: int = 0,
        bid_window_s: int = 100,
        claim_window_s: int | None = 200,
        exec_deadline_ms: int = 10_000,
        timeout_ms: int = 5_000,
    ) -> Fact:
        """A seed definition."""
        body = Seed(
            id=self.next_id(author),
            title="t",
            command="true",
            timeout_ms=timeout_ms,
            bid_deadline_ts=self.now_s + bid_window_s,
            exec_deadline_ms=exec_deadline_ms,
            min_price=min_price,
            max_bids=max_bids,
            created_by=created_by or author,
            created_at=self.now_s,
            claim_deadline_ts=None if claim_window_s is None else self.now_s + claim_window_s,
        )
        return self._write(FactKind.SEED, author, body)

    def bid(self, seed_id: str, author: str = WORKER, *, price: int = 5, bidder: str | None = None) -> Fact:
        """A bid."""
        body = Bid(
            id=self.next_id(author), seed_id=seed_id, bidder=bidder or author, price=price, created_at=self.now_s
        )
        return self._write(FactKind.BID, author, body)

    def claim(
        self, seed_id: str, bid_id: str, worker: str = WORKER, author: str = CREATOR, *, attempt: int = 1
    ) -> Fact:
        """A claim."""
        body = Claim(
            id=self.next_id(author),
            seed_id=seed_id,
            bid_id=bid_id,
            worker=worker,
            created_at=self.now_s,
            attempt=attempt,
        )
        return self._write(FactKind.CLAIM, author, body)

    def started(self, seed_id: str, claim_id: str, author: str = WORKER, *, renews: str | None = None) -> Fact:
        """A run, or the renewal of one."""
        body = Run(
            id=self.next_id(author),
            seed_id=seed_id,
            claim_id=claim_id,
            worker=author,
            created_at=self.now_s,
            renews=renews,
            lease_ms=60_000,
        )
        return self._write(FactKind.STARTED, author, body)

    def result(self, seed_id: str, claim_id: str, author: str = WORKER) -> Fact:
        """A result."""
        body = TaskResult(
            id=self.next_id(author),
            seed_id=seed_id,
            worker=author,
            exit_code=0,
            timed_out=False,
            output_hash="",
            duration_ms=1,
            claim_id=claim_id,
            created_at=self.now_s,
        )
        return self._write(FactKind.RESULT, author, body)

    def settle(
        self,
        seed_id: str,
        outcome: SeedStatus,
        claim_id: str | None = None,
        result_id: str | None = None,
        author: str = CREATOR,
        *,
        attempt: int = 1,
    ) -> Fact:
        """A settlement of any of the three kinds."""
        body = Settlement(
            id=self.next_id(author),
            seed_id=seed_id,
            outcome=outcome,
            claim_id=claim_id,
            result_id=result_id,
            attempt=attempt,
            created_at=self.now_s,
        )
        return self._write(KIND_OF_OUTCOME[outcome], author, body)


def observe(state: State, fact: Fact) -> Decision:
    """Judge a fact and do what follows."""
    decision = decide(state, Observe(fact), now_s=0)
    for event in decision.events:
        apply(state, event)
    return decision


def state_of(facts: Iterable[Fact]) -> State:
    """The state after these facts in this order."""
    state = State()
    for fact in facts:
        observe(state, fact)
    return state


_K = FactKind
_LIKELY: dict[SeedStatus, list[FactKind]] = {
    SeedStatus.OPEN: [_K.BID, _K.BID, _K.CLAIM, _K.CLAIM, _K.CLAIM, _K.CLOSE],
    SeedStatus.CLAIMED: [_K.STARTED, _K.STARTED, _K.STARTED, _K.RESULT, _K.FORFEIT, _K.SETTLE],
    SeedStatus.RUNNING: [_K.RESULT, _K.RESULT, _K.RESULT, _K.RESULT, _K.FORFEIT, _K.STARTED, _K.STARTED, _K.CLOSE],
    SeedStatus.DONE: [_K.SETTLE, _K.SETTLE, _K.SETTLE, _K.SETTLE, _K.FORFEIT, _K.RESULT, _K.CLOSE],
    SeedStatus.FORFEITED: [_K.CLAIM, _K.CLAIM, _K.CLAIM, _K.BID, _K.CLOSE, _K.RESULT],
}
_ANY = [_K.BID, _K.CLAIM, _K.STARTED, _K.RESULT, _K.SETTLE, _K.FORFEIT, _K.CLOSE, _K.SEED]
_RARELY = 0.08


class _Author:
    """Makes up the next fact: mostly what is due in the seed's status, sometimes anything."""

    def __init__(self, scribe: Scribe, random: Random) -> None:
        self.scribe = scribe
        self.random = random
        self.state = State()

    def rarely(self) -> bool:
        return self.random.random() < _RARELY

    def by(self, usual: str) -> str:
        return self.random.choice([CREATOR, WORKER, RIVAL, STRANGER]) if self.rarely() else usual

    def pick(self, usual: str | None, facts: list[Fact], kind: FactKind) -> str:
        if usual is not None and not self.rarely():
            return usual
        return self.random.choice(["missing", *(fact.key for fact in facts if fact.kind is kind)][-3:])

    def seed(self) -> None:
        choice = self.random.choice
        named = choice([CREATOR, STRANGER]) if self.rarely() else None
        self.scribe.seed(created_by=named, max_bids=choice([0, 1, 2]), claim_window_s=choice([None, 60, 200]))
        observe(self.state, self.scribe.facts[-1])

    def write(self, seed_id: str) -> None:
        choice, scribe = self.random.choice, self.scribe
        record = self.state.records.get(seed_id)
        progress = Progress() if record is None else record.progress
        mine = [fact for fact in scribe.facts if fact.seed_id == seed_id]
        kind = choice(_ANY if self.rarely() else _LIKELY.get(progress.status, _ANY))
        if kind in {_K.FORFEIT, _K.CLOSE}:
            scribe.now_s += choice([0, 11, 11])
        attempt = progress.attempt + self.rarely()
        claim_id = self.pick(progress.claim_id, mine, choice([_K.CLAIM, _K.CLAIM, kind]))
        worker = self.by(progress.claimed_by or WORKER)
        if kind is _K.SEED:
            self.seed()
            return
        if kind is _K.BID:
            author = choice([WORKER, RIVAL])
            scribe.bid(seed_id, author, price=choice([1, 2, 5, 5]), bidder=self.by(author))
        elif kind is _K.CLAIM:
            bids = [fact.key for fact in mine if fact.kind is _K.BID]
            bid_id = self.pick(choice(bids) if bids else None, mine, _K.BID)
            bidder = next((fact.author for fact in mine if fact.key == bid_id), WORKER)
            attempt += progress.status is SeedStatus.FORFEITED
            scribe.claim(seed_id, bid_id, self.by(bidder), self.by(CREATOR), attempt=attempt)
        elif kind is _K.STARTED:
            renews = self.pick(progress.run_id, mine, _K.STARTED) if choice([True, False, False]) else None
            scribe.started(seed_id, claim_id, worker, renews=progress.run_id if renews is None else renews)
        elif kind is _K.RESULT:
            scribe.result(seed_id, claim_id, worker)
        else:
            result_id = self.pick(progress.result_id, mine, _K.RESULT) if kind is _K.SETTLE else None
            scribe.settle(seed_id, choice(OUTCOMES[kind]), claim_id, result_id, self.by(CREATOR), attempt=attempt)
        observe(self.state, scribe.facts[-1])


def history(seed: int, facts_max: int, seeds_max: int) -> list[Fact]:
    """Facts in the order in which they were made, mostly right, about ``seeds_max`` seeds and a few more."""
    random = Random(seed)
    author = _Author(Scribe(), random)
    for _ in range(random.randint(1, seeds_max)):
        author.seed()
    seed_ids = [fact.key for fact in author.scribe.facts]
    while len(author.scribe.facts) < facts_max:
        author.scribe.now_s += random.choice([0, 0, 1, 5])
        author.write(random.choice(seed_ids))
    return author.scribe.facts


def histories(*, facts_max: int = 24, seeds_max: int = 2) -> st.SearchStrategy[list[Fact]]:
    """Histories by number, so that they reach the ends of lives; those that fail are made shorter."""
    return st.builds(history, st.integers(0, 2**32 - 1), st.integers(1, facts_max), st.just(seeds_max))


@st.composite
def interleavings(draw: st.DrawFn, facts: list[Fact]) -> list[Fact]:
    """The facts in another order that keeps the order of each author's feed."""
    queues: dict[str, list[Fact]] = {}
    for fact in facts:
        queues.setdefault(fact.author, []).append(fact)
    order = []
    while queues:
        author = draw(st.sampled_from(sorted(queues)))
        order.append(queues[author].pop(0))
        if not queues[author]:
            del queues[author]
    return order
