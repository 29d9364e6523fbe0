"""The newest items of a stream, kept once for all clients that follow it without conditions.

Each client begins with a stream of its own from the node. When that has caught up, the client goes on here. So the node
and the framing cost the same for any number of clients. A client that falls behind what is kept goes back to a stream
of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import takewhile
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.errors import CrabnetError, Reason

AWAY: Final = frozenset({Reason.NODE_UNREACHABLE, Reason.NODE_STOPPING})
"""Reasons for which a stream goes on when the node is back."""


class Kept(NamedTuple):
    """An item as it is sent. ``place`` is where a client continues behind it; without a frame it is all."""

    place: int
    frame: bytes


Feed = Callable[[int | None, Callable[[list[Kept]], None]], Awaitable[None]]
"""Passes on what comes behind a place (None: from now on) until the node ends the stream. Raises CrabnetError."""


class Tail:
    """The newest items. ``feed`` gets them from the node while there are readers."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        self._base: int | None = None
        """All items behind this place are kept, up to ``_last``. None: nothing has come yet."""
        self._last: int | None = None
        self._joined: tuple[int, Kept] | None = None
        """The place for which ``behind`` was asked last, and its answer."""
        self._more = asyncio.Event()
        self._readers = 0
        self._job: asyncio.Task[None] | None = None

    def join(self) -> None:
        """A client begins to follow."""
        self._readers += 1
        if self._job is None:
            self._job = asyncio.create_task(self._run())

    def leave(self) -> None:
        """A client has ended."""
        self._readers -= 1
        if not self._readers and self._job is not None:
            self._job.cancel()
            self._job = None
            self._forget()

    def covers(self, place: int) -> bool:
        """Whether a client at this place can go on here."""
        return self._base is not None and self._last is not None and self._base <= place <= self._last

    def behind(self, place: int) -> Kept | None:
        """The items behind a place that is covered, about WEB_STREAM_SEND_BYTES of them as one. None: there are none.

        Clients at one place share it.
        """
        if self._joined is not None and self._joined[0] == place:
            return self._joined[1]
        behind = list(takewhile(lambda kept: kept.place > place, reversed(self._kept)))
        if not behind:
            return None
        frames: list[bytes] = []
        size = 0
        while behind and size < limits.WEB_STREAM_SEND_BYTES:
            kept = behind.pop()
            frames.append(kept.frame)
            size += len(kept.frame)
        joined = Kept(kept.place, b"".join(frames))
        self._joined = place, joined
        return joined

    async def more(self, wait_ms: int) -> None:
        """Wait until further items come, at most ``wait_ms``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                await self._more.wait()

    async def _run(self) -> None:
        while True:
            try:
                await self._feed(self._last, self._take)
            except CrabnetError as error:
                if error.reason not in AWAY:
                    self._give_up()
            except Exception:  # noqa: BLE001 - the streams of the readers meet the same error and report it
                self._give_up()
            await asyncio.sleep(limits.WEB_STREAM_RETRY_MS / 1000)

    def _give_up(self) -> None:
        """Send the readers back to streams of their own."""
        self._forget()
        self._wake()

    def _take(self, items: list[Kept]) -> None:
        for item in items:
            if self._last is not None and item.place <= self._last:  # the ids have begun anew
                self._forget()
            if self._base is None:
                self._base = item.place - 1 if item.frame else item.place
            self._last = item.place
            if item.frame:
                self._kept.append(item)
                self._bytes += len(item.frame)
        while len(self._kept) > limits.WEB_TAIL_ITEMS_MAX or self._bytes > limits.WEB_TAIL_BYTES_MAX:
            gone = self._kept.popleft()
            self._bytes -= len(gone.frame)
            self._base = gone.place
        self._wake()

    def _wake(self) -> None:
        self._joined = None
        more, self._more = self._more, asyncio.Event()
        more.set()

    def _forget(self) -> None:
        self._joined = None
        self._kept.clear()
        self._bytes, self._base, self._last = 0, None, None
