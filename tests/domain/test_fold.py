"""A record is a function of the set of facts and of the ends of feeds, however it was made."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.fold import refold
from crabnet.domain.model import FINAL, Fact, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import leaf
from tests.domain.reference import about, seen, standing
from tests.support.facts import Witness, counting, everything, fronts
from tests.support.made_up import histories, history, interleaved

FORKS = 0.15
RANDOMS = st.randoms(use_true_random=False)


def assert_same(one: Record, other: Record) -> None:
    """Equal in all that nodes must agree on: of a final seed not in the bids that nobody claimed."""
    assert (one.seed is None) == (other.seed is None)
    if one.seed is None:
        return
    assert leaf("", one) == leaf("", other)
    if one.progress.status not in FINAL:
        assert counting(one) == counting(other)


@given(histories(facts_max=30), RANDOMS)
def test_judging_one_by_one_gives_what_a_fold_of_all_gives(facts: list[Fact], random: Random) -> None:
    witness = Witness(interleaved(facts, random))
    for seed_id, mine in about(facts).items():
        assert_same(witness.state.records.get(seed_id, EMPTY), refold(mine, everything))


@given(histories(facts_max=30, seeds_max=1, forks=FORKS), RANDOMS)
def test_a_fold_is_what_the_reference_says(facts: list[Fact], random: Random) -> None:
    is_front = fronts(facts)
    for mine in about(facts).values():
        record = refold(mine, is_front)
        assert seen(record) == standing(mine, is_front)
        shuffled = random.sample(mine + mine[::2], len(mine) + len(mine[::2]))
        assert refold(shuffled, is_front) == record


@given(histories(facts_max=30, seeds_max=1, forks=FORKS))
def test_what_stands_is_a_function_of_the_fronts(facts: list[Fact]) -> None:
    """Whatever nobody before the end of a feed builds on might as well not be held."""
    is_front = fronts(facts)
    by_id = {fact.envelope: fact for fact in facts}
    named: set[str] = set()
    for fact in filter(is_front, facts):
        link: Fact | None = fact
        while link is not None:
            named.add(link.envelope)
            link = by_id.get(link.rests_on)
    for mine in about(facts).values():
        assert refold([fact for fact in mine if fact.envelope in named], is_front) == refold(mine, is_front)


@given(histories(facts_max=30, seeds_max=1, forks=FORKS), RANDOMS)
def test_what_never_counts_may_as_well_not_be_looked_at(facts: list[Fact], random: Random) -> None:
    """A node that judged a fact to be idle before it knew of any fork folds without it."""
    is_front = fronts(facts)
    witness = Witness()
    for fact in facts:
        if (not fact.rests_on or fact.rests_on in witness.heard) and (is_front(fact) or random.random() < 0.7):
            witness.observe(fact)
    kept = [fact for fact in facts if not is_front(fact) or fact.envelope not in witness.idle]
    for seed_id, mine in about(facts).items():
        assert_same(refold([fact for fact in kept if fact.seed_id == seed_id], is_front), refold(mine, is_front))


def test_the_histories_reach_every_status() -> None:
    """Guards the tests above: what they draw is not only the beginning of lives."""
    live: set[str] = set()
    attempts: set[int] = set()
    folded: set[str] = set()
    pinned = 0
    reasons: set[str] = set()
    for number in range(400):
        witness = Witness()
        for fact in history(number, 26, 2):
            reason = witness.observe(fact).reason
            reasons |= set() if reason is None else {reason.value}
        records = witness.state.records.values()
        live |= {record.progress.status.value for record in records}
        attempts |= {record.progress.attempt for record in records}
        facts = history(number, 26, 1, FORKS)
        is_front = fronts(facts)
        for mine in about(facts).values():
            record = refold(mine, is_front)
            folded.add(record.progress.status.value)
            pinned += any(not is_front(fact) for fact in record.others)
    assert live == {status.value for status in SeedStatus} - {"Disputed"}
    assert folded == {status.value for status in SeedStatus}
    assert attempts >= {1, 2, 3}
    assert pinned > 20
    assert reasons >= {"unauthorised", "wrong_state", "price_too_low", "deadline_passed", "not_due", "wrong_parent"}
    assert reasons >= {"unknown_bid", "unknown_claim", "unknown_result", "unknown_seed", "duplicate", "too_many_bids"}
