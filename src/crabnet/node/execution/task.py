"""A claimed task as the runner needs it, and the end of its run as the core needs it."""

from __future__ import annotations

from typing import NamedTuple

from crabnet.core.build import own_claim
from crabnet.core.commands import FinishRun, RequestTag
from crabnet.domain.model import Failure, OutputFile, SeedStatus, Termination
from crabnet.domain.record import Record
from crabnet.domain.wording import standing_of
from crabnet.errors import Reason, RefusedError
from crabnet.runner.outcome import EXIT_NOT_RUN, Cause, RunOutcome, RunRequest, outcome_without_run


class Task(NamedTuple):
    """The parts of a seed claimed for this node that are needed to run it."""

    command: str
    timeout_ms: int
    rules: str
    publisher: str
    claim_id: str

    def request(self, run_id: str = "") -> RunRequest:
        """The request to the runner."""
        return RunRequest(run_id, self.command, self.timeout_ms, self.rules)


def finish(seed_id: str, outcome: RunOutcome, announce: bool, request: RequestTag | None = None) -> FinishRun:
    """The operation that states the end of a run."""
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
        request=request,
    )


def task_of(record: Record, seed_id: str, node_id: str) -> Task:
    """The task to run for a seed that was claimed for this node. Raises RefusedError."""
    claim_id = own_claim(record, seed_id, node_id)
    status = record.progress.status
    if status is SeedStatus.RUNNING:
        raise RefusedError(f"this node already runs task {seed_id}", Reason.RUN_IN_PROGRESS)
    if record.definition is None or status is not SeedStatus.CLAIMED:
        raise RefusedError(f"{standing_of(seed_id, record.progress)}: there is nothing to run")
    seed = record.definition
    return Task(seed.command, seed.timeout_ms, seed.rules, seed.created_by, claim_id)


def not_begun() -> RunOutcome:
    """The outcome of a run that was still in the queue when the node had to stop."""
    message = "the worker's node is stopping, and the command has not begun"
    return outcome_without_run("", Cause.CANCELLED, Reason.NODE_STOPPING, message, EXIT_NOT_RUN, 0)
