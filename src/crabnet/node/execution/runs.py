"""Runs claimed commands. The start is durable before the process starts, and the result before it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.core.commands import FinishRun, RenewRun, RequestTag, StartRun
from crabnet.core.effects import EndedClaim, FieldValue, Reply, RunOrder
from crabnet.domain.model import SeedStatus, TaskResult
from crabnet.errors import PASSING, CrabnetError, Reason, RefusedError
from crabnet.monitor.meters import Meters
from crabnet.node.execution.task import Task, finish, not_begun
from crabnet.node.execution.turns import Place, Turns
from crabnet.runner.outcome import Cause, RunOutcome
from crabnet.runner.runner import Runner

Perform = Callable[[StartRun | RenewRun | FinishRun], Awaitable[Reply]]
Notify = Callable[[str, dict[str, FieldValue]], None]


class Stage(StrEnum):
    """The stage of a run."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


class RunView(NamedTuple):
    """A run of this node as its operator sees it: its stage, its place in the queue from 1, and the stage's age."""

    stage: Stage
    position: int | None
    since_ms: int


class Drained(NamedTuple):
    """What became of the runs of a node that stops: those that ended by themselves, and those that were ended."""

    finished: int
    ended: int


@dataclass(slots=True)
class Drain:
    """What became of the runs of a node that ends. Known once ``done`` is set."""

    done: trio.Event = field(default_factory=trio.Event)
    runs: Drained | None = None
    duration_ms: int = 0


class RunManagerConfig(NamedTuple):
    """Bounds of a run manager."""

    runs_max: int
    queue_max: int
    lease_ms: int


class _Job:
    """One run, from the request to its end."""

    def __init__(self, seed_id: str, task: Task, request: RequestTag | None = None) -> None:
        self.seed_id = seed_id
        self.task = task
        self._request = request
        self.stage = Stage.QUEUED
        self.since = trio.current_time()
        self.go_on = trio.Event()
        """Set when the run may start, or must end."""
        self.stop = trio.Event()
        self.done = trio.Event()
        self.cancelled: Reason | None = None
        self.status: SeedStatus | None = None

    def take_request(self) -> RequestTag | None:
        """The caller's request, for the first envelope of the run only."""
        request, self._request = self._request, None
        return request

    def was_ended(self, reason: Reason) -> bool:
        """Whether it is to end before its time for this reason."""
        return self.cancelled is reason

    def end(self, reason: Reason, status: SeedStatus | None = None) -> None:
        """Make the run end early. The reason CLAIM_OVER replaces other reasons and is not replaced."""
        if not self.was_ended(Reason.CLAIM_OVER):
            self.cancelled, self.status = reason, status
        self.go_on.set()
        self.stop.set()


class RunManager:
    """The runs of this node. ``perform`` lets the core do an operation and returns when it is durable.

    ``task_of`` returns the task of a seed that may be run now, or raises RefusedError. ``holds(seed_id, claim_id)``
    returns whether that claim still awaits a result. ``changed`` is called when a run reaches another stage.
    """

    def __init__(
        self,
        runner: Runner,
        config: RunManagerConfig,
        task_of: Callable[[str], Task],
        holds: Callable[[str, str], bool],
        perform: Perform,
        notify: Notify,
        changed: Callable[[], None],
        meters: Meters | None = None,
    ) -> None:
        self.runner = runner
        self.turns = Turns(config.runs_max, config.queue_max)
        self._lease_ms = config.lease_ms
        self._task_of = task_of
        self._holds = holds
        self._perform = perform
        self._notify = notify
        self._changed = changed
        self._meters = Meters() if meters is None else meters
        self._jobs: dict[str, _Job] = {}
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """True after ``take_no_more``: the node is about to end."""
        return self._stopping

    @property
    def room(self) -> int:
        """How many further runs may enter: places for runs and in the queue that are free."""
        turns = self.turns
        places = 0 if turns.paused else turns.runs_max - turns.running
        return max(0, places + turns.queue_max - turns.queued)

    def take_no_more(self) -> None:
        """Refuse further runs."""
        self._stopping = True

    def pause(self) -> None:
        """Start no run until ``resume``. Those that go on are not affected."""
        self.turns.paused = True
        self._changed()

    def resume(self) -> None:
        """Let runs start again."""
        self.turns.paused = False
        self._start(self.turns.admit())
        self._changed()

    def _start(self, admitted: list[str]) -> None:
        for seed_id in admitted:
            self._jobs[seed_id].go_on.set()

    def view(self, seed_id: str) -> RunView | None:
        """The state of a seed's run on this node, or None if there is none."""
        job = self._jobs.get(seed_id)
        if job is None:
            return None
        since_ms = round((trio.current_time() - job.since) * 1000)
        return RunView(job.stage, self.turns.position(seed_id), since_ms)

    def views(self) -> list[tuple[str, Task, RunView]]:
        """All runs of this node with their seed and task: those that go on, then those that wait, in their order."""
        found = [(seed_id, job.task, view) for seed_id, job in self._jobs.items() if (view := self.view(seed_id))]
        return sorted(found, key=lambda each: each[2].position or 0)

    def ended(self, claim: EndedClaim) -> None:
        """End the run of a claim that is over: its creator has withdrawn or forfeited it, or it has a result."""
        job = self._jobs.get(claim.seed_id)
        if job is not None and job.task.claim_id == claim.claim_id:
            job.end(Reason.CLAIM_OVER, claim.status)

    async def cancel(self, seed_id: str) -> Stage:
        """End a run of this node early, and wait until it has ended. Returns the stage that it was in.

        A run that had begun then has a result with the cause ``cancelled``. A run that waited has none. Raises
        RefusedError.
        """
        job = self._jobs.get(seed_id)
        if job is None:
            raise RefusedError(f"seed {seed_id} neither runs nor waits on this node: there is nothing to cancel")
        stage = job.stage
        if stage is Stage.ENDING:
            raise RefusedError(f"the run of seed {seed_id} has already ended, and its result is about to be published")
        job.end(Reason.RUN_CANCELLED)
        await job.done.wait()
        return stage

    async def run(self, seed_id: str, announce: bool, request: RequestTag | None = None) -> TaskResult:
        """Wait for the turn of a seed that was claimed for this node, run it, and state the result.

        Raises RefusedError: with RUN_CANCELLED or CLAIM_OVER for a run that was ended and has no result, and with
        NODE_STOPPING after ``drain`` was called.
        """
        if self._stopping:
            raise RefusedError("the node is stopping: run the seed after it has started again", Reason.NODE_STOPPING)
        if seed_id in self._jobs:
            raise RefusedError(f"seed {seed_id} is already running or waiting", Reason.RUN_IN_PROGRESS)
        job = _Job(seed_id, self._task_of(seed_id), request)
        refused = self.runner.objection(job.task.request()) is not None
        place = Place.RUNS if refused else self.turns.enter(seed_id, job.task.publisher)
        if place is Place.FULL:
            raise RefusedError(
                f"already {self.turns.running} commands run and {self.turns.queued} wait: try again when one has ended",
                Reason.QUEUE_FULL,
            )
        self._jobs[seed_id] = job
        try:
            if place is Place.WAITS:
                ids: dict[str, FieldValue] = {"seed_id": seed_id, "claim_id": job.task.claim_id}
                self._notify("run_queued", {**ids, "count": self.turns.queued})
                self._changed()
                await job.go_on.wait()
            return await self._run(job, announce)
        finally:
            del self._jobs[seed_id]
            self._start(self.turns.leave(seed_id, job.task.publisher))
            job.done.set()
            self._changed()

    async def drain(self, drain_ms: int, at_once: trio.Event) -> Drained:
        """Take no more runs, and wait for the running ones to end, at most ``drain_ms`` or until ``at_once``.

        The runs in the queue end at once, and those that still run after the wait end then. Their results say that this
        worker failed (ADR 31). The time is bounded. If a result cannot be stated by then,
        the next start records a begun run as interrupted, and the claim of a run that waited stays as it is.
        """
        self.take_no_more()
        total = len(self._jobs)
        ended = [job for job in self._jobs.values() if job.stage is Stage.QUEUED]
        for job in ended:
            job.end(Reason.NODE_STOPPING)
        with trio.move_on_after(drain_ms / 1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, at_once, nursery.cancel_scope)
                await self._all_done()
                nursery.cancel_scope.cancel()
        cut = [job for job in self._jobs.values() if job not in ended and job.stage is not Stage.ENDING]
        for job in cut:
            job.end(Reason.NODE_STOPPING)
        with trio.move_on_after(limits.RUN_END_WAIT_MS / 1000):
            await self._all_done()
        return Drained(total - len(ended) - len(cut), len(ended) + len(cut))

    async def _all_done(self) -> None:
        for job in list(self._jobs.values()):
            await job.done.wait()

    def _enter(self, job: _Job, stage: Stage) -> None:
        job.stage, job.since = stage, trio.current_time()
        self._changed()

    async def _run(self, job: _Job, announce: bool) -> TaskResult:
        seed_id, task = job.seed_id, job.task
        ids: dict[str, FieldValue] = {"seed_id": seed_id, "claim_id": task.claim_id}
        if job.was_ended(Reason.NODE_STOPPING):
            return await self._finish(job, ids, not_begun(), announce)
        if job.cancelled is not None:
            raise self._given_up(job, ids, None)
        self._meters.run_queued.observe(trio.current_time() - job.since)
        self._enter(job, Stage.STARTING)
        refused = await self.runner.refusal(task.request())
        if refused is not None:
            return await self._finish(job, ids, refused, announce)
        if job.was_ended(Reason.NODE_STOPPING):
            return await self._finish(job, ids, not_begun(), announce)
        lease_ms = max(self._lease_ms, -(-task.timeout_ms // limits.RUN_LEASES_PER_TIMEOUT))
        request = job.take_request()
        order = await self._perform(StartRun(seed_id=seed_id, lease_ms=lease_ms, announce=announce, request=request))
        if not isinstance(order, RunOrder):
            raise TypeError("StartRun gives an order")
        ids["run_id"] = order.run_id
        self._notify("run_started", {**ids, "attempt": order.attempt, "timeout_ms": order.timeout_ms})
        if self.runner.unsandboxed:
            self._notify("run_unsandboxed", {**ids, "detail": "it has the rights of this node's user"})
        if job.was_ended(Reason.CLAIM_OVER):
            raise self._given_up(job, ids, None)
        self._enter(job, Stage.RUNNING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew, seed_id, lease_ms, announce)
            outcome = await self.runner.run(task.request(order.run_id), job.stop)
            nursery.cancel_scope.cancel()
        self._meters.run_duration[outcome.termination.cause.value].observe(outcome.duration_ms / 1000)
        if self._stopping and outcome.termination.cause is Cause.SIGNALED:
            # Service managers signal all processes of a node, and so the command, too.
            outcome = replace(outcome, worker_failed=True)
        self._enter(job, Stage.ENDING)
        return await self._finish(job, ids, outcome, announce)

    async def _renew(self, seed_id: str, lease_ms: int, announce: bool) -> None:
        """Renew the lease at each half of it, until a renewal is refused because the claim is over."""
        for _ in range(limits.RUN_RENEWALS_MAX):
            await trio.sleep(lease_ms / 2000)
            try:
                await self._perform(RenewRun(seed_id=seed_id, lease_ms=lease_ms, announce=announce))
            except CrabnetError as error:
                if error.reason not in PASSING:
                    return

    async def _finish(self, job: _Job, ids: dict[str, FieldValue], outcome: RunOutcome, announce: bool) -> TaskResult:
        """State the result, unless the claim is over. Retry while the node may not state anything."""
        request = job.take_request()
        while self._holds(job.seed_id, job.task.claim_id):
            ended_by = job.cancelled
            try:
                result = await self._perform(finish(job.seed_id, outcome, announce, request))
            except RefusedError as error:
                if error.reason not in PASSING or job.cancelled is Reason.NODE_STOPPING:
                    raise
                await trio.sleep(limits.RUN_RESULT_RETRY_MS / 1000)
                continue
            if not isinstance(result, TaskResult):
                raise TypeError("FinishRun gives a result")
            if ended_by in {Reason.RUN_CANCELLED, Reason.NODE_STOPPING}:
                job.cancelled = ended_by  # the result itself has ended the claim
                self._given_up(job, ids, outcome)
            self._tell(ids, outcome, result, job.task.timeout_ms)
            return result
        job.end(Reason.CLAIM_OVER, job.status)
        raise self._given_up(job, ids, outcome)

    def _given_up(self, job: _Job, ids: dict[str, FieldValue], outcome: RunOutcome | None) -> RefusedError:
        """Emit the event of a run that was ended early, and return the error that says so."""
        reason = job.cancelled or Reason.RUN_CANCELLED
        status = None if job.status is None else job.status.value
        fields: dict[str, FieldValue] = {**ids, "reason": reason.value, "status": status}
        if outcome is not None:
            end = outcome.termination
            fields |= {
                "exit_code": outcome.exit_code,
                "signal": end.signal,
                "duration_ms": outcome.duration_ms,
                "cpu_ms": end.cpu_ms,
                "bytes": outcome.stdout_bytes + outcome.stderr_bytes,
            }
        self._notify("run_cancelled", fields)
        if reason is Reason.RUN_CANCELLED:
            return RefusedError(f"the run of seed {job.seed_id} was cancelled before it began", reason)
        began = "has not begun" if outcome is None else "was ended, and its result is not sent"
        now = f" (status {status})" if status is not None else ""
        return RefusedError(f"the claim of seed {job.seed_id}{now} is over: the run {began}", reason)

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
                "cause": end.cause.value,
                "limits_hit": ",".join(end.limits_hit),
                "memory_peak_bytes": end.memory_peak_bytes,
                "sandbox": outcome.sandbox,
                "profile": outcome.profile,
                "failed": result.failed,
            },
        )


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
