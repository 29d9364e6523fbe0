"""Who runs and who waits: bounds, order, fairness."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from crabnet.node.execution.turns import Place, Turns


def test_runs_and_queue_are_bounded() -> None:
    turns = Turns(2, 1)
    assert [turns.enter(key, "p") for key in "abcd"] == [Place.RUNS, Place.RUNS, Place.WAITS, Place.FULL]
    assert (turns.running, turns.queued) == (2, 1)
    assert turns.leave("a", "p") == ["c"]
    assert turns.enter("d", "p") is Place.WAITS


def test_without_a_queue_nobody_waits() -> None:
    turns = Turns(1, 0)
    assert [turns.enter(key, "p") for key in "ab"] == [Place.RUNS, Place.FULL]


def test_publishers_take_turns_and_each_keeps_its_order() -> None:
    turns = Turns(1, 100)
    turns.enter("first", "busy")
    for number in range(5):
        turns.enter(f"busy-{number}", "busy")
    for name in ("one", "other"):
        turns.enter(name, name)
    order = ["busy-0", "one", "other", "busy-1", "busy-2", "busy-3", "busy-4"]
    assert [turns.position(key) for key in order] == [1, 2, 3, 4, 5, 6, 7]
    running, publishers = "first", {"one": "one", "other": "other"}
    for expected in order:
        (running,) = turns.leave(running, publishers.get(running, "busy"))
        assert running == expected
    assert turns.leave(running, "busy") == []
    assert (turns.running, turns.queued) == (0, 0)


def test_whoever_leaves_the_queue_makes_room_and_is_not_admitted() -> None:
    turns = Turns(1, 2)
    for key in "abc":
        turns.enter(key, "p")
    assert turns.leave("b", "p") == []
    assert turns.position("b") is None
    assert turns.position("c") == 1
    assert turns.enter("d", "q") is Place.WAITS
    assert turns.leave("a", "p") == ["c"]


@given(
    st.integers(1, 3),
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(["in", "out"]), st.integers(0, 20), st.sampled_from("pqr")), max_size=60),
)
def test_nobody_is_lost_and_no_bound_is_broken(
    runs_max: int, queue_max: int, steps: list[tuple[str, int, str]]
) -> None:
    turns = Turns(runs_max, queue_max)
    owner: dict[str, str] = {}
    running: set[str] = set()
    for number, (what, which, publisher) in enumerate(steps):
        if what == "in":
            key = f"run-{number}"
            place = turns.enter(key, publisher)
            assert (place is Place.RUNS) == (len(running) < runs_max)
            assert (place is Place.FULL) == (len(running) == runs_max and len(owner) - len(running) == queue_max)
            if place is not Place.FULL:
                owner[key] = publisher
            if place is Place.RUNS:
                running.add(key)
        elif owner:
            key = sorted(owner)[which % len(owner)]
            admitted = turns.leave(key, owner.pop(key))
            running.discard(key)
            assert not running & set(admitted)
            running |= set(admitted)
        assert (turns.running, turns.queued) == (len(running), len(owner) - len(running))
        assert len(running) == min(runs_max, len(owner))
        waiting = sorted((turns.position(key) or 0) for key in owner if key not in running)
        assert waiting == list(range(1, len(owner) - len(running) + 1))


@given(st.lists(st.sampled_from("pqrs"), min_size=1, max_size=40))
def test_no_publisher_is_served_twice_while_another_waits_longer(publishers: list[str]) -> None:
    turns = Turns(1, 100)
    turns.enter("now", "somebody")
    owner = {str(number): publisher for number, publisher in enumerate(publishers)}
    for key, publisher in owner.items():
        turns.enter(key, publisher)
    left, running, served = Counter(publishers), "now", list[str]()
    while following := turns.leave(running, owner.get(running, "somebody")):
        (running,) = following
        served.append(owner[running])
        left[owner[running]] -= 1
    for at, publisher in enumerate(served):
        again = next((later for later in range(at + 1, len(served)) if served[later] == publisher), None)
        if again is not None:
            others = {each for each in served[again:] if each != publisher}
            assert others <= set(served[at + 1 : again])
