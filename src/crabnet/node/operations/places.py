"""How many clients of the control socket are served at once (run-4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.operations.table import BY_NAME

T = TypeVar("T")
_LONG: Final = frozenset(name for name, operation in BY_NAME.items() if operation.waits)
"""Operations that wait for something to happen."""


class Places:
    """Counts the clients that are served at once, and the requests of each long method (run-4)."""

    def __init__(self) -> None:
        self.short = trio.Semaphore(limits.CONTROL_CONNECTIONS_MAX)
        self.long: Counter[str] = Counter()
        self._left = trio.Event()

    def leave(self, method: str) -> None:
        """A long request was answered, or its client is gone."""
        self.long[method] -= 1
        left, self._left = self._left, trio.Event()
        left.set()

    async def answered(self, method: str) -> None:
        """Wait until no request of a long method is under way."""
        while self.long[method]:
            await self._left.wait()

    async def free(self) -> None:
        """Wait until one more client may be served."""
        await self.short.acquire()
        self.short.release()


class Place:
    """The place of one client. It is released while a long request waits, so that short requests and ``seed.cancel``
    never wait for other long ones.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._held = False
        self._long = ""

    async def hold(self) -> None:
        """Wait for a place, unless this client has one."""
        if not self._held:
            await self._places.short.acquire()
            self._held = True

    def let_go(self) -> None:
        """Release the place for another client."""
        if self._held:
            self._held = False
            self._places.short.release()

    async def during(self, method: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of a method. Raises RefusedError (LIMIT_EXCEEDED) if too many requests of a long method wait
        already, and the errors of the work.
        """
        if method not in _LONG:
            await self.hold()
            return await work()
        if self._places.long[method] >= limits.CONTROL_WAITING_MAX:
            raise RefusedError(
                f"{limits.CONTROL_WAITING_MAX} clients already wait for {method}; try again later",
                Reason.LIMIT_EXCEEDED,
            )
        self._places.long[method] += 1
        self._long = method
        self.let_go()
        return await work()

    def answered(self) -> None:
        """The client has its answer, or is gone."""
        if self._long:
            method, self._long = self._long, ""
            self._places.leave(method)
