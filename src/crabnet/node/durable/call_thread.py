"""A dedicated thread for one kind of blocking call.

Handing a call to ``trio.to_thread`` and back costs two waits on locks of the interpreter and a trio task. Here both
sides wait in the kernel for a byte, and the loop wakes only the waiting task. That takes about half as long. The
difference matters because each call takes only a few hundred microseconds and a task waits for each.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import trio

_WAKE: Final = b"\0"

T = TypeVar("T")


class CallThread(Generic[T]):
    """Runs one call at a time while the block runs. A call that has begun is not cancelled."""

    def __init__(self, name: str) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._call: Callable[[], T] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def run_sync(self, call: Callable[[], T]) -> T:
        """The result of ``call()``, or its exception. Only one task at a time may call this."""
        self._call = call
        self._ours.send(_WAKE)
        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(self._ours)
        self._ours.recv(1)
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result  # type: ignore[return-value]  # set by the thread, whatever T is

    def _work(self) -> None:
        with self._theirs, suppress(OSError):  # the other side is gone
            while self._theirs.recv(1):
                call, self._call = self._call, None
                if call is None:
                    return
                try:
                    self._result = call()
                except BaseException as error:  # noqa: BLE001 - raised again in the waiting task
                    self._error = error
                del call
                self._theirs.send(_WAKE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ours.close()
