"""Signals that ask a process to end, kept until somebody can act on them.

``crabnet`` holds them before it does anything else: a node that is told to end while it starts ends in order. Only the
standard library, since every command imports this first.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def ending_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP unless that is ignored (nohup)."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP]


class HeldSignals:
    """From ``hold`` on, a signal is noted in ``came`` and does nothing else."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._before: dict[int, signal._HANDLER] = {}

    def hold(self) -> None:
        """Begin. Outside of the main thread, where Python takes no handlers, nothing is held."""
        if self._before:
            return
        try:
            for number in ending_signals():
                self._before[number] = signal.signal(number, self._note)
        except ValueError:
            self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.came.append(number)

    def ignore(self) -> None:
        """The process ends now. Python drops its handlers before its last steps; what is ignored stays ignored."""
        try:
            for number in ending_signals():
                signal.signal(number, signal.SIG_IGN)
        except ValueError:
            return  # not the main thread

    def release(self) -> None:
        """Let signals do again what they did before, those that came meanwhile first."""
        before, self._before = self._before, {}
        for held, handler in before.items():
            signal.signal(held, handler)
        came, self.came = self.came, []
        for number in came:
            signal.raise_signal(number)


HELD: Final = HeldSignals()
"""Those of this process."""
