"""The window of seen messages keeps its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet.protocol.replay import SeenWindow

STEPS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5), st.booleans()), max_size=60)


@given(STEPS, st.integers(0, 10), st.integers(1, 5))
def test_never_more_than_the_capacity_nor_older_than_the_ttl(
    steps: list[tuple[str, int, bool]], ttl_s: int, capacity: int
) -> None:
    window = SeenWindow(ttl_s=ttl_s, capacity=capacity)
    model: dict[str, int] = {}
    now_s = 0
    for message_id, wait_s, prune in steps:
        now_s += wait_s
        window.add(message_id, now_s)
        model.pop(message_id, None)
        model[message_id] = now_s
        while len(model) > capacity:
            del model[next(iter(model))]
        if prune:
            old = [known for known, seen_at in model.items() if seen_at < now_s - ttl_s]
            assert window.prune(now_s) == len(old)
            for known in old:
                del model[known]
        assert len(window) == len(model) <= capacity
        assert list(window.entries()) == list(model.items())
        for letter in "abcdefgh":
            assert (letter in window) == (letter in model)
    copy = SeenWindow(ttl_s=ttl_s, capacity=capacity)
    copy.load(list(window.entries()))
    assert list(copy.entries()) == list(model.items())


def test_a_smaller_capacity_keeps_the_newest_of_a_checkpoint() -> None:
    window = SeenWindow(ttl_s=10, capacity=2)
    window.load([("a", 1), ("b", 2), ("c", 3)])
    assert list(window.entries()) == [("b", 2), ("c", 3)]


def test_pruning_keeps_what_is_exactly_as_old_as_the_ttl() -> None:
    window = SeenWindow(ttl_s=10, capacity=9)
    window.add("a", 100)
    assert window.prune(110) == 0
    assert window.prune(111) == 1
    assert "a" not in window
