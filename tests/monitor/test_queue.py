"""The bounded queue against a simple model of its drop policy."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.monitor.events import Event
from crabnet.monitor.queue import EventQueue
from crabnet.monitor.registry import Severity
from tests.monitor.support import accepted, poisoned, sequence_of


@given(st.integers(1, 6), st.lists(st.sampled_from(["plain", "alert", "take"]), max_size=60))
def test_drops_the_oldest_that_is_no_alert(capacity: int, steps: list[str]) -> None:
    queue = EventQueue(capacity)
    model: list[Event] = []
    dropped = dropped_alerts = 0
    for number, step in enumerate(steps):
        if step == "take":
            batch = queue.take()
            assert batch.events == model
            assert (batch.dropped, batch.dropped_alerts) == (dropped, dropped_alerts)
            model, dropped, dropped_alerts = [], 0, 0
            continue
        event = poisoned(number) if step == "alert" else accepted(number)
        model.append(event)
        full = len(model) > capacity
        assert queue.put(event) is not full
        if full:
            plain = [index for index, each in enumerate(model) if each.severity is not Severity.ALERT]
            dropped += 1
            dropped_alerts += not plain
            del model[plain[0] if plain else 0]
        assert len(queue) == len(model) <= capacity
        assert queue.urgent is any(each.severity is Severity.ALERT for each in model)


def test_nothing_is_lost_between_two_threads() -> None:
    queue = EventQueue(50)
    total, dropped = 20_000, 0
    taken: list[int] = []
    done = threading.Event()

    def fill() -> None:
        for number in range(total):
            queue.put(accepted(number))
        done.set()

    filler = threading.Thread(target=fill)
    filler.start()
    while True:
        last = done.is_set()
        batch = queue.take()
        taken += sequence_of(batch.events)
        dropped += batch.dropped
        if last:
            break
    filler.join()
    assert len(taken) + dropped == total
    assert taken == sorted(taken)


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EventQueue(0)
