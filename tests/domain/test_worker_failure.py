"""A result says whose failure it is, and a worker's failure forfeits the attempt by the worker's own word (ADR 31)."""

from __future__ import annotations

import pytest

from crabnet.domain.decision import decide
from crabnet.domain.fold import refold
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.state import Decision, Outcome, Propose
from crabnet.errors import Reason
from tests.support.facts import CREATOR, RIVAL, STRANGER, WORKER, Scribe, Witness, fronts

S = SeedStatus
K = FactKind


class Attempt:
    """A seed with two bids, the first one claimed and run, and what its result says."""

    def __init__(self, failed: str | None, *, started: bool = True) -> None:
        self.scribe = Scribe()
        self.witness = Witness()
        self.seed = self.tell(self.scribe.seed())
        self.bid = self.tell(self.scribe.bid(self.seed.key))
        self.other = self.tell(self.scribe.bid(self.seed.key, RIVAL, price=9))
        self.claim = self.tell(self.scribe.claim(self.seed.key, self.bid.key))
        if started:
            self.tell(self.scribe.started(self.seed.key, self.claim.key))
        self.result = self.tell(self.scribe.result(self.seed.key, self.claim.key, failed=failed))

    @property
    def record(self) -> Record:
        return self.witness.state.records[self.seed.key]

    def tell(self, fact: Fact) -> Fact:
        decision = self.witness.observe(fact)
        assert decision.outcome is Outcome.ACCEPTED, decision
        return fact

    def forfeit(self, on: Fact, author: str = CREATOR) -> Fact:
        return self.scribe.settle(self.seed.key, S.FORFEITED, self.claim.key, None, author, rests_on=on.envelope)

    def settlement(self, outcome: SeedStatus) -> Fact:
        return self.scribe.settle(self.seed.key, outcome, self.claim.key, self.result.key)

    def proposed(self, fact: Fact) -> Decision:
        return decide(self.witness.state, Propose(fact), self.scribe.now_s)


@pytest.mark.parametrize("started", [True, False])
def test_the_creator_forfeits_at_once_and_claims_the_next_bid(started: bool) -> None:
    attempt = Attempt("worker", started=started)
    assert (attempt.record.progress.status, attempt.record.worker_failed) == (S.DONE, True)
    forfeit = attempt.forfeit(attempt.result)
    assert attempt.proposed(forfeit).outcome is Outcome.ACCEPTED
    attempt.tell(forfeit)
    assert attempt.record.progress.status is S.FORFEITED
    assert is_biddable(attempt.record, attempt.scribe.now_s)
    assert attempt.record.began(attempt.claim.key) is started
    attempt.tell(attempt.scribe.claim(attempt.seed.key, attempt.other.key, RIVAL, attempt=2))
    assert (attempt.record.progress.claimed_by, attempt.record.progress.attempt) == (RIVAL, 2)


@pytest.mark.parametrize("outcome", [S.ACCEPTED, S.REJECTED])
def test_a_workers_failure_is_never_settled(outcome: SeedStatus) -> None:
    attempt = Attempt("worker")
    settlement = attempt.settlement(outcome)
    decision = attempt.proposed(settlement)
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.WRONG_STATE)
    assert "worker" in decision.detail
    decision = attempt.witness.observe(settlement)
    assert (decision.outcome, decision.reason, decision.idle) == (Outcome.REJECTED, Reason.WRONG_PARENT, True)
    assert attempt.record.progress.status is S.DONE


@pytest.mark.parametrize("failed", [None, "task", "weather", "Worker"])
def test_any_other_result_is_settled_and_not_forfeited(failed: str | None) -> None:
    attempt = Attempt(failed)
    forfeit = attempt.forfeit(attempt.result)
    assert attempt.proposed(forfeit).reason is Reason.WRONG_STATE
    assert attempt.witness.observe(forfeit).reason is Reason.WRONG_PARENT
    attempt.tell(attempt.settlement(S.REJECTED))
    assert attempt.record.progress.status is S.REJECTED


def test_a_forfeit_that_rests_on_the_claim_still_waits_for_the_deadline() -> None:
    attempt = Attempt("worker")
    assert attempt.witness.observe(attempt.forfeit(attempt.claim)).reason is Reason.NOT_DUE


def test_only_the_creator_forfeits() -> None:
    attempt = Attempt("worker")
    for author in (WORKER, STRANGER):
        assert attempt.witness.observe(attempt.forfeit(attempt.result, author)).reason is Reason.UNAUTHORISED
    assert attempt.record.progress.status is S.DONE


def test_a_result_of_an_earlier_attempt_forfeits_nothing() -> None:
    attempt = Attempt("worker")
    attempt.tell(attempt.forfeit(attempt.result))
    attempt.tell(attempt.scribe.claim(attempt.seed.key, attempt.other.key, RIVAL, attempt=2))
    again = attempt.scribe.settle(
        attempt.seed.key, S.FORFEITED, attempt.claim.key, None, attempt=1, rests_on=attempt.result.envelope
    )
    assert attempt.witness.observe(again).reason is Reason.WRONG_STATE
    assert attempt.record.progress.status is S.CLAIMED


@pytest.mark.parametrize("kind", [K.FORFEIT, K.CLOSE])
def test_an_operator_may_forfeit_or_withdraw(kind: FactKind) -> None:
    attempt = Attempt("worker")
    withdrawal = attempt.scribe.settle(attempt.seed.key, S.EXPIRED, attempt.claim.key)
    fact = attempt.forfeit(attempt.result) if kind is K.FORFEIT else withdrawal
    assert attempt.proposed(fact).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("place", ["start", "result"])
def test_a_worker_that_forks_its_feed_later_takes_the_forfeit_and_the_next_attempt_not_back(place: str) -> None:
    attempt = Attempt("worker")
    attempt.tell(attempt.forfeit(attempt.result))
    claim = attempt.tell(attempt.scribe.claim(attempt.seed.key, attempt.other.key, RIVAL, attempt=2))
    seq = attempt.result.seq - (place == "start")
    attempt.scribe.fork(WORKER, seq)
    attempt.scribe.result(attempt.seed.key, attempt.claim.key)
    facts = attempt.scribe.facts
    for order in (facts, facts[::-1]):
        record = refold(order, fronts(facts))
        assert (record.progress.status, record.progress.claim_id) == (S.CLAIMED, claim.key)


def test_a_bid_of_a_worker_that_began_is_known_after_the_forfeit() -> None:
    attempt = Attempt("worker")
    attempt.tell(attempt.forfeit(attempt.result))
    assert attempt.record.result is None
    assert attempt.record.began(attempt.claim.key)
