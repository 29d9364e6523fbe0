"""Signals that ask a process to end, held until the process can act on them.

``crabnet`` holds them before it does anything else. So a node that is asked to end while it starts shuts down in order.
This module uses only the standard library, because every command imports it first.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def ending_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP unless it is ignored (nohup)."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP]


class HeldSignals:
    """After ``hold``, a signal is only noted in ``came``."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._before: dict[int, signal._HANDLER] = {}

    def hold(self) -> None:
        """Begin to hold signals. Outside of the main thread Python accepts no handlers, so nothing is held."""
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
        """Ignore signals, because the process ends now. Python drops its handlers before its last steps, but ignored
        signals stay ignored.
        """
        try:
            for number in ending_signals():
                signal.signal(number, signal.SIG_IGN)
        except ValueError:
            return  # not the main thread

    def release(self) -> None:
        """Restore the earlier handlers, then raise the signals that came meanwhile."""
        before, self._before = self._before, {}
        for held, handler in before.items():
            signal.signal(held, handler)
        came, self.came = self.came, []
        for number in came:
            signal.raise_signal(number)


HELD: Final = HeldSignals()
"""The held signals of this process."""
