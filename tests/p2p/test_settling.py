"""Which of several connections stays: both ends come to the same answer, and never close all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet.p2p.settling import Place, surplus

places = st.lists(
    st.builds(Place, st.floats(0, 100), is_outbound=st.booleans(), is_relayed=st.booleans()), min_size=1, max_size=6
)


def other_end(seen: list[Place]) -> list[Place]:
    return [Place(each.made_s, not each.is_outbound, each.is_relayed) for each in seen]


@given(places)
def test_one_is_left_whoever_acts(seen: list[Place]) -> None:
    first, second = set(surplus(seen, is_first=True)), set(surplus(other_end(seen), is_first=False))
    assert second <= first, "the one with the greater id closes nothing that the other would keep"
    assert len(seen) - len(first) == 1
    kept = seen[next(at for at in range(len(seen)) if at not in first)]
    assert not kept.is_relayed or all(each.is_relayed for each in seen)


def test_the_dial_of_the_smaller_id_stays_if_both_dialled_at_once() -> None:
    assert surplus([Place(1.0, is_outbound=True), Place(2.0, is_outbound=False)], is_first=True) == [1]
    assert surplus([Place(1.0, is_outbound=False), Place(2.0, is_outbound=True)], is_first=False) == []


def test_an_old_connection_goes_at_either_end() -> None:
    for is_first in (True, False):
        for is_outbound in (True, False):
            assert surplus([Place(1.0, is_outbound), Place(99.0, not is_outbound)], is_first=is_first) == [0]
