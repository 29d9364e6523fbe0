"""Running claimed commands: started is durable before the process starts, the result before it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from crabnet import limits
from crabnet.core.commands import FinishRun, StartRun
from crabnet.core.effects import FieldValue, Reply, RunOrder
from crabnet.domain.model import TaskResult, Termination, TerminationCause
from crabnet.errors import Reason, RefusedError
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import RunOutcome, RunRequest
from crabnet.runner.policy import Refused, RunnerPolicy, check_command

Perform = Callable[[StartRun | FinishRun], Awaitable[Reply]]
Notify = Callable[[str, dict[str, FieldValue]], None]


class Workshop:
    """The runs of this node. ``perform`` has the core do something and returns when that is durable.

    ``task_of`` gives a seed's command and timeout in milliseconds, or raises RefusedError.
    """

    def __init__(
        self, policy: RunnerPolicy, task_of: Callable[[str], tuple[str, int]], perform: Perform, notify: Notify
    ) -> None:
        self.policy = policy
        self._task_of = task_of
        self._perform = perform
        self._notify = notify
        self._stops: dict[str, trio.Event] = {}
        self._starting: set[str] = set()

    @property
    def running(self) -> int:
        """Commands that run now."""
        return len(self._stops)

    def stop(self, claim_id: str) -> None:
        """End the run of a claim that is over: forfeited by its creator, or settled."""
        event = self._stops.get(claim_id)
        if event is not None:
            event.set()

    async def run(self, seed_id: str, announce: bool) -> TaskResult:
        """Run a seed that was claimed for this node, and state the result. Raises RefusedError, UsageError."""
        if seed_id in self._starting:
            raise RefusedError(f"seed {seed_id} is being run already", Reason.RUN_IN_PROGRESS)
        if len(self._starting) >= limits.RUNS_MAX:
            raise RefusedError(
                f"{limits.RUNS_MAX} commands run already; try again when one has ended", Reason.LIMIT_EXCEEDED
            )
        self._starting.add(seed_id)
        try:
            return await self._run(seed_id, announce)
        finally:
            self._starting.discard(seed_id)

    async def _run(self, seed_id: str, announce: bool) -> TaskResult:
        command, timeout_ms = self._task_of(seed_id)
        if isinstance(check_command(self.policy, command), Refused):
            refused = await run_command(RunRequest("", command, timeout_ms), self.policy)
            result = await self._perform(finish(seed_id, refused, announce))
            if not isinstance(result, TaskResult):
                raise TypeError("FinishRun gives a result")
            self._tell({"seed_id": seed_id, "claim_id": result.claim_id}, refused, result, timeout_ms)
            return result
        order = await self._perform(StartRun(seed_id=seed_id, announce=announce))
        if not isinstance(order, RunOrder):
            raise TypeError("StartRun gives an order")
        stop = self._stops[order.claim_id] = trio.Event()
        ids: dict[str, FieldValue] = {"seed_id": seed_id, "claim_id": order.claim_id, "run_id": order.run_id}
        self._notify("run_started", {**ids, "attempt": order.attempt, "timeout_ms": order.timeout_ms})
        try:
            outcome = await run_command(
                RunRequest(order.run_id, order.command, order.timeout_ms), self.policy, stop=stop
            )
        finally:
            del self._stops[order.claim_id]
        result = await self._perform(finish(seed_id, outcome, announce))
        if not isinstance(result, TaskResult):
            raise TypeError("FinishRun gives a result")
        self._tell(ids, outcome, result, order.timeout_ms)
        return result

    def _tell(self, ids: dict[str, FieldValue], outcome: RunOutcome, result: TaskResult, timeout_ms: int) -> None:
        fields: dict[str, FieldValue] = {**ids, "result_id": result.id}
        if outcome.refusal is not None:
            self._notify(
                "run_refused",
                {**fields, "reason": outcome.refusal.value, "detail": outcome.message[: limits.EVENT_DETAIL_CHARS]},
            )
            return
        end = outcome.termination
        if outcome.timed_out:
            self._notify(
                "run_timed_out",
                {
                    **ids,
                    "timeout_ms": timeout_ms,
                    "duration_ms": outcome.duration_ms,
                    "signal": end.signal,
                    "escalated": end.escalated,
                },
            )
        self._notify(
            "run_finished",
            {
                **fields,
                "exit_code": outcome.exit_code,
                "signal": end.signal,
                "timed_out": outcome.timed_out,
                "duration_ms": outcome.duration_ms,
                "cpu_ms": end.cpu_ms,
                "bytes": outcome.stdout_bytes + outcome.stderr_bytes,
                "truncated": outcome.stdout_truncated or outcome.stderr_truncated,
            },
        )


def finish(seed_id: str, outcome: RunOutcome, announce: bool) -> FinishRun:
    """What the core is told of a run's end."""
    end = outcome.termination
    return FinishRun(
        seed_id=seed_id,
        exit_code=outcome.exit_code,
        timed_out=outcome.timed_out,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        output_hash=outcome.output_hash,
        duration_ms=outcome.duration_ms,
        termination=Termination(
            cause=TerminationCause(end.cause.value),
            signal=end.signal,
            escalated=end.escalated,
            wall_ms=end.wall_ms,
            cpu_ms=end.cpu_ms,
            grace_ms=end.grace_ms,
        ),
        stdout_truncated=outcome.stdout_truncated,
        stderr_truncated=outcome.stderr_truncated,
        refusal=outcome.refusal,
        announce=announce,
    )
