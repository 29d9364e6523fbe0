"""Doing something until it is done, or until a signal asks the process to end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from crabnet.errors import principal
from crabnet.signals import HELD, ending_signals


async def until_signal(work: Callable[[trio.Event], Awaitable[None]]) -> int | None:
    """Do ``work``; the event that it is given is set by the first signal that asks the process to end.

    Further signals change nothing: what has begun to end goes on in order. After a signal that was held before
    (``HELD``) nothing is begun. Returns the first signal, None if none came. Of several concurrent errors the most
    telling one is raised (``errors.principal``).
    """
    asked = trio.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
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
