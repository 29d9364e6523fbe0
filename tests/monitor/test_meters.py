"""Histograms and recent maxima against naive ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.monitor.meters import Histogram, Meters, RecentMax
from crabnet.monitor.metrics import METRICS, MetricType

BOUNDS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12, unique=True).map(sorted)
VALUES = st.lists(st.floats(-1e7, 1e7), max_size=60)


@given(BOUNDS, VALUES)
def test_a_histogram_counts_as_a_naive_one_does(bounds: list[float], values: list[float]) -> None:
    histogram = Histogram(bounds)
    for value in [*values, *bounds]:
        histogram.observe(value)
    everything = [*values, *bounds]
    naive = [sum(1 for value in everything if value <= bound) for bound in (*bounds, math.inf)]
    assert histogram.cumulative() == naive
    assert histogram.total == pytest.approx(sum(everything), abs=1e-6)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0)])
def test_bounds_must_grow(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must grow"):
        Histogram(bounds)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 10)), min_size=1, max_size=40), st.integers(0, 200))
def test_the_recent_maximum_is_that_of_the_last_windows(steps: list[tuple[int, float]], later_ms: int) -> None:
    recent, now_ms = RecentMax(window_ms=10, windows=3), 0
    seen: list[tuple[int, float]] = []
    for pause_ms, value in steps:
        now_ms += pause_ms
        recent.observe(value, now_ms)
        seen.append((now_ms, value))
    now_ms += later_ms
    oldest_ms = (now_ms // 10 - 2) * 10
    assert recent.at(now_ms) == max((value for at_ms, value in seen if at_ms >= oldest_ms), default=0.0)


def test_each_histogram_of_the_table_can_be_made() -> None:
    assert all(metric.bounds for metric in METRICS if metric.type is MetricType.HISTOGRAM)
    assert Meters().fsync.cumulative()[-1] == 0
