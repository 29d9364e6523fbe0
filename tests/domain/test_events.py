"""An event does the same whether it comes with the record that was decided or not, as in a replay."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.decision import decide
from crabnet.domain.model import Fact
from crabnet.domain.state import Observe, Retract, State, apply
from tests.support.facts import CREATOR, RIVAL, WORKER, histories


def follow(live: State, replayed: State, command: Observe | Retract) -> None:
    for event in decide(live, command, now_s=0).events:
        apply(live, event)
        apply(replayed, msgspec.structs.replace(event, decided=None))


@given(
    histories(),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.sampled_from([CREATOR, WORKER, RIVAL]),
    st.integers(1, 6),
)
def test_a_replay_gives_the_same_records(
    facts: list[Fact], random: Random, in_order: bool, forked: str, from_seq: int
) -> None:
    order = list(facts)
    if not in_order:
        random.shuffle(order)
    live, replayed = State(), State()
    for fact in order:
        follow(live, replayed, Observe(fact))
        assert live.records == replayed.records
    follow(live, replayed, Retract(forked, from_seq, frozenset(live.records)))
    assert live.records == replayed.records
    assert (live.counts, live.totals, live.orphans) == (replayed.counts, replayed.totals, replayed.orphans)
    assert live.digest() == replayed.digest()


@given(histories(), st.randoms(use_true_random=False))
def test_an_event_that_was_decided_on_another_record_is_applied_to_the_present_one(
    facts: list[Fact], random: Random
) -> None:
    source, plain, cached = State(), State(), State()
    for fact in facts:
        for event in decide(source, Observe(fact), now_s=0).events:
            apply(source, event)
            if random.random() < 0.7:
                apply(plain, msgspec.structs.replace(event, decided=None))
                apply(cached, event)
    assert plain.records == cached.records
