"""The parts of a node and their one life: opened in order, at work, finished in order, closed in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar

import trio

from crabnet.core.effects import Effects
from crabnet.errors import principal
from crabnet.node.failures import failure_of

Run = Callable[[], Awaitable[None]]


class Job(NamedTuple):
    """Something that goes on while a node lives. A job with a ``soft`` name holds nothing but soft state: it is begun
    again after an unexpected error (ADR 27). The failure of any other ends the node.
    """

    run: Run
    soft: str = ""


class Part:
    """What a node is made of. Every step may be left out."""

    async def open(self) -> None:
        """Begin. What has failed here closes itself."""

    def jobs(self) -> Sequence[Job]:
        """What goes on from the time when all parts are open."""
        return ()

    def on_durable(self, effects: Effects) -> None:
        """These effects are durable: now they may be told, sent and served."""

    async def finish(self) -> bool:
        """All jobs have ended, and the parts before this one have finished. Not cancelled.

        False says that memory or disk cannot be trusted any more: the parts after this one are left as they are.
        """
        return True

    async def close(self) -> None:
        """Give back what ``open`` took. Not cancelled; called also when another part did not open."""


class Failures(Protocol):
    """Whoever answers for the failures of jobs."""

    async def contained(self, name: str, job: Run) -> None:
        """Do a soft job; begin it again a while after an unexpected error."""
        ...

    async def failed(self, error: BaseException) -> None:
        """The node ends with this error: nothing more is acknowledged, and those who wait are told."""
        ...


P = TypeVar("P", bound=Part)


class Parts:
    """The parts of one node. To be left by ``close`` once, however far it has come."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._parts: list[Part] = []
        self._jobs: list[Job] = []

    async def add(self, part: P, *, at_work: bool = True) -> P:
        """Open a part, the next one. Without ``at_work`` its jobs are left out."""
        await part.open()
        self._stack.push_async_callback(_uncancelled, part.close)
        self._parts.append(part)
        if at_work:
            self._jobs += part.jobs()
        return part

    def on_durable(self, effects: Effects) -> None:
        """Hand durable effects to all parts."""
        for part in self._parts:
            part.on_durable(effects)

    async def begin(self, write: Run, failures: Failures) -> None:
        """Start the writer, which outlives all jobs: what they do in their last moments becomes durable as well. It has
        to end while the parts finish.
        """
        writing = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.push_async_callback(_uncancelled, self._finish)
        writing.start_soon(_uncancelled, partial(_watched, write, failures))
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(self._nursery.cancel_scope.cancel)
        self._failures = failures

    def work(self) -> None:
        """Start the jobs of all parts."""
        for run, soft in self._jobs:
            job = partial(self._failures.contained, soft, run) if soft else run
            self._nursery.start_soon(_watched, job, self._failures)

    @asynccontextmanager
    async def meanwhile(self, jobs: Sequence[Job]) -> AsyncIterator[None]:
        """Do some jobs for as long as a block lasts."""
        async with trio.open_nursery() as nursery:
            for run, _ in jobs:
                nursery.start_soon(_watched, run, self._failures)
            yield
            nursery.cancel_scope.cancel()

    async def _finish(self) -> None:
        for part in self._parts:
            if not await part.finish():
                return

    async def close(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End all jobs, finish, and close the parts. As ``__aexit__`` of a nursery."""
        return bool(await self._stack.__aexit__(kind, error, traceback))


async def _uncancelled(step: Callable[[], Awaitable[object]]) -> None:
    with trio.CancelScope(shield=True):
        await step()


async def _watched(job: Run, failures: Failures) -> None:
    try:
        await job()
    except BaseException as error:
        failure = failure_of(error)
        if failure is not None:
            await failures.failed(principal(failure))
        raise
