"""Facts for tests of the domain, and somebody who hears them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec

from crabnet.domain.decision import decide
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import Record
from crabnet.domain.state import DEFAULT_CAPS, Caps, Decision, Observe, Outcome, State, apply

START_S = 1_000
CREATOR, WORKER, RIVAL, STRANGER = "creator", "worker", "rival", "stranger"
OUTCOMES = {
    FactKind.SETTLE: (SeedStatus.ACCEPTED, SeedStatus.REJECTED),
    FactKind.FORFEIT: (SeedStatus.FORFEITED,),
    FactKind.CLOSE: (SeedStatus.EXPIRED,),
}
KIND_OF_OUTCOME = {outcome: kind for kind, outcomes in OUTCOMES.items() for outcome in outcomes}
UNHELD = "f" * 64
"""The id of an envelope that nobody has."""


def counting(record: Record) -> Record:
    """A record without what has fallen, which follows from what happened and not from what is held."""
    return msgspec.structs.replace(record, fallen=())


def definitions(state: State) -> set[str]:
    """The seeds of a state that stand."""
    return {seed_id for seed_id, record in state.records.items() if record.seed is not None}


class Scribe:
    """Writes facts: counts each author's ``seq`` and derives ids from it, as feeds do.

    A fact rests on the latest one that fits, unless told otherwise. After ``fork`` an author signs places once more.
    """

    def __init__(self, *, signed: bool = True) -> None:
        self.now_s = START_S
        self.facts: list[Fact] = []
        self.chains: dict[str, list[list[Fact]]] = {}
        self._current: dict[str, int] = {}
        self._signed = signed

    def chain(self, author: str) -> list[Fact]:
        """The branch of the author's feed that it goes on with."""
        return self.chains.setdefault(author, [[]])[self._current.get(author, 0)]

    def fork(self, author: str, seq: int) -> None:
        """The next fact of the author takes the place ``seq``, once more."""
        shared = self.chain(author)[: seq - 1]
        self.chains[author].append(shared)
        self._current[author] = len(self.chains[author]) - 1

    def switch(self, author: str, branch: int) -> None:
        """The author goes on with another branch of its feed."""
        self._current[author] = branch

    def next_id(self, author: str) -> str:
        """The id of the author's next object: that of its place, whichever the branch."""
        return f"{author}/{len(self.chain(author)) + 1}"

    def _write(self, kind: FactKind, author: str, body: Body) -> Fact:
        chain = self.chain(author)
        seq = len(chain) + 1
        place = f"{author}/{seq}/{self._current.get(author, 0)}"
        envelope = hashlib.sha256(place.encode()).hexdigest() if self._signed else ""
        fact = Fact(kind=kind, author=author, seq=seq, ts=self.now_s, body=body, signed=self._signed, envelope=envelope)
        chain.append(fact)
        self.facts.append(fact)
        return fact

    def _envelope(self, key: str | None, rests_on: str | None) -> str:
        """What to rest on: as told, else the latest fact with this key."""
        if rests_on is not None:
            return rests_on
        latest = next((fact for fact in reversed(self.facts) if fact.key == key), None)
        return UNHELD if latest is None and self._signed else latest.envelope if latest is not None else ""

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

    def bid(
        self,
        seed_id: str,
        author: str = WORKER,
        *,
        price: int = 5,
        bidder: str | None = None,
        rests_on: str | None = None,
    ) -> Fact:
        """A bid, which rests on the seed."""
        body = Bid(
            id=self.next_id(author),
            seed_id=seed_id,
            bidder=bidder or author,
            price=price,
            created_at=self.now_s,
            rests_on=self._envelope(seed_id, rests_on),
        )
        return self._write(FactKind.BID, author, body)

    def claim(
        self,
        seed_id: str,
        bid_id: str,
        worker: str = WORKER,
        author: str = CREATOR,
        *,
        attempt: int = 1,
        rests_on: str | None = None,
    ) -> Fact:
        """A claim, which rests on the bid."""
        body = Claim(
            id=self.next_id(author),
            seed_id=seed_id,
            bid_id=bid_id,
            worker=worker,
            created_at=self.now_s,
            attempt=attempt,
            rests_on=self._envelope(bid_id, rests_on),
        )
        return self._write(FactKind.CLAIM, author, body)

    def started(
        self,
        seed_id: str,
        claim_id: str,
        author: str = WORKER,
        *,
        renews: str | None = None,
        rests_on: str | None = None,
    ) -> Fact:
        """A run, or the renewal of one; both rest on the claim."""
        body = Run(
            id=self.next_id(author),
            seed_id=seed_id,
            claim_id=claim_id,
            worker=author,
            created_at=self.now_s,
            renews=renews,
            lease_ms=60_000,
            rests_on=self._envelope(claim_id, rests_on),
        )
        return self._write(FactKind.STARTED, author, body)

    def result(
        self,
        seed_id: str,
        claim_id: str,
        author: str = WORKER,
        *,
        failed: str | None = None,
        rests_on: str | None = None,
    ) -> Fact:
        """A result, which rests on the first run that its author's branch has of the claim, else on the claim."""
        runs = [fact for fact in self.chain(author) if isinstance(fact.body, Run) and fact.body.claim_id == claim_id]
        run = next((fact for fact in runs if isinstance(fact.body, Run) and fact.body.renews is None), None)
        body = TaskResult(
            id=self.next_id(author),
            seed_id=seed_id,
            worker=author,
            exit_code=0 if failed is None else 126,
            timed_out=False,
            failed=failed,
            output_hash="",
            duration_ms=1,
            claim_id=claim_id,
            created_at=self.now_s,
            rests_on=self._envelope(claim_id if run is None else run.key, rests_on),
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
        rests_on: str | None = None,
    ) -> Fact:
        """A settlement of any of the three kinds, which rests on the result, the claim, or the seed."""
        body = Settlement(
            id=self.next_id(author),
            seed_id=seed_id,
            outcome=outcome,
            claim_id=claim_id,
            result_id=result_id,
            attempt=attempt,
            created_at=self.now_s,
            rests_on=self._envelope(result_id or claim_id or seed_id, rests_on),
        )
        return self._write(KIND_OF_OUTCOME[outcome], author, body)

    def acknowledges(self, settlement: Fact, author: str = WORKER, *, rests_on: str | None = None) -> Fact:
        """An acknowledgement of a settlement."""
        body = Acknowledgement(
            id=self.next_id(author),
            seed_id=settlement.seed_id,
            worker=author,
            created_at=self.now_s,
            rests_on=settlement.envelope if rests_on is None else rests_on,
        )
        return self._write(FactKind.ACKNOWLEDGED, author, body)


class Witness:
    """Hears facts in causal order and judges each as it comes: what a node does that knows of no fork."""

    def __init__(self, facts: Iterable[Fact] = (), caps: Caps = DEFAULT_CAPS) -> None:
        self.state = State(caps)
        self.heard: dict[str, Fact] = {}
        self.idle: set[str] = set()
        self._open: dict[str, set[str]] = {}
        for fact in facts:
            self.observe(fact)

    def observe(self, fact: Fact) -> Decision:
        """Judge a fact and do what follows."""
        decision = decide(self.state, self.command(fact), now_s=0)
        if decision.idle:
            self.idle.add(fact.ref)
        self.heard[fact.ref] = fact
        opened = self._open.setdefault(fact.author, set())
        if fact.kind is FactKind.SEED and decision.outcome is Outcome.ACCEPTED:
            opened.add(fact.seed_id)
        elif fact.kind in {FactKind.SETTLE, FactKind.CLOSE}:
            opened.discard(fact.seed_id)
        for event in decision.events:
            apply(self.state, event)
        return decision

    def command(self, fact: Fact) -> Observe:
        """The fact with what it rests on, and what its author's feed says up to there."""
        bids = sum(
            each.kind is FactKind.BID and (each.author, each.seed_id) == (fact.author, fact.seed_id)
            for each in self.heard.values()
            if each.ref not in self.idle
        )
        return Observe(fact, self.heard.get(fact.rests_on), len(self._open.get(fact.author, ())), bids)


def ends_of(facts: Iterable[Fact]) -> dict[str, int]:
    """Where feeds end: the lowest place of each author for which there are two envelopes."""
    places: dict[tuple[str, int], str] = {}
    ends: dict[str, int] = {}
    for fact in facts:
        if places.setdefault((fact.author, fact.seq), fact.envelope) != fact.envelope:
            ends[fact.author] = min(fact.seq, ends.get(fact.author, fact.seq))
    return ends


def fronts(facts: Iterable[Fact]) -> Callable[[Fact], bool]:
    """Tells whether a fact lies before the end of its feed."""
    ends = ends_of(facts)
    return lambda fact: fact.author not in ends or fact.seq < ends[fact.author]


def everything(_: Fact) -> bool:
    """For ``refold``: no feed has ended."""
    return True
