"""Lets the policies of the core take their steps as soon as they are due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet.core.commands import Turn
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.node.durable.committer import Committer
from crabnet.node.faults import Faults
from crabnet.node.part import Job, Part


class Trading(Part):
    """Gives the core a turn after each change that is durable. Steps that only wait for a time come with the ticks."""

    def __init__(self, core: Core, committer: Committer, faults: Faults, clock_ms: Callable[[], int]) -> None:
        self._core = core
        self._committer = committer
        self._faults = faults
        self._clock_ms = clock_ms
        self._changed = trio.Event()

    def jobs(self) -> Sequence[Job]:
        """The job that gives turns."""
        return [Job(self._run)]

    def on_durable(self, effects: Effects) -> None:  # noqa: ARG002 - as in Part
        """Something has changed."""
        self._changed.set()

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self._core.trades(self._clock_ms()):
                effects = Effects()
                self._core.handle(Turn(), self._clock_ms(), effects)
                self._committer.enqueue(effects)
                self._faults.take()
