"""The pace at which stored envelopes are served."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet.node.serving import Pace


def test_a_second_s_worth_may_go_at_once_and_more_has_to_be_waited_for() -> None:
    pace = Pace(1_000, now_ms=0)
    pace.spend(1_000)
    assert pace.wait_ms(0) == 0, "nothing is owed yet"
    pace.spend(500)
    assert pace.wait_ms(0) == 500
    assert pace.wait_ms(200) == 300
    assert pace.wait_ms(500) == 0


def test_rest_earns_no_more_than_a_second_s_worth() -> None:
    pace = Pace(1_000, now_ms=0)
    assert pace.wait_ms(3_600_000) == 0
    pace.spend(3_000)
    assert pace.wait_ms(3_600_000) == 2_000


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(0, now_ms=0)
    pace.spend(10**12)
    assert pace.wait_ms(0) == 0


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=50))
def test_over_a_long_time_no_more_is_sent_than_the_pace_allows(sizes: list[int]) -> None:
    pace = Pace(1_000, now_ms=0)
    now_ms = 0.0
    for size in sizes:
        now_ms += pace.wait_ms(int(now_ms))
        pace.spend(size)
    assert sum(sizes[:-1]) <= 1_000 + now_ms + len(sizes)
