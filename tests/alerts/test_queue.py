"""What waits for a target: its rate, its retries, its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.alerts.messages import Bundle, Entry
from crabnet.alerts.queue import TargetQueue
from crabnet.monitor.registry import EventKind
from tests.alerts.making import event

MINUTE_MS = 60_000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 300)),
        st.tuples(st.just("wait"), st.integers(0, 400_000)),
        st.tuples(st.just("taken"), st.just(0)),
        st.tuples(st.just("failed"), st.integers(0, 900_000)),
    ),
    max_size=60,
)


def entry(number: int, kind: EventKind = EventKind.CLOCK_STEPPED) -> Entry:
    return Entry("alert", number, event=event(number, kind))


class Run:
    """A queue, driven through time. It notes all tries, and what became of each entry."""

    def __init__(self, per_minute: int, retry_ms: int) -> None:
        self.queue = TargetQueue(per_minute, retry_ms)
        self.now_ms = 0
        self.added = 0
        self.begun_ms: list[int] = []
        self.taken: list[Bundle] = []
        self.dead: list[tuple[Bundle, int]] = []

    def step(self, what: str, amount: int, random: float) -> None:
        if what == "add":
            for _ in range(amount):
                self.added += 1
                self.queue.add(entry(self.added))
        elif what == "wait":
            self.now_ms += amount
        elif self.queue.wait_ms(self.now_ms) == 0:
            bundle = self.queue.begin(self.now_ms)
            assert self.queue.wait_ms(self.now_ms) is None
            self.begun_ms.append(self.now_ms)
            if what == "taken":
                self.taken.append(bundle)
                self.queue.settled(taken=True)
            elif self.queue.failed(self.now_ms, random, amount):
                self.dead.append((bundle, self.queue.failures))
                self.queue.settled(taken=False)


@given(st.integers(1, 20), st.integers(0, 3_600_000), STEPS, st.floats(0, 0.999))
def test_nothing_is_lost_and_the_rate_is_kept(
    per_minute: int, retry_ms: int, steps: list[tuple[str, int]], random: float
) -> None:
    run = Run(per_minute, retry_ms)
    for what, amount in steps:
        run.step(what, amount, random)
        over = sum(each.count for each in run.taken) + sum(each.count for each, _ in run.dead)
        assert run.queue.count + over == run.added
        low = run.queue.low("alert")
        assert low == (None if over == run.added else over + 1)
        assert len(run.queue._waiting) <= limits.ALERTS_WAITING_MAX
        in_the_last_minute = [each for each in run.begun_ms if each > run.now_ms - MINUTE_MS]
        assert len(in_the_last_minute) <= per_minute
    lows = [each.lows["alert"] for each in sorted(run.taken, key=lambda bundle: bundle.first.low)]
    assert lows == sorted(set(lows))


@given(st.integers(1, 20), st.integers(0, 3_600_000), st.floats(0, 0.999))
def test_a_queue_always_comes_to_an_end(per_minute: int, retry_ms: int, random: float) -> None:
    """Whoever waits as long as told can try; a target that takes nothing is left with nothing that waits."""
    run = Run(per_minute, retry_ms)
    run.step("add", 30, random)
    while (wait_ms := run.queue.wait_ms(run.now_ms)) is not None:
        assert wait_ms <= max(MINUTE_MS, limits.ALERT_PAUSE_MS_MAX)
        run.now_ms += wait_ms
        assert run.queue.wait_ms(run.now_ms) == 0
        run.step("failed", 0, random)
    assert sum(each.count for each, _ in run.dead) == 30


def test_pauses_double_and_the_last_try_is_at_the_end_of_the_time() -> None:
    run = Run(600, 100_000)
    run.step("add", 1, 0)
    while not run.dead:
        run.now_ms += run.queue.wait_ms(run.now_ms) or 0
        run.step("failed", 0, 0)
    assert run.begun_ms == [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 100_000]
    assert run.dead[0][1] == 8
    run.step("add", 1, 0)
    assert run.queue.wait_ms(run.now_ms) == 128_000  # the target still fails, so the pauses go on


def test_a_target_may_ask_for_a_longer_pause_but_not_for_ever() -> None:
    run = Run(600, 3_600_000)
    run.step("add", 1, 0)
    run.step("failed", 30_000, 0)
    assert run.queue.wait_ms(run.now_ms) == 30_000
    run.now_ms += 30_000
    run.step("failed", 999_999_000, 0)
    assert run.queue.wait_ms(run.now_ms) == limits.ALERT_PAUSE_MS_MAX


def test_without_time_for_retries_there_is_one_try() -> None:
    run = Run(10, 0)
    run.step("add", 1, 0)
    run.step("failed", 0, 0)
    assert [(bundle.count, failures) for bundle, failures in run.dead] == [(1, 1)]


def test_the_last_try_of_a_minute_takes_all_that_waits() -> None:
    run = Run(3, 0)
    run.step("add", 20, 0)
    for _ in range(5):
        run.step("taken", 0, 0)
    assert [each.count for each in run.taken] == [1, 1, 18]
    run.step("add", 5, 0)
    assert run.queue.wait_ms(run.now_ms) == MINUTE_MS
