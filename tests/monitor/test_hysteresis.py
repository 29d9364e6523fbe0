"""An alarm that never flaps: properties over all courses of a level."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from crabnet.monitor.hysteresis import Hysteresis, Turn, level

HOLD_MS = 1_000
COURSES = st.lists(st.tuples(st.integers(-50, 2_500), st.sampled_from([0.0, 0.49, 0.5, 0.75, 0.99, 1.0, 1.5, 9.0])))


@given(course=COURSES)
def test_turns_alternate_and_lie_apart_and_each_has_its_cause(course: list[tuple[int, float]]) -> None:
    alarm, now_ms = Hysteresis(HOLD_MS), 10_000
    seen: list[tuple[int, float]] = []
    turns: list[tuple[Turn, int]] = []
    for step_ms, value in course:
        now_ms += step_ms
        seen.append((now_ms, value))
        turn = alarm.observe(value, now_ms)
        if turn is None:
            continue
        if step_ms >= 0 and all(later >= earlier for (earlier, _), (later, _) in pairwise(seen)):
            held = [each for at_ms, each in seen if at_ms > now_ms - HOLD_MS]
            assert all(each >= 1 if turn is Turn.RAISED else each < 0.5 for each in held)
            assert not turns or now_ms - turns[-1][1] >= HOLD_MS
        turns.append((turn, now_ms))
        assert (alarm.raised_ms is None) is (turn is Turn.CLEARED)
    expected = [Turn.RAISED, Turn.CLEARED] * len(turns)
    assert [turn for turn, _ in turns] == expected[: len(turns)]


def test_it_is_raised_after_the_hold_and_cleared_after_the_hold() -> None:
    alarm = Hysteresis(HOLD_MS)
    assert [alarm.observe(1.0, at_ms) for at_ms in (0, 999, 1_000, 5_000)] == [None, None, Turn.RAISED, None]
    assert [alarm.observe(0.9, at_ms) for at_ms in (6_000, 9_000)] == [None, None], "a little less is not over"
    assert [alarm.observe(0.4, at_ms) for at_ms in (10_000, 10_999, 11_000)] == [None, None, Turn.CLEARED]


def test_a_threshold_of_zero_is_none() -> None:
    assert (level(10**9, 0), level(5, 10), level(20, 10)) == (0.0, 0.5, 2.0)
