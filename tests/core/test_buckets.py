"""Token buckets: never more than the burst and what was earned, never less once it was earned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.buckets import TokenBucket


@pytest.mark.parametrize(
    ("per_s", "burst", "takes", "expected"),
    [
        (10, None, [(0, 10), (0, 1)], [True, False]),
        (10, None, [(0, 10), (99, 1), (100, 1)], [True, False, True]),
        (10, 20, [(0, 20), (1_000, 11), (1_000, 10)], [True, False, True]),
        (10, 20, [(0, 1_000), (1_999, 1_000), (2_000, 1_000)], [True, False, True]),
        (10, None, [(1_000, 10), (0, 1), (100, 1)], [True, False, True]),
        (0, None, [(0, 10**9), (0, 10**9)], [True, True]),
    ],
    ids=["burst", "refill", "long burst", "more than the burst counts as the burst", "clock goes back", "off"],
)
def test_the_table(per_s: float, burst: float | None, takes: list[tuple[int, int]], expected: list[bool]) -> None:
    bucket = TokenBucket(per_s, burst)
    assert [bucket.take(now_ms, amount) for now_ms, amount in takes] == expected


@given(
    per_s=st.integers(1, 10_000),
    burst=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 100)), max_size=60),
)
def test_no_more_than_burst_and_rate_and_waiting_helps(per_s: int, burst: int, steps: list[tuple[int, int]]) -> None:
    bucket = TokenBucket(per_s, burst)
    now_ms, taken = 0, 0
    for pause_ms, amount in steps:
        now_ms += pause_ms
        if bucket.take(now_ms, amount):
            taken += min(amount, burst)
        else:
            wait_ms = bucket.wait_ms(now_ms, amount)
            assert wait_ms > 0
            now_ms += wait_ms
            assert bucket.take(now_ms, amount)
            taken += min(amount, burst)
        assert taken <= burst + per_s * now_ms / 1000 + 1e-6
