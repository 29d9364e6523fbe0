"""Doing some work until it is done or a signal asks the process to end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from crabnet.errors import principal
from crabnet.signals import HELD, ending_signals


@dataclass(slots=True)
class Asked:
    """The process is asked to end: by the first signal in order, by the second one without waiting for runs.

    ``drain_ms`` is how long runs may go on, in milliseconds. None: as long as the settings say.
    """

    to_end: trio.Event = field(default_factory=trio.Event)
    at_once: trio.Event = field(default_factory=trio.Event)
    drain_ms: int | None = None

    def end(self, drain_ms: int) -> bool:
        """Ask the process to end, with ``drain_ms`` for its runs. False if it was asked before."""
        if self.to_end.is_set():
            return False
        self.drain_ms = drain_ms
        self.to_end.set()
        return True


async def until_signal(work: Callable[[Asked], Awaitable[None]]) -> int | None:
    """Do ``work``. It gets events, which the first and the second signal that ask the process to end set.

    Further signals change nothing, so an orderly shutdown continues. If a signal was held before this call (``HELD``),
    the work is not begun. Returns the first signal, or None if none came. If several errors occur at the same time, it
    raises the most informative one (``errors.principal``).
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        await work(asked)
        return None
    try:
        with trio.open_signal_receiver(*ending_signals()) as signals:
            came = list(HELD.came)
            if came:
                return came[0]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_note, signals, came, asked)
                await work(asked)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise principal(group) from group
    return came[0] if came else None


async def _note(signals: AsyncIterator[int], came: list[int], asked: Asked) -> None:
    async for number in signals:
        (asked.at_once if came else asked.to_end).set()
        came.append(number)
