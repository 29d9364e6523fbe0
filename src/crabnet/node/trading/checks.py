"""Runs the checks of seeds on results, in this node's sandbox, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.commands import Checked
from crabnet.core.core import Core
from crabnet.core.effects import CheckOrder, Effects
from crabnet.domain.model import TaskResult
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.market.policies import CheckOutcome
from crabnet.node.durable.committer import Committer
from crabnet.node.faults import Faults
from crabnet.node.part import Job, Part
from crabnet.plain import plain
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.runner import Runner

_FAILED: Final = CheckOutcome(detail="the check failed because of an error in this node: see its events")


class Checks(Part):
    """Runs the checks that the core asks for, and gives it their outcomes."""

    def __init__(
        self, runner: Runner, core: Core, committer: Committer, faults: Faults, clock_ms: Callable[[], int]
    ) -> None:
        self._runner = runner
        self._core = core
        self._committer = committer
        self._faults = faults
        self._clock_ms = clock_ms
        self._orders: BoundedTable[tuple[str, str], CheckOrder] = BoundedTable(limits.PURCHASES_MAX)
        self._came = trio.Event()
        self._turn = trio.Lock()
        self._waiting = 0

    def jobs(self) -> Sequence[Job]:
        """The job that runs the checks that the core asks for."""
        return [Job(self._run, "checks")]

    def on_durable(self, effects: Effects) -> None:
        """Take the checks that the core asks for, each once. There are no more than open purchases."""
        for order in effects.checks:
            self._orders.offer((order.seed_id, order.result_id), order)
        if effects.checks:
            self._came.set()

    async def check(self, command: str, stdout: bytes) -> CheckOutcome:
        """Run a check on ``stdout``. Waits while others run.

        Raises RefusedError (QUEUE_FULL) if ``CHECKS_ON_REQUEST_MAX`` callers wait already.
        """
        if self._waiting >= limits.CHECKS_ON_REQUEST_MAX:
            raise RefusedError(f"{self._waiting} checks wait on this node: try again later", Reason.QUEUE_FULL)
        self._waiting += 1
        try:
            return await self._check(command, stdout)
        finally:
            self._waiting -= 1

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            self._came = trio.Event()
            while (next_ := self._orders.pop_first()) is not None:
                await self._do(next_[1])

    async def _do(self, order: CheckOrder) -> None:
        try:
            result = self._core.record(order.seed_id).result
        except CrabnetError:
            return  # its seed is gone
        if result is None or result.key != order.result_id or not isinstance(result.body, TaskResult):
            return  # something else counts now, and the core knows that
        try:
            outcome = await self._check(order.command, result.body.raw_stdout)
        except Exception:
            self._tell(order, _FAILED)
            raise
        self._tell(order, outcome)

    async def _check(self, command: str, stdout: bytes) -> CheckOutcome:
        request = RunRequest("check", command, limits.CHECK_TIMEOUT_MS, stdin=stdout)
        async with self._turn:
            return outcome_of_check(await self._runner.run(request, trio.Event()))

    def _tell(self, order: CheckOrder, outcome: CheckOutcome) -> None:
        effects = Effects()
        self._core.handle(Checked(order.seed_id, order.result_id, outcome), self._clock_ms(), effects)
        self._committer.enqueue(effects)
        self._faults.take()


def outcome_of_check(outcome: RunOutcome) -> CheckOutcome:
    """What the run of a check says. Only a command that has ended by itself has judged anything."""
    output = plain((outcome.stdout + outcome.stderr)[: limits.CHECK_OUTPUT_CHARS])
    if outcome.refusal is not None:
        return CheckOutcome(detail=f"the check cannot be run here: {outcome.message}")
    if outcome.termination.cause is not Cause.EXITED:
        return CheckOutcome(detail=f"the check gave no answer: {outcome.message}", output=output)
    return CheckOutcome(exit_code=outcome.exit_code, output=output)
