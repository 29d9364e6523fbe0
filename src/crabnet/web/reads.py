"""Answers equal reads that come at the same time with one request to the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple


class Answer(NamedTuple):
    """A JSON document and its entity tag."""

    body: bytes
    etag: str


def answer_of(body: bytes) -> Answer:
    """A document with the tag that follows from its content."""
    return Answer(body, f'"{blake2b(body, digest_size=12).hexdigest()}"')


class Reads:
    """Reads in turns: while one goes on, equal ones that come later share the next one.

    So no answer is older than the request for it, and a write that a client has made is in every answer to its later
    reads. Only a read with ``fresh_ms`` may be answered as one was so long before, unless ``written`` was called since.
    The number of entries is bounded by the number of requests under way, and of the operations with ``fresh_ms``.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[float, Answer]] = {}
        self._writes = 0
        self._running: dict[bytes, asyncio.Task[Answer]] = {}
        self._next: dict[bytes, asyncio.Task[Answer]] = {}

    def written(self) -> None:
        """Something has changed through this process."""
        self._writes += 1
        self._kept.clear()

    async def get(self, key: bytes, fetch: Callable[[], Awaitable[bytes]], fresh_ms: int = 0) -> Answer:
        """The answer to a read that begins after this call. Raises the errors of ``fetch``.

        ``fresh_ms`` is only for keys of which there are few.
        """
        if fresh_ms:
            kept = self._kept.get(key)
            age_ms = fresh_ms if kept is None else (asyncio.get_running_loop().time() - kept[0]) * 1000
            if kept is not None and age_ms < fresh_ms:
                # The next answer is fetched before it is needed, so nobody waits for it.
                if age_ms > fresh_ms / 2 and key not in self._running:
                    self._soon(key, fetch, keeps=True)
                return kept[1]
        return await asyncio.shield(self._soon(key, fetch, keeps=bool(fresh_ms)))

    def _soon(self, key: bytes, fetch: Callable[[], Awaitable[bytes]], *, keeps: bool) -> asyncio.Task[Answer]:
        """The next read, which has not begun."""
        task = self._next.get(key)
        if task is None:
            task = asyncio.create_task(self._turn(key, self._running.get(key), fetch, keeps=keeps))
            self._next[key] = task
            task.add_done_callback(_seen)
        return task

    async def _turn(
        self, key: bytes, before: asyncio.Task[Answer] | None, fetch: Callable[[], Awaitable[bytes]], *, keeps: bool
    ) -> Answer:
        if before is not None:
            await asyncio.wait([before])
        mine = self._running[key] = self._next.pop(key)
        begun, writes = asyncio.get_running_loop().time(), self._writes
        try:
            answer = answer_of(await fetch())
            if keeps and writes == self._writes:
                self._kept[key] = (begun, answer)
            return answer
        finally:
            if self._running.get(key) is mine:
                del self._running[key]


def _seen(task: asyncio.Task[Answer]) -> None:
    """An error whose clients have all left is nobody's business any more."""
    if not task.cancelled():
        task.exception()
