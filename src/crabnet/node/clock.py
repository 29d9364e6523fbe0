"""The node's time: that of the system at the start, and from then on what has passed since, steps left out.

Deadlines, the age of messages and the dates of envelopes all go by this one clock. A step of the system's clock, by a
mistake or by its correction, must not let everything expire at once, or come back to life (docs/adr/0016-leases.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from crabnet import limits


def wall_ms() -> int:
    """Milliseconds since the epoch, by the system's clock."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """Milliseconds that have passed since some moment, the sleep of the machine included where it can be known."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


class ClockStep(NamedTuple):
    """The system's clock was set: by ``step_ms``, and it is ``ahead_ms`` ahead of the node's time now.

    ``followed`` is true if the node's time draws near to it.
    """

    step_ms: int
    ahead_ms: int
    followed: bool


class NodeClock:
    """Call it for the node's time in milliseconds since the epoch; it never goes back while the process lives.

    Small differences to the system's clock, up to ``follow_ms``, are followed at a twentieth of the time that passes;
    larger ones are not, but for one: a clock that was never set (``limits.CLOCK_PLAUSIBLE_FROM_S``) catches up at once
    when it is. The two sources can be given, for tests and simulations.
    """

    def __init__(
        self, follow_ms: int, *, wall: Callable[[], int] = wall_ms, steady: Callable[[], int] = steady_ms
    ) -> None:
        self._follow_ms = follow_ms
        self._wall = wall
        self._steady = steady
        self._offset_ms = wall() - steady()
        self._observed_ms = steady()
        self._ahead_ms = 0

    def __call__(self) -> int:
        """The node's time."""
        return self._steady() + self._offset_ms

    @property
    def ahead_ms(self) -> int:
        """How far the system's clock is ahead of the node's time, negative if it is behind."""
        return self._wall() - self()

    def catch_up(self) -> bool:
        """Take the system's time at once if it is ahead. To be called when it is known to be right."""
        ahead_ms = self.ahead_ms
        if ahead_ms <= 0:
            return False
        self._offset_ms += ahead_ms
        self._ahead_ms = 0
        return True

    def observe(self) -> ClockStep | None:
        """Compare the clocks and draw nearer; to be called several times a second. Returns a step since last time."""
        steady = self._steady()
        passed_ms, self._observed_ms = max(0, steady - self._observed_ms), steady
        ahead_ms = self._wall() - (steady + self._offset_ms)
        step_ms, self._ahead_ms = ahead_ms - self._ahead_ms, ahead_ms
        never_set = self() < limits.CLOCK_PLAUSIBLE_FROM_S * 1000 <= self._wall()
        if never_set and self.catch_up():
            return ClockStep(step_ms, 0, followed=True)
        followed = abs(ahead_ms) <= self._follow_ms
        if followed and ahead_ms:
            most_ms = passed_ms // limits.CLOCK_SLEW_PART
            nearer_ms = max(-most_ms, min(most_ms, ahead_ms))
            self._offset_ms += nearer_ms
            self._ahead_ms -= nearer_ms
        if abs(step_ms) < limits.CLOCK_STEP_MS:
            return None
        return ClockStep(step_ms, ahead_ms, followed)
