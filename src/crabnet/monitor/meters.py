"""What a node counts and times for its metrics: histograms that are cheap enough for every message."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from crabnet import limits
from crabnet.monitor import metrics


class Histogram:
    """Counts values in buckets with fixed upper bounds, which belong to their bucket. The last bucket has no bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` grow strictly. Raises ValueError otherwise."""
        self._bounds = tuple(bounds)
        if any(low >= high for low, high in zip(self._bounds, self._bounds[1:], strict=False)):
            raise ValueError(f"the bounds of buckets must grow: {self._bounds}")
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count one value. The time does not depend on the number of values."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """For each bound, and last for infinity: how many values were at most that."""
        counts, sum_ = [], 0
        for count in self._counts:
            sum_ += count
            counts.append(sum_)
        return counts


class RecentMax:
    """The largest value of the last minute or so. Reading it changes nothing, so it may have several readers."""

    def __init__(self, window_ms: int = limits.LOOP_DELAY_WINDOW_MS, windows: int = limits.LOOP_DELAY_WINDOWS) -> None:
        self._window_ms = window_ms
        self._recent: deque[tuple[int, float]] = deque(maxlen=windows)
        """The number of each window that has a value, and the largest one in it."""

    def observe(self, value: float, now_ms: int) -> None:
        """Note a value at a time of a clock that never goes back."""
        window = now_ms // self._window_ms
        if self._recent and self._recent[-1][0] == window:
            value = max(value, self._recent.pop()[1])
        self._recent.append((window, value))

    def at(self, now_ms: int) -> float:
        """The largest value in the present window and those before it; 0 without one."""
        oldest = now_ms // self._window_ms - (self._recent.maxlen or 1)
        return max((value for window, value in self._recent if window > oldest), default=0.0)


class Meters:
    """The histograms of one node. Each belongs to the loop: only it observes and reads."""

    def __init__(self) -> None:
        self.message_handling = Histogram(metrics.MESSAGE_HANDLING.bounds)
        self.fsync = Histogram(metrics.FSYNC.bounds)
        self.commit = Histogram(metrics.COMMIT.bounds)
        self.commit_records = Histogram(metrics.COMMIT_RECORDS.bounds)
        self.commit_bytes = Histogram(metrics.COMMIT_BYTES.bounds)
        self.run_duration = {cause: Histogram(metrics.RUN_DURATION.bounds) for cause in sorted(metrics.RUN_CAUSES)}
        self.run_queued = Histogram(metrics.RUN_QUEUED.bounds)
        self.loop_delay = Histogram(metrics.LOOP_DELAY.bounds)
        self.loop_delay_max = RecentMax()
