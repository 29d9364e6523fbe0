"""The lifecycle once more, written from ADR 26 and docs/PROTOCOL.md section 10 as one plain walk, to compare with.

It looks at all facts at once and knows nothing of the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Claim,
    Fact,
    FactKind,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import Record, claimed_bids

_K = FactKind
_PARENTS = {
    _K.BID: {_K.SEED},
    _K.CLAIM: {_K.BID},
    _K.STARTED: {_K.CLAIM},
    _K.RESULT: {_K.STARTED, _K.CLAIM},
    _K.SETTLE: {_K.RESULT},
    _K.FORFEIT: {_K.CLAIM, _K.RESULT},
    _K.CLOSE: {_K.CLAIM, _K.SEED},
    _K.ACKNOWLEDGED: {_K.SETTLE},
}
_STEPS = {_K.CLAIM, _K.SETTLE, _K.FORFEIT, _K.CLOSE}


class Standing(NamedTuple):
    """Where a seed stands. ``counting`` are the envelopes of all that counts but bids that nobody claimed.

    Of a disputed seed nothing else is compared.
    """

    status: str = "Open"
    attempt: int = 1
    claim_id: str | None = None
    claimed_by: str | None = None
    run_id: str | None = None
    result_id: str | None = None
    counting: frozenset[str] = frozenset()
    bids: frozenset[str] = frozenset()


DISPUTED = Standing("Disputed", 0)


def _keeps_the_rules(seed: Seed, bid: Bid, author: str) -> bool:
    return bid.bidder == author and bid.price >= seed.min_price and bid.created_at <= seed.bid_deadline_ts


class _Held:
    """All that is held about a seed, and what of it stands."""

    def __init__(self, facts: list[Fact], is_front: Callable[[Fact], bool]) -> None:
        self.by_id = {fact.envelope: fact for fact in facts}
        self.is_front = is_front
        fitting = [fact for fact in self.by_id.values() if all(self.fits(each) for each in self.chain(fact))]
        self.standing = {fact.envelope for fact in fitting if is_front(fact)}
        grew = True
        while grew:
            pinned = {fact.rests_on for fact in fitting if fact.envelope in self.standing and self.pins(fact)} & {
                fact.envelope for fact in fitting
            }
            grew = not pinned <= self.standing
            self.standing |= pinned

    def stands(self, *kinds: FactKind) -> list[Fact]:
        facts = [fact for fact in self.by_id.values() if fact.envelope in self.standing and fact.kind in kinds]
        return sorted(facts, key=lambda fact: (fact.seq, fact.envelope))

    def fits(self, fact: Fact) -> bool:
        """Whether a fact names an envelope of the right kind, whose fields are what it says."""
        if isinstance(fact.body, Seed):
            return fact.body.created_by == fact.author
        parent = self.by_id[fact.rests_on]
        if parent.kind not in _PARENTS[fact.kind]:
            return False
        if isinstance(fact.body, Bid) and isinstance(parent.body, Seed):
            return _keeps_the_rules(parent.body, fact.body, fact.author)
        if isinstance(fact.body, Claim):
            return (fact.body.bid_id, fact.body.worker) == (parent.key, parent.author)
        if isinstance(fact.body, Run | TaskResult):
            claim = parent if isinstance(parent.body, Claim) else self.by_id[parent.rests_on]
            named = parent.body.claim_id if isinstance(parent.body, Run) else claim.key
            return fact.body.claim_id == named and self.worker_of(parent) == fact.author
        if isinstance(parent.body, TaskResult):
            return (parent.body.failed == "worker") is (fact.kind is _K.FORFEIT)
        return True

    def chain(self, fact: Fact) -> list[Fact]:
        """A fact, and all that it rests on, down to a definition."""
        chain = [fact]
        while chain[-1].rests_on:
            chain.append(self.by_id[chain[-1].rests_on])
        return chain

    @staticmethod
    def worker_of(parent: Fact) -> str:
        return parent.body.worker if isinstance(parent.body, Claim) else parent.author

    def pins(self, fact: Fact) -> bool:
        """Whether a fact is one that holds fast what it rests on."""
        if not fact.rests_on:
            return False
        chain = self.chain(fact)
        creator, parent = chain[-1].author, chain[1]
        if fact.kind is _K.BID:
            return fact.author != creator
        if fact.kind in {_K.CLAIM, _K.SETTLE} or (fact.kind is _K.FORFEIT and parent.kind is _K.RESULT):
            return fact.author == creator
        if fact.kind in {_K.STARTED, _K.RESULT}:
            return fact.author == self.worker_of(parent)
        if isinstance(fact.body, Acknowledgement):
            claim = next(each.body for each in chain if isinstance(each.body, Claim))
            return fact.author == claim.worker
        return False


class _DisputedError(Exception):
    """No rule chooses between what stands."""


class _Walk:
    def __init__(self, held: _Held, definition: Fact, seed: Seed) -> None:
        self.held = held
        self.definition = definition
        self.seed = seed
        self.bids = {fact.envelope: fact for fact in held.stands(_K.BID) if fact.rests_on == definition.envelope}
        self.status, self.attempt = "Open", 1
        self.claim: Fact | None = None
        self.start: Fact | None = None
        self.result: Fact | None = None
        self.renewals = 0
        self.forfeited_at = 0
        self.steps: list[Fact] = []
        self.work: list[Fact] = []

    def run(self) -> None:
        mine = [fact for fact in self.held.stands(*_STEPS) if fact.author == self.definition.author]
        for fact in mine:
            if self.held.is_front(fact):
                self.step(fact)
        behind = [fact for fact in mine if not self.held.is_front(fact)]
        if self.status not in {"Expired", "Accepted", "Rejected"}:
            self.followed(behind)
        for fact in self.held.stands(_K.ACKNOWLEDGED):
            if self.steps and fact.rests_on == self.steps[-1].envelope and fact.author == self.worker():
                self.steps.append(fact)

    def followed(self, behind: list[Fact]) -> None:
        """What the creator said behind the end of its feed, and others built on."""
        claims = [fact for fact in behind if isinstance(fact.body, Claim)]
        settlements = [fact for fact in behind if fact.kind is _K.SETTLE]
        attempts = [fact.body.attempt for fact in claims if isinstance(fact.body, Claim)]
        places = [fact.seq for fact in behind]
        if len(set(places)) < len(places) or len(set(attempts)) < len(attempts) or len(settlements) > 1:
            raise _DisputedError
        for attempt, fact in sorted(zip(attempts, claims, strict=True), key=lambda pair: pair[0]):
            free = attempt == self.attempt and self.status == "Open"
            if (free or attempt > self.attempt) and fact.rests_on in self.bids:
                self.take(fact)
        for fact in settlements:
            claim = self.held.by_id[fact.rests_on]
            while not isinstance(claim.body, Claim):
                claim = self.held.by_id[claim.rests_on]
            if self.claim is None or claim.key != self.claim.key:
                raise _DisputedError
            self.settle(fact)

    def worker(self) -> str | None:
        return self.claim.body.worker if self.claim is not None and isinstance(self.claim.body, Claim) else None

    def names_attempt(self, body: Settlement) -> bool:
        return self.claim is not None and (body.claim_id, body.attempt) == (self.claim.key, self.attempt)

    def step(self, fact: Fact) -> None:
        body = fact.body
        if isinstance(body, Claim):
            if self.may_claim(body) and fact.rests_on in self.bids:
                self.take(fact)
        elif fact.kind is _K.SETTLE:
            self.settle(fact)
        elif isinstance(body, Settlement) and fact.kind is _K.FORFEIT:
            self.forfeit(fact, body)
        elif isinstance(body, Settlement):
            self.close(fact, body)

    def may_claim(self, claim: Claim) -> bool:
        deadline = self.seed.claim_deadline_ts
        deadline = self.seed.bid_deadline_ts + 3600 if deadline is None else deadline
        if self.status == "Forfeited":
            window = max(0, deadline - self.seed.bid_deadline_ts)
            return claim.created_at <= max(deadline, self.forfeited_at + window) and claim.attempt == self.attempt + 1
        return self.status == "Open" and claim.created_at <= deadline and claim.attempt == self.attempt

    def take(self, fact: Fact) -> None:
        """A claim counts, and the work on it that lies before the end of the worker's feed."""
        if isinstance(fact.body, Claim):
            self.status, self.attempt, self.claim = "Claimed", fact.body.attempt, fact
        self.start = self.result = None
        self.renewals = 0
        self.work = []
        self.steps.append(fact)
        for work in self.held.stands(_K.STARTED, _K.RESULT):
            if self.held.is_front(work):
                self.works(work)

    def works(self, fact: Fact) -> bool:
        if self.claim is None or fact.author != self.worker():
            return False
        if isinstance(fact.body, Run):
            if fact.rests_on != self.claim.envelope:
                return False
            if self.status == "Claimed" and fact.body.renews is None:
                self.status, self.start = "Running", fact
            elif self.status == "Running" and self.start is not None and fact.body.renews == self.start.key:
                if self.renewals == 32:
                    return False
                self.renewals += 1
            else:
                return False
        else:
            if fact.rests_on != (self.start or self.claim).envelope or self.status not in {"Claimed", "Running"}:
                return False
            self.status, self.result = "Done", fact
        self.work.append(fact)
        return True

    def settle(self, fact: Fact) -> None:
        if not isinstance(fact.body, Settlement) or not self.names_attempt(fact.body):
            return
        result = self.held.by_id[fact.rests_on]
        if fact.body.result_id == result.key and self.comes_to(result):
            self.status = fact.body.outcome.value
            self.steps.append(fact)

    def comes_to(self, result: Fact) -> bool:
        """Whether a result is the one that counts, or does so now: its creator named it, behind its worker's end."""
        behind = result.envelope in self.held.standing and not self.held.is_front(result)
        if behind and self.status in {"Claimed", "Running"}:
            before = (self.status, self.start, self.result, list(self.work))
            run = self.held.by_id[result.rests_on]
            if run.kind is _K.STARTED and self.start is None:
                self.works(run)
            if not self.works(result):
                self.status, self.start, self.result, self.work = before
        return self.status == "Done" and self.result is result

    def forfeit(self, fact: Fact, body: Settlement) -> None:
        if self.status not in {"Claimed", "Running", "Done"} or self.claim is None or not self.names_attempt(body):
            return
        allowed_ms = max(self.seed.exec_deadline_ms, self.seed.timeout_ms)
        due = body.created_at * 1000 >= (self.claim.body.created_at or 0) * 1000 + allowed_ms
        named = self.held.by_id[fact.rests_on]
        if (due and named is self.claim) or (named.kind is _K.RESULT and self.comes_to(named)):
            self.status, self.start, self.result, self.work = "Forfeited", None, None, []
            self.forfeited_at = body.created_at
            self.steps.append(fact)

    def close(self, fact: Fact, body: Settlement) -> None:
        if self.status in {"Expired", "Accepted", "Rejected"}:
            return
        withdraws = self.status in {"Claimed", "Running", "Done"}
        named = self.claim if withdraws else self.definition
        if (withdraws and not self.names_attempt(body)) or named is None or fact.rests_on != named.envelope:
            return
        self.attempt += self.status != "Open"
        self.status, self.claim, self.start, self.result, self.work = "Expired", None, None, None, []
        self.steps.append(fact)


def standing(facts: list[Fact], is_front: Callable[[Fact], bool]) -> Standing | None:
    """Where the seed stands that these facts are about; None if no definition stands. All facts must be signed."""
    held = _Held(facts, is_front)
    seeds = held.stands(_K.SEED)
    if len(seeds) > 1:
        return DISPUTED
    if not seeds or not isinstance(seeds[0].body, Seed):
        return None
    walk = _Walk(held, seeds[0], seeds[0].body)
    try:
        walk.run()
    except _DisputedError:
        return DISPUTED
    claimed = {fact.rests_on for fact in walk.steps if fact.kind is _K.CLAIM}
    counting = {fact.envelope for fact in (seeds[0], *walk.steps, *walk.work)} | claimed
    return Standing(
        walk.status,
        walk.attempt,
        None if walk.claim is None else walk.claim.key,
        walk.worker(),
        None if walk.start is None else walk.start.key,
        None if walk.result is None else walk.result.key,
        frozenset(counting),
        frozenset(walk.bids),
    )


def about(facts: list[Fact]) -> dict[str, list[Fact]]:
    """The facts by seed."""
    by_seed: dict[str, list[Fact]] = {}
    for fact in facts:
        by_seed.setdefault(fact.seed_id, []).append(fact)
    return by_seed


def seen(record: Record) -> Standing | None:
    """A record in the words of the reference."""
    progress = record.progress
    if record.seed is None:
        return None
    if progress.status is SeedStatus.DISPUTED:
        return DISPUTED
    counting = (record.seed, *claimed_bids(record), *record.others)
    return Standing(
        progress.status.value,
        progress.attempt,
        progress.claim_id,
        progress.claimed_by,
        progress.run_id,
        progress.result_id,
        frozenset(fact.envelope for fact in counting),
        frozenset(fact.envelope for fact in record.bids),
    )
