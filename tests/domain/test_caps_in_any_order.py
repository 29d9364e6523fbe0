"""Which of an author's facts a cap keeps follows from its feed, not from what else comes in between."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.decision import decide
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import EMPTY
from crabnet.domain.state import Caps, Outcome, Propose
from crabnet.errors import Reason
from tests.support.facts import RIVAL, WORKER, Scribe, Witness
from tests.support.made_up import interleaved

S = SeedStatus


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([None, 2, 5]))
def test_the_first_valid_bids_of_a_feed_are_kept(random: Random, most: int, closes_after: int | None) -> None:
    """Those that break a rule do not count towards the cap, those that come when all is over do."""
    scribe = Scribe()
    seed = scribe.seed()
    valid = []
    for number in range(8):
        bid = scribe.bid(seed.key, price=1 if number % 3 == 0 else 5)
        valid += [] if number % 3 == 0 else [bid]
        scribe.bid(seed.key, RIVAL)
        if number == closes_after:
            scribe.settle(seed.key, S.EXPIRED)
    witness = Witness(caps=Caps(bids_per_seed_max=most))

    reasons = {fact.ref: witness.observe(fact).reason for fact in interleaved(scribe.facts, random)}

    capped = {bid.ref for bid in valid if reasons[bid.ref] is Reason.TOO_MANY_OWN_BIDS}
    assert capped == {bid.ref for bid in valid[most:]}
    assert capped <= witness.idle
    if closes_after is None:
        bids = witness.state.records[seed.key].bids
        assert [bid for bid in bids if bid.author == WORKER] == valid[:most]
        assert len([bid for bid in bids if bid.author == RIVAL]) == most


@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_the_first_seeds_of_a_feed_that_are_not_closed_are_kept(random: Random, most: int) -> None:
    scribe = Scribe()
    seeds = [scribe.seed() for _ in range(3)]
    scribe.seed(RIVAL)
    scribe.settle(seeds[0].key, S.EXPIRED)
    seeds += [scribe.seed() for _ in range(2)]
    witness = Witness(caps=Caps(open_seeds_max=most))

    decisions = {fact.ref: witness.observe(fact) for fact in interleaved(scribe.facts, random)}

    kept = seeds[:3][:most] + seeds[3:][: most - (min(most, 3) - 1)]
    assert [seed for seed in seeds if seed.key in witness.state.records] == kept
    for seed in seeds:
        decision = decisions[seed.ref]
        assert decision.idle == (seed not in kept)
        assert decision.reason is (None if seed in kept else Reason.TOO_MANY_OPEN_SEEDS)


@pytest.mark.parametrize("outcome", [S.ACCEPTED, S.REJECTED, S.FORFEITED, S.EXPIRED])
def test_what_its_author_says_of_a_seed_makes_room_whatever_becomes_of_it(outcome: SeedStatus) -> None:
    """A settlement of nothing is void, and says all the same that its author is done with the seed; a forfeit not."""
    scribe = Scribe()
    seed = scribe.seed()
    bid = scribe.bid(seed.key)
    said = scribe.settle(seed.key, outcome, rests_on=bid.envelope)
    witness = Witness([seed, bid, said], Caps(open_seeds_max=1))
    assert witness.state.records[seed.key].progress.status is S.OPEN
    assert (witness.observe(scribe.seed()).outcome is Outcome.ACCEPTED) == (outcome is not S.FORFEITED)


def test_bids_on_a_seed_beyond_the_cap_are_not_kept() -> None:
    scribe = Scribe()
    seeds = [scribe.seed(), scribe.seed()]
    witness = Witness(seeds, Caps(open_seeds_max=1))
    decision = witness.observe(scribe.bid(seeds[1].key))
    assert (decision.outcome, decision.reason, decision.idle) == (Outcome.IGNORED, Reason.UNKNOWN_SEED, False)
    assert list(witness.state.records) == [seeds[0].key]


def test_operators_are_held_to_the_caps() -> None:
    scribe = Scribe()
    seed, bid = scribe.seed(), scribe.bid("creator/1")
    witness = Witness([seed, bid], Caps(open_seeds_max=1, bids_per_seed_max=1))
    another = decide(witness.state, Propose(scribe.seed(), open_seeds=1), scribe.now_s)
    assert (another.outcome, another.reason) == (Outcome.REJECTED, Reason.TOO_MANY_OPEN_SEEDS)
    again = decide(witness.state, Propose(scribe.bid(seed.key)), scribe.now_s)
    assert (again.outcome, again.reason) == (Outcome.REJECTED, Reason.TOO_MANY_OWN_BIDS)


def test_unsigned_facts_are_not_capped() -> None:
    """They have no feed to count in; whoever takes them answers for how many."""
    scribe = Scribe(signed=False)
    seed = scribe.seed()
    witness = Witness([seed], Caps(open_seeds_max=0, bids_per_seed_max=0))
    assert witness.observe(scribe.bid(seed.key)).outcome is Outcome.ACCEPTED
    assert witness.state.records.get(seed.key, EMPTY).seed == seed
