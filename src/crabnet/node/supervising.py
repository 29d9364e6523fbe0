"""Starting a node again after an error that nobody expected: memory is thrown away, the journal is read anew."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from crabnet import limits
from crabnet.core.mending import ReplicaFailedError
from crabnet.errors import CrabnetError, DataDirBusyError, NodeFailingError, principal
from crabnet.node.faults import brief
from crabnet.settings import Settings


@dataclass
class Life:
    """One life of a node: what it is to know, and what it tells once it has opened."""

    settings: Settings
    restarts: int = 0
    """How many there were within the window."""
    cause: str = ""
    """The error that ended the life before, in a few words."""
    address: str | None = None
    """Where it listens; None until it has opened."""


class Restarts:
    """Lets a node be started again ``at_most`` times within ``window_s`` seconds."""

    def __init__(self, at_most: int, window_s: int) -> None:
        self._at_most = at_most
        self._window_s = window_s
        self._at_s: deque[float] = deque()

    def allowed(self, now_s: float) -> int:
        """The number of restarts within the window with this one; 0 if it may not be. Seconds of any steady clock."""
        while self._at_s and self._at_s[0] <= now_s - self._window_s:
            self._at_s.popleft()
        if len(self._at_s) >= self._at_most:
            return 0
        self._at_s.append(now_s)
        return len(self._at_s)


async def supervised(
    live: Callable[[Life], Awaitable[None]], settings: Settings, log: Callable[[str], None], asked: trio.Event
) -> None:
    """Have a node ``live`` until that returns, again after an unexpected error, at the same address.

    Raises at once what Crabnet raises on purpose (storage, data dir, network, usage), what happens while a node opens,
    and what happens once it is ``asked`` to end. Raises NodeFailingError when there were too many restarts.
    """
    restarts = Restarts(settings.restarts_max, settings.restarts_window_s)
    life = Life(settings)
    busy_until_s = 0.0
    while True:
        failure = await _lived(live, life)
        if failure is None:
            return
        if isinstance(failure, DataDirBusyError) and life.address is None and trio.current_time() < busy_until_s:
            await trio.sleep(limits.RESTART_BUSY_MS / 1000)
            continue
        if life.address is None or asked.is_set() or isinstance(failure, CrabnetError):
            raise failure
        cause = brief(failure.cause if isinstance(failure, ReplicaFailedError) else failure)
        count = restarts.allowed(trio.current_time())
        if not count:
            raise NodeFailingError(
                f"{cause}; the node was restarted {settings.restarts_max} times within"
                f" {settings.restarts_window_s} s, which is as often as it may be; quarantine/ in the data dir has the"
                " traceback"
            ) from failure
        log(f"{cause}; the node starts again from its journal ({count} of {settings.restarts_max})")
        life = Life(replace(settings, listen_addr=life.address), count, cause)
        # Commands work on the data dir themselves while no node does: they are waited for.
        busy_until_s = trio.current_time() + limits.RESTART_DELAY_S + settings.lock_wait_ms / 1000
        del failure
        _forget_the_last()
        with trio.move_on_after(limits.RESTART_DELAY_S):
            await asked.wait()


async def _lived(live: Callable[[Life], Awaitable[None]], life: Life) -> Exception | None:
    """The error that ended a life, None if it ended in order. Interruptions pass."""
    try:
        await live(life)
    except (Exception, BaseExceptionGroup) as error:
        first = principal(error)
        if not isinstance(first, Exception) or isinstance(first, BrokenPipeError):
            raise
        return first
    return None


def _forget_the_last() -> None:
    """What opening a data dir has kept from the collector of cycles is garbage now."""
    gc.unfreeze()
    gc.collect()
