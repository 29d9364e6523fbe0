"""The node's time: the system's time at the start plus the time that has passed since. Steps of the system's clock are
left out.

Deadlines, the age of messages and the dates of envelopes all use this one clock. The system's clock may be set wrong
and corrected again. Such a step must neither let everything expire at once nor re-open what has expired
(docs/adr/0016-leases.md).
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
    """Milliseconds that have passed since some fixed moment. They include the suspend time of the machine where the
    system can tell it (CLOCK_BOOTTIME).
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


class ClockStep(NamedTuple):
    """The system's clock was set by ``step_ms`` and is ``ahead_ms`` ahead of the node's time.

    ``followed`` is true if the node's time follows the system's clock.
    """

    step_ms: int
    ahead_ms: int
    followed: bool


class NodeClock:
    """Call it for the node's time in milliseconds since the epoch. The time never goes back while the process lives.

    The node's time follows differences to the system's clock of up to ``follow_ms``, at a twentieth of the time that
    passes. It does not follow larger ones, with one exception: if the system's clock was never set before
    (``limits.CLOCK_PLAUSIBLE_FROM_S``), the node's time catches up at once when it is set. Tests and simulations can
    give the two sources ``wall`` and ``steady``.
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
        """How many milliseconds the system's clock is ahead of the node's time; negative if it is behind."""
        return self._wall() - self()

    def catch_up(self) -> bool:
        """Take over the system's time at once if it is ahead. Call this only when the system's time is known to be
        right. Returns whether it was ahead.
        """
        ahead_ms = self.ahead_ms
        if ahead_ms <= 0:
            return False
        self._offset_ms += ahead_ms
        self._ahead_ms = 0
        return True

    def observe(self) -> ClockStep | None:
        """Compare the clocks and follow the system's clock. Call this several times a second. Returns a step since the
        last call, None without one.
        """
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
