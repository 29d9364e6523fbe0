"""The parts of a node and their life cycle: opened in order, at work, finished in order, closed in reverse order."""

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
    """A background task of a node. A job with a ``soft`` name holds only soft state, so the node starts it again after
    an unexpected error (ADR 27). The failure of any other job ends the node.
    """

    run: Run
    soft: str = ""


class Part:
    """One part of a node. Every method has a default that does nothing."""

    async def open(self) -> None:
        """Open the part. If this fails, it must release what it has taken, since ``close`` is not called then."""

    def jobs(self) -> Sequence[Job]:
        """The jobs to run once all parts are open."""
        return ()

    def on_durable(self, effects: Effects) -> None:
        """Report, send and serve what these effects ask for: they are durable."""

    async def finish(self) -> bool:
        """Do the last work, after all jobs have ended and the earlier parts have finished. Not cancelled.

        Returns False if memory or disk cannot be trusted any more. The later parts do not finish then.
        """
        return True

    async def close(self) -> None:
        """Release what ``open`` took. Not cancelled. It is also called if another part did not open."""


class Failures(Protocol):
    """Handles the failures of jobs."""

    async def contained(self, name: str, job: Run) -> None:
        """Do a soft job, and start it again a while after an unexpected error."""
        ...

    async def failed(self, error: BaseException) -> None:
        """Handle an error that ends the node: acknowledge nothing more, and fail the operations that wait."""
        ...


P = TypeVar("P", bound=Part)


class Parts:
    """The parts of one node. Call ``close`` exactly once, however far the start has come."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._parts: list[Part] = []
        self._jobs: list[Job] = []

    async def add(self, part: P, *, at_work: bool = True) -> P:
        """Open the next part. Without ``at_work`` its jobs do not run."""
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
        """Start the writer. It outlives all jobs, so that their last effects become durable too. It must end while the
        parts finish.
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
        """Do some jobs while a block runs."""
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
        """End all jobs, then finish and close the parts. The arguments and the result are those of ``__aexit__``."""
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
