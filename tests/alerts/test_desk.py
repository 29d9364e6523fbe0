"""How far each target is: whatever happens, no event is passed by that a target was not done with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet.alerts.desk import Desk
from crabnet.alerts.queue import TargetQueue
from tests.alerts.making import gap, item

STREAMS = ("alert", "kinds")
TARGETS = ("a", "b")


def desk_of(cursors: dict[str, dict[str, int]], begin_after: int = 0) -> Desk:
    return Desk({key: TargetQueue(600, 0) for key in TARGETS}, STREAMS, cursors, begin_after)


class World:
    """A log of events and processes that follow it, each from the cursors of the one before."""

    def __init__(self) -> None:
        self.logs: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        self.last = 0
        self.got: dict[str, set[int]] = {key: set() for key in TARGETS}
        self.kept: dict[str, dict[str, int]] = {}
        self.desk = desk_of({})
        self.now_ms = 0

    def read(self, stream: str) -> None:
        for number in self.logs[stream]:
            if number > self.desk.reached(stream):
                self.desk.take(stream, item(number))

    def send(self, key: str, *, works: bool) -> None:
        queue = self.desk.queues[key]
        self.now_ms += queue.wait_ms(self.now_ms) or 0
        if queue.wait_ms(self.now_ms) != 0:
            return
        bundle = queue.begin(self.now_ms)
        assert bundle.count == 1  # so each event is seen below
        event = bundle.first.event
        assert event is not None
        if works or queue.failed(self.now_ms, 0.0):
            self.got[key].add(event.id)
            queue.settled(taken=works)
        self.kept = self.desk.cursors()

    def restart(self) -> None:
        self.desk = desk_of(self.kept)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), st.sampled_from(STREAMS)),
            st.tuples(st.just("read"), st.sampled_from(STREAMS)),
            st.tuples(st.just("idle"), st.sampled_from(STREAMS)),
            st.tuples(st.just("send"), st.sampled_from(TARGETS)),
            st.tuples(st.just("fail"), st.sampled_from(TARGETS)),
            st.tuples(st.just("restart"), st.just("")),
        ),
        max_size=80,
    )
)
def test_each_target_gets_each_event_whenever_the_process_dies(steps: list[tuple[str, str]]) -> None:
    world = World()
    for what, which in steps:
        if what == "event":
            world.last += 1
            world.logs[which].append(world.last)
        elif what == "read":
            world.read(which)
        elif what == "idle":
            world.read(which)
            world.desk.pass_over(which, world.last)
            world.kept = world.desk.cursors()
        elif what == "restart":
            world.restart()
        else:
            world.send(which, works=what == "send")
    world.restart()
    for stream in STREAMS:
        world.read(stream)
    for key in TARGETS:
        while world.desk.queues[key].count:
            world.send(key, works=True)
        assert world.got[key] == set(range(1, world.last + 1))


def test_a_target_that_is_ahead_gets_nothing_twice() -> None:
    desk = desk_of({"a": {"alert": 5, "kinds": 0}, "b": {"alert": 9, "kinds": 0}})
    assert desk.reached("alert") == 5
    for number in (7, 9, 11):
        desk.take("alert", item(number))
    assert desk.queues["a"].count == 3
    assert desk.queues["b"].count == 1
    assert desk.cursors()["a"]["alert"] == 6


def test_new_targets_begin_with_this_start_of_the_node() -> None:
    desk = desk_of({"a": {"alert": 5, "kinds": 5}}, begin_after=20)
    desk.take("alert", item(15))
    desk.take("alert", item(21))
    assert [desk.queues[key].count for key in TARGETS] == [2, 1]


def test_a_gap_is_told_once_to_those_who_miss_something() -> None:
    desk = desk_of({"a": {"alert": 5, "kinds": 5}, "b": {"alert": 30, "kinds": 30}})
    desk.take("alert", gap(6, 20))
    desk.take("kinds", gap(6, 20))
    desk.take("alert", item(21))
    assert [desk.queues[key].count for key in TARGETS] == [2, 0]
    told = desk.queues["a"].begin(0)
    assert told.first.gap is not None
    assert desk.cursors()["a"]["alert"] == 5  # after a crash, the gap is met again


def test_after_a_loss_of_the_log_the_new_ids_are_followed() -> None:
    desk = desk_of({key: {"alert": 100, "kinds": 100} for key in TARGETS})
    lost = gap(3, 100)
    desk.take("alert", type(lost)(id=2, gap=lost.gap))
    desk.take("alert", item(3))
    assert desk.reached("alert") == 3
    assert [desk.queues[key].count for key in TARGETS] == [2, 2]
