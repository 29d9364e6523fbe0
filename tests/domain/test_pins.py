"""What of a forked feed stands: the table of pins of ADR 26, and what no rule chooses between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crabnet.domain.fold import refold
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import leaf
from tests.support.facts import CREATOR, RIVAL, STRANGER, WORKER, Scribe

S = SeedStatus
K = FactKind


class Job:
    """A seed and the whole job on it; feeds end where a test says."""

    def __init__(self, *, started: bool = True) -> None:
        self.scribe = Scribe()
        self.seed = self.scribe.seed()
        self.bid = self.scribe.bid(self.seed.key)
        self.claim = self.scribe.claim(self.seed.key, self.bid.key)
        self.start = self.scribe.started(self.seed.key, self.claim.key) if started else None
        self.result = self.scribe.result(self.seed.key, self.claim.key)
        self.settlement = self.scribe.settle(self.seed.key, S.ACCEPTED, self.claim.key, self.result.key)
        self.acknowledgement = self.scribe.acknowledges(self.settlement)

    def upto(self, last: Fact | None) -> list[Fact]:
        """What was said up to a fact."""
        facts = self.scribe.facts
        return facts if last is None else facts[: facts.index(last) + 1]


def ending(*at: Fact) -> Callable[[Fact], bool]:
    """The authors of these facts forked their feeds in these places."""
    ends = {fact.author: fact.seq for fact in at}
    return lambda fact: fact.seq < ends.get(fact.author, fact.seq + 1)


def outcome(facts: list[Fact], *at: Fact) -> str:
    """The status when feeds end there; "none" if no definition stands."""
    record = refold(facts, ending(*at))
    assert refold(reversed(facts), ending(*at)) == record
    return "none" if record.seed is None else record.progress.status.value


PINS = {
    "seed": ("seed", "seed", "bid", "none", "Open"),
    "claim": ("claim", "claim", "start", "Open", "Running"),
    "settlement": ("settlement", "settlement", "acknowledgement", "Done", "Accepted"),
    "bid": ("bid", "bid", "claim", "Open", "Claimed"),
    "start, result": ("start", "result", "settlement", "Claimed", "Accepted"),
    "result": ("result", "result", "settlement", "Running", "Accepted"),
}
"""What is forked -> the place where its author's feed ends, the last fact without a pin, the fact that pins, and the
status without and with it.
"""


@pytest.mark.parametrize("name", PINS)
def test_what_both_sides_signed_stands(name: str) -> None:
    job = Job()
    end, last, pin, without, pinned = PINS[name]
    forked = getattr(job, end)
    assert outcome(job.upto(getattr(job, last)), forked) == without
    assert outcome(job.upto(getattr(job, pin)), forked) == pinned


def test_a_claim_is_pinned_by_a_result_as_well() -> None:
    job = Job(started=False)
    assert outcome(job.upto(job.claim), job.claim) == "Open"
    assert outcome(job.upto(job.result), job.claim) == "Done"
    assert outcome(job.upto(job.settlement), job.bid) == "Accepted"


@pytest.mark.parametrize("forked", ["seed", "claim", "bid", "start", "result", "settlement", "acknowledgement"])
def test_a_whole_job_stands_wherever_one_of_its_feeds_ends(forked: str) -> None:
    job = Job()
    assert outcome(job.upto(None), getattr(job, forked)) == "Accepted"


def test_an_acknowledgement_is_taken_back_and_matters_only_if_the_creator_forks_as_well() -> None:
    job = Job()
    record = refold(job.upto(None), ending(job.acknowledgement))
    assert record.progress.status is S.ACCEPTED
    assert job.acknowledgement not in record.others
    assert job.acknowledgement in refold(job.upto(None), ending()).others
    assert outcome(job.upto(None), job.acknowledgement, job.settlement) == "Done"


@pytest.mark.parametrize("kind", [K.FORFEIT, K.CLOSE])
def test_what_only_one_side_said_is_taken_back(kind: FactKind) -> None:
    job = Job()
    facts = job.upto(job.result)
    job.scribe.now_s += 60
    said = S.FORFEITED if kind is K.FORFEIT else S.EXPIRED
    job.scribe.switch(CREATOR, 0)
    job.scribe.fork(CREATOR, job.settlement.seq)
    end = job.scribe.settle(job.seed.key, said, job.claim.key)
    assert outcome([*facts, end]) == said.value
    assert outcome([*facts, end], end) == "Done"


def test_a_run_that_was_taken_back_can_be_forfeited() -> None:
    job = Job()
    facts = job.upto(job.start)
    job.scribe.fork(CREATOR, job.settlement.seq)
    job.scribe.now_s += 60
    forfeit = job.scribe.settle(job.seed.key, S.FORFEITED, job.claim.key)
    assert job.start is not None
    assert outcome([*facts, forfeit], job.start) == "Forfeited"


def test_an_own_bid_pins_no_seed() -> None:
    """What lies behind an end need not be chained, so that an author can name it before the end."""
    scribe = Scribe()
    seed = scribe.seed()
    facts = [seed, scribe.bid(seed.key, CREATOR)]
    assert refold(facts, lambda fact: fact is not seed) == EMPTY
    assert outcome([*facts, scribe.bid(seed.key, STRANGER)], seed) == "Open"


def test_a_claim_is_pinned_through_a_whole_chain_behind() -> None:
    job = Job()
    record = refold(job.upto(job.settlement), lambda fact: fact in {job.seed, job.bid, job.settlement})
    assert (record.progress.status, record.others) == (S.CLAIMED, (job.claim,))
    without = [fact for fact in job.upto(job.settlement) if fact is not job.settlement]
    assert refold(without, lambda fact: fact in {job.seed, job.bid}).progress.status is S.OPEN


def test_a_settlement_that_does_not_count_makes_no_result_count() -> None:
    """It pins the result, which is then held to be said, and nothing more."""
    job = Job(started=False)
    job.scribe.fork(CREATOR, job.settlement.seq)
    void = job.scribe.settle(job.seed.key, S.ACCEPTED, job.claim.key, job.result.key, attempt=2)
    record = refold([*job.upto(job.result), void], ending(job.result))
    assert (record.progress.status, record.others) == (S.CLAIMED, (job.claim,))


@pytest.mark.parametrize("price", [1, 2])
def test_only_a_bid_that_keeps_the_rules_pins(price: int) -> None:
    scribe = Scribe()
    seed = scribe.seed(min_price=2)
    assert outcome([seed, scribe.bid(seed.key, price=price)], seed) == ("none" if price < 2 else "Open")


PINNED_BY_OTHERS = {
    "bid": lambda job: job.scribe.claim(job.seed.key, job.bid.key, author=STRANGER),
    "claim": lambda job: job.scribe.started(job.seed.key, job.claim.key, STRANGER),
    "result": lambda job: job.scribe.settle(job.seed.key, S.ACCEPTED, job.claim.key, job.result.key, STRANGER),
    "settlement": lambda job: job.scribe.acknowledges(job.settlement, STRANGER),
}


@pytest.mark.parametrize("name", PINNED_BY_OTHERS)
def test_strangers_pin_nothing(name: str) -> None:
    job = Job()
    forked = getattr(job, name)
    facts = job.upto(forked)
    assert outcome([*facts, PINNED_BY_OTHERS[name](job)], forked) == outcome(facts, forked)
    assert forked not in refold([*facts, PINNED_BY_OTHERS[name](job)], ending(forked)).facts()


def test_what_does_not_fit_pins_nothing() -> None:
    """The worker starts a claim under the name of another one."""
    job = Job()
    start = job.scribe.started(job.seed.key, "other", rests_on=job.claim.envelope)
    assert outcome([*job.upto(job.claim), start], job.claim) == "Open"


def test_what_rests_on_what_breaks_a_rule_does_not_stand() -> None:
    scribe = Scribe()
    seed = scribe.seed()
    cheap = scribe.bid(seed.key, price=1)
    claim = scribe.claim(seed.key, cheap.key)
    start = scribe.started(seed.key, claim.key)
    second = scribe.claim(seed.key, cheap.key, attempt=1)
    facts = [seed, cheap, claim, start, second, scribe.started(seed.key, second.key)]
    record = refold(facts, ending(claim))
    assert (record.progress.status, record.bids, record.others) == (S.OPEN, (), ())


def test_a_chain_stands_as_far_as_it_is_pinned() -> None:
    """Both fork at the very beginning; the last word of all is the worker's, and that is taken back."""
    job = Job()
    assert outcome(job.upto(None), job.seed, job.bid) == "none"
    friend = job.scribe.bid(job.seed.key, RIVAL)
    record = refold([*job.upto(None), friend], ending(job.seed, job.bid))
    assert (record.progress.status, record.bids, record.others) == (S.OPEN, (friend,), ())


def test_the_settlement_says_which_result_behind_the_end_counts() -> None:
    job = Job()
    job.scribe.fork(WORKER, job.result.seq)
    other = job.scribe.result(job.seed.key, job.claim.key)
    facts = [*job.upto(job.result), other]
    assert outcome(facts, job.result) == "Running"
    job.scribe.fork(CREATOR, job.settlement.seq)
    settlement = job.scribe.settle(job.seed.key, S.REJECTED, job.claim.key, other.key, rests_on=other.envelope)
    record = refold([*facts, settlement], ending(job.result))
    assert record.progress.status is S.REJECTED
    assert other in record.others
    assert job.result not in record.others


def test_a_result_before_the_end_goes_before_a_settled_one_behind_it() -> None:
    job = Job(started=False)
    second = job.scribe.result(job.seed.key, job.claim.key)
    job.scribe.fork(CREATOR, job.settlement.seq)
    settlement = job.scribe.settle(job.seed.key, S.ACCEPTED, job.claim.key, second.key)
    facts = [*job.upto(job.result), second, settlement]
    record = refold(facts, ending(second))
    assert (record.progress.status, record.progress.result_id) == (S.DONE, job.result.key)
    assert settlement not in record.others


def test_renewals_behind_the_end_do_not_count() -> None:
    job = Job()
    assert job.start is not None
    job.scribe.fork(WORKER, job.result.seq)
    renewal = job.scribe.started(job.seed.key, job.claim.key, renews=job.start.key)
    assert refold([*job.upto(job.start), renewal], ending()).progress.renewals == 1
    assert refold([*job.upto(job.start), renewal], ending(job.result)).progress.renewals == 0


# --- claims behind the end of their creator's feed -------------------------------------------------------


class Reclaimed:
    """A first claim, which is forfeited, and a second one of another bid, which is begun."""

    def __init__(self, attempt: int = 2) -> None:
        self.scribe = scribe = Scribe()
        self.seed = scribe.seed()
        self.bids = [scribe.bid(self.seed.key), scribe.bid(self.seed.key, RIVAL)]
        self.claim = scribe.claim(self.seed.key, self.bids[0].key)
        self.start = scribe.started(self.seed.key, self.claim.key)
        scribe.now_s += 60
        self.forfeit = scribe.settle(self.seed.key, S.FORFEITED, self.claim.key)
        self.second = scribe.claim(self.seed.key, self.bids[1].key, RIVAL, attempt=attempt)
        self.second_start = scribe.started(self.seed.key, self.second.key, RIVAL)

    def fold(self, *at: Fact, extra: tuple[Fact, ...] = ()) -> Record:
        return refold([*self.scribe.facts, *extra], ending(*at))


def test_a_later_attempt_behind_the_end_counts_though_the_forfeit_is_taken_back() -> None:
    job = Reclaimed()
    record = job.fold(job.forfeit)
    assert (record.progress.status, record.progress.attempt) == (S.RUNNING, 2)
    assert (record.progress.claim_id, record.progress.claimed_by) == (job.second.key, RIVAL)
    assert record.others == (job.claim, job.second, job.second_start)


def test_the_work_on_a_claim_that_a_later_one_replaced_does_not_count() -> None:
    """It comes in no order with the claim that replaced it: nothing of it names the other."""
    job = Reclaimed()
    assert job.start not in job.fold(job.forfeit).others


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_a_claim_behind_the_end_counts_if_its_attempt_is_higher_than_the_current_one(attempt: int) -> None:
    job = Reclaimed(attempt)
    record = job.fold(job.second)
    assert record.progress.status is (S.FORFEITED if attempt == 1 else S.RUNNING)
    assert record.progress.attempt == attempt


def test_the_current_attempt_behind_the_end_counts_if_the_seed_is_open() -> None:
    job = Reclaimed(attempt=1)
    facts = [fact for fact in job.scribe.facts if fact not in {job.claim, job.start, job.forfeit}]
    record = refold(facts, ending(job.claim))
    assert (record.progress.status, record.progress.claim_id) == (S.RUNNING, job.second.key)


def test_after_a_final_step_before_the_end_nothing_behind_it_counts() -> None:
    job = Reclaimed()
    job.scribe.fork(CREATOR, job.forfeit.seq)
    close = job.scribe.settle(job.seed.key, S.EXPIRED, job.claim.key)
    facts = [fact for fact in job.scribe.facts if fact is not job.forfeit]
    record = refold(facts, ending(job.second))
    assert (record.progress.status, record.others) == (S.EXPIRED, (job.claim, close))
    again = job.scribe.claim(job.seed.key, job.bids[1].key, RIVAL, attempt=2)
    both = [*facts, again, job.scribe.started(job.seed.key, again.key, RIVAL)]
    assert refold(both, ending(job.second)) == record


# --- what no rule chooses between ------------------------------------------------------------------------


def two_seeds() -> tuple[list[Fact], Fact]:
    scribe = Scribe()
    first = scribe.seed()
    scribe.bid(first.key)
    scribe.fork(CREATOR, 1)
    second = scribe.seed(min_price=0)
    scribe.bid(second.key, RIVAL)
    assert (first.key, first.envelope) == (second.key, scribe.facts[0].envelope)
    assert first.envelope != second.envelope
    return scribe.facts, first


def two_claims_for_one_place() -> tuple[list[Fact], Fact]:
    job = Reclaimed()
    job.scribe.fork(CREATOR, job.claim.seq)
    claim = job.scribe.claim(job.seed.key, job.bids[1].key, RIVAL, attempt=3)
    job.scribe.started(job.seed.key, claim.key, RIVAL)
    return job.scribe.facts, job.claim


def two_claims_of_one_attempt() -> tuple[list[Fact], Fact]:
    job = Reclaimed(attempt=1)
    return job.scribe.facts, job.claim


def two_settlements() -> tuple[list[Fact], Fact]:
    job = Job()
    second = job.scribe.settle(job.seed.key, S.REJECTED, job.claim.key, job.result.key)
    job.scribe.acknowledges(second)
    return job.scribe.facts, job.settlement


def a_settlement_of_another_claim_than_the_last() -> tuple[list[Fact], Fact]:
    job = Reclaimed()
    scribe = job.scribe
    result = scribe.result(job.seed.key, job.claim.key)
    scribe.acknowledges(scribe.settle(job.seed.key, S.ACCEPTED, job.claim.key, result.key))
    return scribe.facts, job.forfeit


DISPUTES = {
    each.__name__: each
    for each in (
        two_claims_for_one_place,
        two_claims_of_one_attempt,
        two_settlements,
        a_settlement_of_another_claim_than_the_last,
    )
}


@pytest.mark.parametrize("name", DISPUTES)
def test_two_chains_that_others_built_on_are_a_dispute(name: str) -> None:
    facts, at = DISPUTES[name]()
    assert outcome(facts, at) == "Disputed"
    record = refold(facts, ending(at))
    assert record.progress.note
    assert record.progress.settled_at == max(fact.ts for fact in facts)


@pytest.mark.parametrize("name", DISPUTES)
def test_there_is_no_dispute_once_one_of_the_chains_is_not_followed(name: str) -> None:
    """The last fact is what pins the second chain."""
    facts, at = DISPUTES[name]()
    assert outcome(facts[:-1], at) not in {"Disputed", "none"}


def test_two_definitions_that_others_bid_on_are_a_dispute() -> None:
    facts, at = two_seeds()
    assert outcome(facts, at) == "Disputed"
    assert outcome(facts[:-1], at) == "Open"
    record = refold(facts, ending(at))
    assert {fact.envelope for fact in record.facts()} == {fact.envelope for fact in facts}


def test_a_disputed_seed_says_nothing_but_that_to_the_state_hash() -> None:
    leaves = set()
    for make in (two_seeds, *DISPUTES.values()):
        facts, at = make()
        leaves.add(leaf("a", refold(facts, ending(at))))
    assert len(leaves) == 1


def test_strangers_have_no_say_about_a_disputed_seed() -> None:
    job = Job()
    scribe, seed_id = job.scribe, job.seed.key
    scribe.acknowledges(scribe.settle(seed_id, S.REJECTED, job.claim.key, job.result.key))
    facts = list(scribe.facts)
    scribe.now_s = 5_000
    claim = scribe.claim(seed_id, job.bid.key, author=STRANGER, attempt=200)
    noise = [claim, scribe.started(seed_id, claim.key), scribe.acknowledges(job.settlement, STRANGER)]
    record = refold([*facts, *noise], ending(job.settlement))
    assert record.progress.status is S.DISPUTED
    assert record == refold(facts, ending(job.settlement))
