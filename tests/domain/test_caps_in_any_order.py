"""Which of an author's facts a cap keeps follows from its feed, not from the order in which they are judged."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.state import Caps, State
from crabnet.errors import Reason
from tests.support.facts import Scribe, observe


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_the_first_bids_of_a_feed_are_kept(order: int, most: int) -> None:
    scribe = Scribe()
    seed = scribe.seed()
    bids = [scribe.bid(seed.seed_id) for _ in range(8)]
    shuffled = Random(order).sample(bids, len(bids))
    state = State(caps=Caps(bids_per_seed_max=most))

    for fact in (seed, *shuffled):
        observe(state, fact)

    record = state.records[seed.seed_id]
    assert sorted(entry.fact.seq for entry in record.bids) == [bid.seq for bid in bids[:most]]
    assert observe(state, scribe.bid(seed.seed_id)).reason is Reason.TOO_MANY_OWN_BIDS
