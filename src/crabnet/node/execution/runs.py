"""Running claimed commands: started is durable before the process starts, the result before it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.core.build import own_claim
from crabnet.core.commands import FinishRun, RenewRun, StartRun
from crabnet.core.effects import EndedClaim, FieldValue, Reply, RunOrder
from crabnet.domain.model import Failure, OutputFile, SeedStatus, TaskResult, Termination
from crabnet.domain.record import Record
from crabnet.errors import PASSING, CrabnetError, Reason, RefusedError
from crabnet.node.execution.turns import Place, Turns
from crabnet.runner.outcome import EXIT_NOT_RUN, Cause, RunOutcome, RunRequest, outcome_without_run
from crabnet.runner.runner import Runner

Perform = Callable[[StartRun | RenewRun | FinishRun], Awaitable[Reply]]
Notify = Callable[[str, dict[str, FieldValue]], None]


class Task(NamedTuple):
    """What is to be run, of a seed that was claimed for this node."""

    command: str
    timeout_ms: int
    rules: str
    publisher: str
    claim_id: str

    def request(self, run_id: str = "") -> RunRequest:
        """What the runner is asked."""
        return RunRequest(run_id, self.command, self.timeout_ms, self.rules)


class Stage(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


class RunView(NamedTuple):
    """A run of this node as its operator sees it: its place in the queue, from 1, and the age of its stage."""

    stage: Stage
    position: int | None
    since_ms: int


class RunManagerConfig(NamedTuple):
    """Bounds of a run manager."""

    runs_max: int
    queue_max: int
    lease_ms: int


class _Job:
    """One run, from the wish to its end."""

    def __init__(self, seed_id: str, task: Task) -> None:
        self.seed_id = seed_id
        self.task = task
        self.stage = Stage.QUEUED
        self.since = trio.current_time()
        self.go_on = trio.Event()
        """Its turn has come, or it is to end."""
        self.stop = trio.Event()
        self.done = trio.Event()
        self.cancelled: Reason | None = None
        self.status: SeedStatus | None = None

    def was_ended(self, reason: Reason) -> bool:
        """Whether it is to end before its time for this reason."""
        return self.cancelled is reason

    def end(self, reason: Reason, status: SeedStatus | None = None) -> None:
        """Let it end before its time. That its claim is over outweighs its operator's wish."""
        if not self.was_ended(Reason.CLAIM_OVER):
            self.cancelled, self.status = reason, status
        self.go_on.set()
        self.stop.set()


class RunManager:
    """The runs of this node. ``perform`` has the core do something and returns when that is durable.

    ``task_of`` gives the task of a seed that may be run now, or raises RefusedError; ``holds(seed_id, claim_id)`` says
    whether that claim still awaits a result; ``changed`` is called when a run has come to another stage.
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
    ) -> None:
        self.runner = runner
        self.turns = Turns(config.runs_max, config.queue_max)
        self._lease_ms = config.lease_ms
        self._task_of = task_of
        self._holds = holds
        self._perform = perform
        self._notify = notify
        self._changed = changed
        self._jobs: dict[str, _Job] = {}
        self._stopping = False

    def view(self, seed_id: str) -> RunView | None:
        """How the run of a seed stands here; None if there is none."""
        job = self._jobs.get(seed_id)
        if job is None:
            return None
        since_ms = round((trio.current_time() - job.since) * 1000)
        return RunView(job.stage, self.turns.position(seed_id), since_ms)

    def ended(self, claim: EndedClaim) -> None:
        """A claim is over: withdrawn or forfeited by its creator, or answered. Its run has no purpose any more."""
        job = self._jobs.get(claim.seed_id)
        if job is not None and job.task.claim_id == claim.claim_id:
            job.end(Reason.CLAIM_OVER, claim.status)

    async def cancel(self, seed_id: str) -> Stage:
        """End a run of this node before its time; returns once that is done, with the stage that it was in.

        One that had begun has a result then, with the cause ``cancelled``; one that waited has none. Raises
        RefusedError.
        """
        job = self._jobs.get(seed_id)
        if job is None:
            raise RefusedError(f"seed {seed_id} neither runs nor waits here: there is nothing to cancel")
        stage = job.stage
        if stage is Stage.ENDING:
            raise RefusedError(f"the run of seed {seed_id} has ended by itself; its result is about to be stated")
        job.end(Reason.RUN_CANCELLED)
        await job.done.wait()
        return stage

    async def run(self, seed_id: str, announce: bool) -> TaskResult:
        """Run a seed that was claimed for this node, and state the result; waits for its turn first.

        Raises RefusedError, with RUN_CANCELLED or CLAIM_OVER for a run that was ended and has no result, and with
        NODE_STOPPING once the node was told to ``drain``.
        """
        if self._stopping:
            raise RefusedError("the node is stopping; run the seed when it is back", Reason.NODE_STOPPING)
        if seed_id in self._jobs:
            raise RefusedError(f"seed {seed_id} is being run already", Reason.RUN_IN_PROGRESS)
        job = _Job(seed_id, self._task_of(seed_id))
        refused = self.runner.objection(job.task.request()) is not None
        place = Place.RUNS if refused else self.turns.enter(seed_id, job.task.publisher)
        if place is Place.FULL:
            raise RefusedError(
                f"{self.turns.running} commands run and {self.turns.queued} wait already; try again when one has ended",
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
            for admitted in self.turns.leave(seed_id, job.task.publisher):
                self._jobs[admitted].go_on.set()
            job.done.set()
            self._changed()

    async def drain(self, drain_ms: int, at_once: trio.Event) -> int:
        """Take no more runs, and wait until those that go on have ended, at most ``drain_ms`` or until ``at_once``.

        Those that wait, and those that go on after that, are ended with a result that says that this worker failed
        (ADR 31). Returns how many. Bounded: a result that cannot be stated by then is stated at the next start.
        """
        self._stopping = True
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
        return len(ended) + len(cut)

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
        self._enter(job, Stage.STARTING)
        refused = await self.runner.refusal(task.request())
        if refused is not None:
            return await self._finish(job, ids, refused, announce)
        if job.was_ended(Reason.NODE_STOPPING):
            return await self._finish(job, ids, not_begun(), announce)
        lease_ms = max(self._lease_ms, -(-task.timeout_ms // limits.RUN_LEASES_PER_TIMEOUT))
        order = await self._perform(StartRun(seed_id=seed_id, lease_ms=lease_ms, announce=announce))
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
        if self._stopping and outcome.termination.cause is Cause.SIGNALED:
            # Service managers signal all processes of a node, and so the command, too.
            outcome = replace(outcome, worker_failed=True)
        self._enter(job, Stage.ENDING)
        return await self._finish(job, ids, outcome, announce)

    async def _renew(self, seed_id: str, lease_ms: int, announce: bool) -> None:
        """Say at half of each lease that the run goes on, until that is refused: the claim is over then."""
        for _ in range(limits.RUN_RENEWALS_MAX):
            await trio.sleep(lease_ms / 2000)
            try:
                await self._perform(RenewRun(seed_id=seed_id, lease_ms=lease_ms, announce=announce))
            except CrabnetError as error:
                if error.reason not in PASSING:
                    return

    async def _finish(self, job: _Job, ids: dict[str, FieldValue], outcome: RunOutcome, announce: bool) -> TaskResult:
        """State the result, unless the claim is over. While nothing may be stated, wait with it."""
        while self._holds(job.seed_id, job.task.claim_id):
            ended_by = job.cancelled
            try:
                result = await self._perform(finish(job.seed_id, outcome, announce))
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
        """Tell of a run that was ended before its time, and give the error that says so."""
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
        began = "has not begun" if outcome is None else "was ended, its result is not sent"
        now = f", which is {status} now" if status is not None else ""
        return RefusedError(f"the claim of seed {job.seed_id}{now}, is over: the run {began}", reason)

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


def not_begun() -> RunOutcome:
    """The outcome of a run that waited for its turn when the node was told to stop."""
    message = "the worker's node is stopping, and the command had not begun"
    return outcome_without_run("", Cause.CANCELLED, Reason.NODE_STOPPING, message, EXIT_NOT_RUN, 0)


def finish(seed_id: str, outcome: RunOutcome, announce: bool) -> FinishRun:
    """What the core is told of a run's end."""
    end = outcome.termination
    return FinishRun(
        seed_id=seed_id,
        exit_code=outcome.exit_code,
        timed_out=outcome.timed_out,
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        stdout_base64=outcome.stdout_base64,
        stderr_base64=outcome.stderr_base64,
        output_hash=outcome.output_hash,
        duration_ms=outcome.duration_ms,
        termination=Termination(
            cause=end.cause.value,
            signal=end.signal,
            escalated=end.escalated,
            wall_ms=end.wall_ms,
            cpu_ms=end.cpu_ms,
            grace_ms=end.grace_ms,
            memory_bytes=end.memory_peak_bytes,
            limits_hit=end.limits_hit,
        ),
        sandbox=outcome.sandbox or None,
        profile=outcome.profile or None,
        files=tuple(OutputFile(name=file.name, size=file.size_bytes, sha256=file.sha256) for file in outcome.files),
        files_omitted=outcome.files_omitted,
        stdout_truncated=outcome.stdout_truncated,
        stderr_truncated=outcome.stderr_truncated,
        refusal=outcome.refusal,
        failed=Failure.WORKER if outcome.worker_failed else Failure.TASK if outcome.task_failed else None,
        announce=announce,
    )


def task_of(record: Record, seed_id: str, node_id: str) -> Task:
    """What there is to run of a seed that was claimed for this node. Raises RefusedError."""
    claim_id = own_claim(record, seed_id, node_id)
    status = record.progress.status
    if status is SeedStatus.RUNNING:
        raise RefusedError(f"seed {seed_id} is running already", Reason.RUN_IN_PROGRESS)
    if record.definition is None or status is not SeedStatus.CLAIMED:
        raise RefusedError(f"seed {seed_id} is {status.value}: there is nothing to run")
    seed = record.definition
    return Task(seed.command, seed.timeout_ms, seed.rules, seed.created_by, claim_id)
