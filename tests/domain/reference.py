"""The lifecycle once more, written from docs/PROTOCOL.md section 10 as one plain walk, to compare with the tables."""

from __future__ import annotations

from typing import NamedTuple

from crabnet.domain.model import Bid, Claim, Fact, FactKind, Run, Seed, Settlement, TaskResult

Verdicts = dict[str, tuple[str, str | None]]
COUNTS = ("effective", None)


class Standing(NamedTuple):
    """Where a seed stands."""

    status: str = "Open"
    attempt: int = 1
    claim_id: str | None = None
    claimed_by: str | None = None
    run_id: str | None = None
    result_id: str | None = None


def bid_verdict(seed: Seed, fact: Fact) -> tuple[str, str | None]:
    """What becomes of a bid."""
    bid = fact.body
    if not isinstance(bid, Bid) or bid.bidder != fact.author:
        return ("void", "unauthorised")
    if bid.price < seed.min_price:
        return ("void", "price_too_low")
    return ("void", "deadline_passed") if bid.created_at > seed.bid_deadline_ts else COUNTS


class _Walk:
    def __init__(self, seed: Seed, facts: list[Fact]) -> None:
        self.seed = seed
        self.facts = facts
        self.verdicts: Verdicts = {}
        self.status, self.attempt = "Open", 1
        self.claim: Fact | None = None
        self.run_id: str | None = None
        self.renewals = 0
        self.result_id: str | None = None
        self.forfeited_at = 0
        self.held_up = False

    def claim_id(self) -> str | None:
        return None if self.claim is None else self.claim.key

    def step(self, fact: Fact) -> tuple[str, str | None]:
        if fact.author != self.seed.created_by:
            return ("void", "unauthorised")
        if self.held_up:
            return ("waiting", "unknown_parent")
        if isinstance(fact.body, Claim):
            return self.new_claim(fact, fact.body)
        if not isinstance(fact.body, Settlement):
            raise TypeError(fact.kind)
        if fact.kind is FactKind.CLOSE:
            return self.close(fact.body)
        if fact.kind is FactKind.FORFEIT:
            return self.forfeit(fact.body)
        return self.settle(fact.body)

    def new_claim(self, fact: Fact, claim: Claim) -> tuple[str, str | None]:
        if self.status not in ("Open", "Forfeited"):
            return ("void", "wrong_state")
        bid = next((other for other in self.facts if other.kind is FactKind.BID and other.key == claim.bid_id), None)
        if bid is None:
            self.held_up = True
            return ("waiting", "unknown_bid")
        deadline = self.seed.claim_deadline_ts
        deadline = self.seed.bid_deadline_ts + 3600 if deadline is None else deadline
        if self.status == "Forfeited":
            deadline = max(deadline, self.forfeited_at + max(0, deadline - self.seed.bid_deadline_ts))
        if claim.created_at > deadline:
            return ("void", "deadline_passed")
        if claim.attempt != (self.attempt + 1 if self.status == "Forfeited" else self.attempt):
            return ("void", "wrong_state")
        if bid_verdict(self.seed, bid) != COUNTS or bid.author != claim.worker:
            return ("void", "unknown_bid")
        self.status, self.attempt, self.claim = "Claimed", claim.attempt, fact
        self.run_id = self.result_id = None
        self.renewals = 0
        for work in sorted((other for other in self.facts if self.about(other, fact)), key=lambda other: other.seq):
            self.verdicts[work.key] = self.work(work, claim)
        return COUNTS

    @staticmethod
    def about(work: Fact, claim: Fact) -> bool:
        return isinstance(work.body, Run | TaskResult) and work.body.claim_id == claim.key

    def work(self, fact: Fact, claim: Claim) -> tuple[str, str | None]:
        if fact.author != claim.worker:
            return ("void", "unauthorised")
        if isinstance(fact.body, Run):
            if fact.body.renews is not None:
                return self.renew(fact.body)
            if self.status != "Claimed":
                return ("void", "wrong_state")
            self.status, self.run_id = "Running", fact.key
            return COUNTS
        if self.status not in ("Claimed", "Running"):
            return ("void", "wrong_state")
        self.status, self.result_id = "Done", fact.key
        return COUNTS

    def renew(self, run: Run) -> tuple[str, str | None]:
        if self.status != "Running" or run.renews != self.run_id:
            return ("void", "wrong_state")
        if self.renewals >= 32:
            return ("void", "limit_exceeded")
        self.renewals += 1
        return COUNTS

    def settle(self, body: Settlement) -> tuple[str, str | None]:
        if self.status in ("Claimed", "Running") and body.claim_id == self.claim_id():
            self.held_up = True
            return ("waiting", "unknown_result")
        if self.status != "Done" or body.attempt != self.attempt or body.claim_id != self.claim_id():
            return ("void", "wrong_state")
        if body.result_id != self.result_id:
            return ("void", "unknown_result")
        self.status = body.outcome.value
        return COUNTS

    def forfeit(self, body: Settlement) -> tuple[str, str | None]:
        if self.status not in ("Claimed", "Running", "Done") or self.claim is None:
            return ("void", "wrong_state")
        if body.attempt != self.attempt or body.claim_id != self.claim_id():
            return ("void", "wrong_state")
        allowed_ms = max(self.seed.exec_deadline_ms, self.seed.timeout_ms)
        if body.created_at * 1000 < (self.claim.body.created_at or 0) * 1000 + allowed_ms:
            return ("void", "not_due")
        if self.result_id is not None:
            self.verdicts[self.result_id] = ("void", "wrong_state")
        self.status, self.result_id, self.forfeited_at = "Forfeited", None, body.created_at
        return COUNTS

    def close(self, body: Settlement) -> tuple[str, str | None]:
        if self.status not in ("Open", "Claimed", "Running", "Done", "Forfeited"):
            return ("void", "wrong_state")
        if self.status in ("Claimed", "Running", "Done"):
            if body.attempt != self.attempt or body.claim_id != self.claim_id():
                return ("void", "wrong_state")
            if self.result_id is not None:
                self.verdicts[self.result_id] = ("void", "wrong_state")
        self.attempt += self.status != "Open"
        self.status, self.claim, self.run_id, self.result_id = "Expired", None, None, None
        return COUNTS


def standing(facts: list[Fact]) -> tuple[Standing, Verdicts]:
    """Where the seed stands that these facts are about, and what became of each but the definition."""
    seed = next((fact.body for fact in facts if isinstance(fact.body, Seed)), None)
    others = [fact for fact in facts if fact.kind is not FactKind.SEED]
    if seed is None:
        return Standing(), {fact.key: ("waiting", "unknown_seed") for fact in others}
    walk = _Walk(seed, others)
    for fact in others:
        if fact.kind is FactKind.BID:
            walk.verdicts[fact.key] = bid_verdict(seed, fact)
    steps = [fact for fact in others if isinstance(fact.body, Claim | Settlement)]
    for fact in sorted(steps, key=lambda step: step.seq):
        walk.verdicts[fact.key] = walk.step(fact)
    void = {fact.key for fact in steps if isinstance(fact.body, Claim) and walk.verdicts[fact.key][0] == "void"}
    for fact in others:
        if fact.key not in walk.verdicts and isinstance(fact.body, Run | TaskResult):
            walk.verdicts[fact.key] = ("void" if fact.body.claim_id in void else "waiting", "unknown_claim")
    claimed_by = walk.claim.body.worker if walk.claim is not None and isinstance(walk.claim.body, Claim) else None
    found = Standing(walk.status, walk.attempt, walk.claim_id(), claimed_by, walk.run_id, walk.result_id)
    return found, walk.verdicts
