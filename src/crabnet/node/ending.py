"""Doing something until it is done, or until a signal asks the process to end."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import trio

from crabnet.errors import principal
from crabnet.signals import HELD, ending_signals


class Asked(NamedTuple):
    """The process is asked to end: by the first signal in order, by the second one without waiting for runs."""

    to_end: trio.Event
    at_once: trio.Event


async def until_signal(work: Callable[[Asked], Awaitable[None]]) -> int | None:
    """Do ``work``; signals that ask the process to end set the events that it is given.

    From the third signal on they change nothing. After a signal that was held before (``HELD``) nothing is begun.
    Returns the first signal, None if none came. Of several concurrent errors the most telling one is raised
    (``errors.principal``).
    """
    asked = Asked(trio.Event(), trio.Event())
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


async def _note(signals: AsyncIterator[int], came: list[int], asked: Asked) -> None:
    async for number in signals:
        (asked.at_once if came else asked.to_end).set()
        came.append(number)
