"""Decides when a lag is an alert, and when it is over. Pure: the caller passes the time."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

_CLEAR_BELOW: Final = 0.5
"""A lag is over when it is below this share of its threshold."""


class Turn(Enum):
    """What changed."""

    RAISED = auto()
    CLEARED = auto()


class Hysteresis:
    """An alarm that is raised and cleared slowly, so that a value near its threshold does not raise it again and again.

    It is raised when the level was at 1 or above for ``hold_ms`` milliseconds, and cleared when the level was below a
    half for as long. So there are at least ``hold_ms`` between two turns.
    """

    def __init__(self, hold_ms: int) -> None:
        self._hold_ms = hold_ms
        self.raised_ms: int | None = None
        """When the alarm was raised; None while it is not raised."""
        self._turning_ms: int | None = None
        """Since when the level has asked for a turn."""

    def observe(self, level: float, now_ms: int) -> Turn | None:
        """Note the level at ``now_ms``, in milliseconds of any clock. ``level`` is a value divided by its threshold."""
        turns = level >= 1 if self.raised_ms is None else level < _CLEAR_BELOW
        if not turns:
            self._turning_ms = None
            return None
        if self._turning_ms is None or now_ms < self._turning_ms:
            self._turning_ms = now_ms
        if now_ms - self._turning_ms < self._hold_ms:
            return None
        self._turning_ms = None
        if self.raised_ms is None:
            self.raised_ms = now_ms
            return Turn.RAISED
        self.raised_ms = None
        return Turn.CLEARED


def level(value: int, threshold: int) -> float:
    """``value`` as a share of its threshold. 0 if the threshold is 0, which means that there is none."""
    return value / threshold if threshold else 0.0
