"""Doing some work until it is done or a signal asks the process to end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from crabnet.errors import principal
from crabnet.signals import HELD, ending_signals


async def until_signal(work: Callable[[trio.Event], Awaitable[None]]) -> int | None:
    """Do ``work``. It gets an event, which the first signal that asks the process to end sets.

    Further signals change nothing, so an orderly shutdown continues. If a signal was held before this call (``HELD``),
    the work is not begun. Returns the first signal, or None if none came. If several errors occur at the same time, it
    raises the most informative one (``errors.principal``).
    """
    asked = trio.Event()
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


async def _note(signals: AsyncIterator[int], came: list[int], asked: trio.Event) -> None:
    async for number in signals:
        came.append(number)
        asked.set()
