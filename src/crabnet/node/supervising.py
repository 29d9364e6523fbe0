"""Restarting a node after an unexpected error. The memory is discarded and the journal is read again."""

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
    """One life of a node, from its start to its end: its input, and the address that it sets once it is open."""

    settings: Settings
    restarts: int = 0
    """How many restarts there were within the window."""
    cause: str = ""
    """A brief description of the error that ended the previous life."""
    address: str | None = None
    """The address on which the node listens; None until it is open."""
    paused: bool = False
    """No run is to start. The node of the next life is paused, too."""


class Restarts:
    """Allows at most ``at_most`` restarts of a node within ``window_s`` seconds."""

    def __init__(self, at_most: int, window_s: int) -> None:
        self._at_most = at_most
        self._window_s = window_s
        self._at_s: deque[float] = deque()

    def allowed(self, now_s: float) -> int:
        """Count a restart at ``now_s``, in seconds of any steady clock. Returns the number of restarts within the
        window including this one, or 0 if this restart is not allowed.
        """
        while self._at_s and self._at_s[0] <= now_s - self._window_s:
            self._at_s.popleft()
        if len(self._at_s) >= self._at_most:
            return 0
        self._at_s.append(now_s)
        return len(self._at_s)


async def supervised(
    live: Callable[[Life], Awaitable[None]], settings: Settings, log: Callable[[str], None], asked: trio.Event
) -> None:
    """Run ``live`` until it returns. After an unexpected error run it again, at the same address.

    These errors are raised at once: those that Crabnet raises on purpose (storage, data dir, network, usage), any error
    while a node opens, and any error after ``asked`` is set. There is one exception: a restart waits a while for a data
    dir that is busy. Raises NodeFailingError after too many restarts.
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
                f" {settings.restarts_window_s} s, and more restarts are not allowed; quarantine/ in the data dir holds"
                " the traceback"
            ) from failure
        log(f"{cause}; the node restarts from its journal (restart {count} of {settings.restarts_max})")
        life = Life(replace(settings, listen_addr=life.address), count, cause, paused=life.paused)
        # While no node runs, a one-shot command may hold the data dir. The restart waits for it.
        busy_until_s = trio.current_time() + limits.RESTART_DELAY_S + settings.lock_wait_ms / 1000
        del failure
        gc.collect()  # frees the memory of the last life
        with trio.move_on_after(limits.RESTART_DELAY_S):
            await asked.wait()


async def _lived(live: Callable[[Life], Awaitable[None]], life: Life) -> Exception | None:
    """Run one life. Returns the error that ended it, None if it ended cleanly. Interruptions are raised."""
    try:
        await live(life)
    except (Exception, BaseExceptionGroup) as error:
        first = principal(error)
        if not isinstance(first, Exception) or isinstance(first, BrokenPipeError):
            raise
        return first
    return None
