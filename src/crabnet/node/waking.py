"""Facts that sleep in the journal come back once what they wait for counts."""

from __future__ import annotations

from collections.abc import Callable

import trio

from crabnet import limits
from crabnet.core.commands import Roused
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import CrabnetError
from crabnet.node.committer import Committer
from crabnet.node.indexing import History

_NOWHERE = ("", 0)


class Waker:
    """One task. What is roused stays in the replica's list, and so in checkpoints, until all that waited is judged."""

    def __init__(
        self,
        core: Core,
        history: History,
        committer: Committer,
        notify: Callable[[str, dict[str, FieldValue]], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._core = core
        self._history = history
        self._committer = committer
        self._notify = notify
        self._clock_ms = clock_ms
        self._roused = trio.Event()
        self._roused.set()

    def rouse(self) -> None:
        """Something counts that facts may wait for, and that is durable."""
        self._roused.set()

    async def run(self) -> None:
        """Wake what is to be woken until cancelled. A history that cannot be read is tried again later."""
        while True:
            await self._roused.wait()
            self._roused = trio.Event()
            for parent in list(self._core.replica.dormancy.restless):
                try:
                    await self._wake(parent)
                except CrabnetError as error:
                    self._notify("job_failed", {"job": "wake", "reason": error.reason.value, "detail": error.message})
                    await trio.sleep(limits.WAKE_RETRY_S)
                    break
            if self._core.replica.dormancy.restless:
                self.rouse()

    async def _wake(self, parent: str) -> None:
        since = self._core.replica.dormancy.moves
        await self._committer.submit(Effects())  # what fell asleep before is in the journal, and so in the index
        after: tuple[str, int] | None = _NOWHERE
        while after is not None:
            envelopes, after = await trio.to_thread.run_sync(self._history.asleep, parent, after)
            effects = Effects()
            self._core.handle(Roused(parent, tuple(envelopes), after is None, since), self._clock_ms(), effects)
            await self._committer.submit(effects)
