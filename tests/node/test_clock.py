"""The node's time: it passes as time does, whatever is done to the system's clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.node.clock import ClockStep, NodeClock

DAY_MS = 24 * 3_600_000
FOLLOW_MS = 300_000
START_MS = 1_700_000_000_000


class Machine:
    """Two clocks of a machine, and the node's clock above them, looked at every 100 ms."""

    def __init__(self, follow_ms: int = FOLLOW_MS, start_ms: int = START_MS) -> None:
        self.wall_ms, self.steady_ms = start_ms, 5_000
        self.clock = NodeClock(follow_ms, wall=lambda: self.wall_ms, steady=lambda: self.steady_ms)
        self.steps: list[ClockStep] = []

    def pass_time(self, duration_ms: int) -> None:
        for _ in range(duration_ms // 100):
            before = self.clock()
            self.wall_ms += 100
            self.steady_ms += 100
            step = self.clock.observe()
            if step is not None:
                self.steps.append(step)
            assert 90 <= self.clock() - before <= 110


def test_it_begins_as_the_systems_and_keeps_pace_with_it() -> None:
    machine = Machine()
    assert machine.clock() == START_MS
    machine.pass_time(60_000)
    assert machine.clock() == machine.wall_ms
    assert machine.steps == []


@pytest.mark.parametrize("step_ms", [DAY_MS, -DAY_MS, 400_000, -400_000])
def test_a_large_step_is_told_once_and_not_followed(step_ms: int) -> None:
    machine = Machine()
    machine.pass_time(1_000)
    machine.wall_ms += step_ms
    machine.pass_time(60_000)
    assert machine.steps == [ClockStep(step_ms, step_ms, False)]
    assert machine.clock() == START_MS + 61_000
    assert machine.clock.ahead_ms == step_ms
    machine.wall_ms -= step_ms
    machine.pass_time(60_000)
    assert machine.steps[1:] == [ClockStep(-step_ms, 0, True)]
    assert machine.clock() == machine.wall_ms == START_MS + 121_000


@pytest.mark.parametrize("step_ms", [10_000, -10_000])
def test_a_small_step_is_told_and_followed_bit_by_bit(step_ms: int) -> None:
    machine = Machine()
    machine.wall_ms += step_ms
    machine.pass_time(100_000)
    assert machine.steps == [ClockStep(step_ms, step_ms, True)]
    assert abs(machine.clock.ahead_ms) == 10_000 - 5_000
    machine.pass_time(100_000)
    assert machine.clock() == machine.wall_ms
    assert len(machine.steps) == 1


def test_a_drift_is_followed_in_silence() -> None:
    machine = Machine()
    for _ in range(1_000):
        machine.wall_ms += 3
        machine.pass_time(100)
    assert machine.steps == []
    assert machine.clock() == machine.wall_ms


def test_nothing_is_followed_if_the_operator_wants_that() -> None:
    machine = Machine(follow_ms=0)
    machine.wall_ms += 2_000
    machine.pass_time(10_000)
    assert machine.steps == [ClockStep(2_000, 2_000, False)]
    assert machine.clock() == START_MS + 10_000


@given(st.lists(st.tuples(st.integers(-2 * DAY_MS, 2 * DAY_MS), st.integers(0, 30)), max_size=10))
def test_it_never_goes_back_and_never_leaps(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    for step_ms, ticks in steps:
        machine.wall_ms += step_ms
        machine.pass_time(ticks * 100)


def test_the_clocks_of_this_machine() -> None:
    clock = NodeClock(FOLLOW_MS)
    first = clock()
    assert clock.observe() is None
    assert 0 <= clock() - first < 60_000
    assert abs(clock.ahead_ms) < 60_000


def test_a_clock_that_was_never_set_catches_up_when_it_is() -> None:
    machine = Machine(start_ms=5_000)
    machine.pass_time(1_000)
    assert machine.clock() == 6_000
    set_ms = limits.CLOCK_PLAUSIBLE_FROM_S * 1000
    machine.wall_ms = set_ms
    assert machine.clock.observe() == ClockStep(set_ms - 6_000, 0, True)
    assert machine.clock() == set_ms
    machine.pass_time(1_000)
    machine.wall_ms += DAY_MS
    assert machine.clock.observe() == ClockStep(DAY_MS, DAY_MS, False)


@pytest.mark.parametrize("ahead_ms", [DAY_MS, 0, -DAY_MS])
def test_it_catches_up_when_told_and_never_goes_back(ahead_ms: int) -> None:
    machine = Machine()
    machine.wall_ms += ahead_ms
    assert machine.clock.catch_up() is (ahead_ms > 0)
    assert machine.clock() == START_MS + max(0, ahead_ms)
    assert machine.clock.observe() == (None if ahead_ms >= 0 else ClockStep(ahead_ms, ahead_ms, False))
