"""The short cut for the last fact judges as the fold of all facts does."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.fold import judge_last, rebuild
from crabnet.domain.lifecycle import EMPTY
from crabnet.domain.model import Fact, FactKind
from crabnet.domain.state import State
from tests.support.facts import histories, history, observe


def check(facts: list[Fact]) -> int:
    """Compare for every fact in this order; returns how often the short cut was taken."""
    state = State()
    taken = 0
    for fact in facts:
        before = state.records.get(fact.seed_id, EMPTY)
        known = fact.key in {other.key for other in before.facts()}
        if not known and fact.kind not in {FactKind.SEED, FactKind.BID}:
            last = judge_last(before, fact)
            if last is not None:
                after = rebuild((*before.facts(), fact))
                entries = {entry.fact.key: entry.judgement for entry in after.others}
                assert last == (entries.pop(fact.key), after.progress)
                assert entries == {entry.fact.key: entry.judgement for entry in before.others}
                taken += 1
        observe(state, fact)
    return taken


@given(histories(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_short_cut_judges_as_the_fold(facts: list[Fact], random: Random, swaps: int) -> None:
    order = list(facts)
    for _ in range(swaps if len(order) > 1 else 0):
        at = random.randrange(len(order) - 1)
        order[at], order[at + 1] = order[at + 1], order[at]
    check(order)


@given(histories(), st.randoms(use_true_random=False))
def test_the_short_cut_judges_as_the_fold_in_any_order(facts: list[Fact], random: Random) -> None:
    order = list(facts)
    random.shuffle(order)
    check(order)


def test_the_short_cut_is_taken_for_most_of_a_plain_history() -> None:
    assert sum(check(history(number, 24, 2)) for number in range(50)) > 100
