"""The request for a run and its outcome. Pure."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from crabnet.errors import Reason
from crabnet.runner.collect import OutputFile
from crabnet.runner.output import CapturedOutput


class Cause(StrEnum):
    """Why a run ended."""

    EXITED = "exited"
    """The command ended by itself."""
    SIGNALED = "signaled"
    """A signal that the runner did not send ended the command."""
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than ``output_total_bytes_max``."""
    CANCELLED = "cancelled"
    """The caller requested the end."""
    SPAWN_FAILED = "spawn_failed"
    """The policy allowed it, but it could not be started."""
    REFUSED = "refused"
    """The policy did not allow it."""
    MEMORY = "memory"
    """It exceeded its memory limit and was ended."""
    CPU = "cpu"
    """It exceeded its limit of processor time and was ended."""
    FILE_SIZE = "file_size"
    """It failed after it had made a file of the maximum size."""
    DISK = "disk"
    """It failed after it had filled its disk."""
    PROCESSES = "processes"
    """It failed after it had started the maximum number of processes."""
    LOST = "lost"
    """The worker lost the run or its output: something killed its supervisor or its sandbox from outside, or a disk
    failed."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One command to run. ``timeout_ms`` counts from the start of the command."""

    run_id: str
    command: str
    timeout_ms: int
    rules: str = ""
    """The seed's rules, which may request a profile and lower limits: see ``sandbox.requests``."""
    owner_tag: str = ""
    """Marks the things that a run leaves behind when the node is killed with the node that made them."""
    stdin: bytes = b""
    """What the command reads on its stdin, at most ``RUNNER_STDIN_BYTES_MAX``. Without it that is ``/dev/null``."""


@dataclass(frozen=True, slots=True)
class Termination:
    """How a run ended."""

    cause: Cause
    signal: str | None = None
    """The signal that ended the command itself, such as ``SIGTERM``."""
    escalated: bool = False
    """A process of the run was alive after SIGTERM and the grace, so it got SIGKILL. Processes that left the command's
    process group get no SIGTERM, so they count here."""
    wall_ms: int = 0
    """From the start of the command to the end of its main process."""
    cpu_ms: int = 0
    """User and system time of all processes."""
    grace_ms: int = 0
    """From SIGTERM to the end of the last process, or 0 if no SIGTERM was sent."""
    memory_peak_bytes: int = 0
    """The peak of the whole run if a control group counts it, else the largest value that was measured."""
    limits_hit: tuple[str, ...] = ()
    """The limits that the run reached, even if they did not end it: ``memory``, ``cpu``, ``processes``, ``disk``,
    ``file_size``, ``output``."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a run, also of a refused one.

    ``exit_code`` is as in shells: 128+N if signal N ended the command, 126 if it was refused or may not be executed,
    127 if it was not found. After a timeout, use ``timed_out``: a command that handles SIGTERM chooses its own exit
    code.
    """

    run_id: str
    exit_code: int
    timed_out: bool
    stdout: str
    """UTF-8. Invalid bytes are replaced by U+FFFD. Ends with ``output.truncation_marker`` if it was cut."""
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_bytes: int
    """Raw bytes received, whether kept or not."""
    stderr_bytes: int
    output_hash: str
    """Hex SHA-256 of those ``stdout_bytes`` raw bytes followed by those ``stderr_bytes``."""
    duration_ms: int
    """The time of the whole run, including its start and the collection of its files."""
    termination: Termination
    refusal: Reason | None
    """Why the command did not run, or None if it ran."""
    message: str
    """One line for an event or a log. It contains no output."""
    sandbox: str = ""
    """The sandbox mode of the run, or "" if the command did not run."""
    profile: str = ""
    files: tuple[OutputFile, ...] = ()
    """The files that the run left in a fresh work dir."""
    stdout_base64: str = ""
    """The kept part of stdout, if it is not UTF-8."""
    stderr_base64: str = ""
    files_omitted: int = 0
    """Number of things in the work dir that are not listed: links, special files, and files beyond the bounds."""
    worker_failed: bool = False
    """There is no proper result because of the worker, not the command. Another worker may produce one (ADR 31)."""

    @property
    def task_failed(self) -> bool:
        """True if the command failed, was too slow, or reached a limit."""
        return not self.worker_failed and (self.exit_code != 0 or self.timed_out)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a command that was started, as the runner has observed it."""

    cause: Cause
    wait_status: int | None
    """The status that ``waitpid`` gives, or None if nothing received it."""
    escalated: bool
    wall_ms: int
    cpu_ms: int
    grace_ms: int
    memory_peak_bytes: int
    limits_hit: tuple[str, ...]


EXIT_NOT_RUN: Final = 126
"""The exit code, as in shells, of a command that was refused or could not be started."""
_ENDED_BY_US: Final = frozenset({Cause.TIMEOUT, Cause.OUTPUT_LIMIT, Cause.CANCELLED, Cause.MEMORY, Cause.CPU})
_BY_WORKER: Final = frozenset({Cause.CANCELLED, Cause.REFUSED, Cause.LOST})
_BY_SIGNAL: Final = {signal.SIGXCPU: Cause.CPU, signal.SIGXFSZ: Cause.FILE_SIZE}


def outcome_of_run(
    run_id: str, output: CapturedOutput, ending: Ending, duration_ms: int, sandbox: str, profile: str
) -> RunOutcome:
    """The outcome of a command that was started."""
    cause, limits_hit = _judge(ending)
    ending = replace(ending, cause=cause)
    code = -signal.SIGKILL if ending.wait_status is None else os.waitstatus_to_exitcode(ending.wait_status)
    signal_name = _signal_name(-code) if code < 0 else None
    return RunOutcome(
        run_id=run_id,
        exit_code=128 - code if code < 0 else code,
        timed_out=ending.cause is Cause.TIMEOUT,
        stdout=output.stdout.text,
        stderr=output.stderr.text,
        stdout_truncated=output.stdout.truncated,
        stderr_truncated=output.stderr.truncated,
        stdout_base64=output.stdout.base64,
        stderr_base64=output.stderr.base64,
        stdout_bytes=output.stdout.raw_bytes,
        stderr_bytes=output.stderr.raw_bytes,
        output_hash=output.output_hash,
        duration_ms=duration_ms,
        termination=Termination(
            cause=cause,
            signal=signal_name,
            escalated=ending.escalated,
            wall_ms=ending.wall_ms,
            cpu_ms=ending.cpu_ms,
            grace_ms=ending.grace_ms,
            memory_peak_bytes=ending.memory_peak_bytes,
            limits_hit=limits_hit,
        ),
        refusal=None,
        message=_describe(ending, code, signal_name),
        sandbox=sandbox,
        profile=profile,
        worker_failed=cause in _BY_WORKER,
    )


def _judge(ending: Ending) -> tuple[Cause, tuple[str, ...]]:
    """Why the run ended, and which limits it reached.

    If the runner ended the run, that is the cause. If a command failed after it had reached a limit, the limit is the
    cause. If it succeeded in spite of the limit, it is not. A shell reports the signal of its last command as 128 + N.
    """
    hit = dict.fromkeys(ending.limits_hit)
    code = 0 if ending.wait_status is None else os.waitstatus_to_exitcode(ending.wait_status)
    by_signal = _BY_SIGNAL.get(signal.Signals(number)) if (number := _signal_in(code)) else None
    if by_signal is not None:
        hit[by_signal.value] = None
    if ending.cause is Cause.OUTPUT_LIMIT:
        hit["output"] = None
    if ending.cause in _ENDED_BY_US:
        return ending.cause, tuple(hit)
    for cause in (Cause.MEMORY, Cause.CPU):
        if cause.value in hit:
            return cause, tuple(hit)
    if ending.cause is Cause.LOST:
        return ending.cause, tuple(hit)
    if code != 0:
        for cause in (Cause.FILE_SIZE, Cause.DISK, Cause.PROCESSES):
            if cause.value in hit:
                return cause, tuple(hit)
    return ending.cause, tuple(hit)


def _signal_in(code: int) -> int:
    """The signal that an exit code stands for if it is in ``_BY_SIGNAL``, else 0."""
    number = -code if code < 0 else code - 128
    return number if number in _BY_SIGNAL else 0


def outcome_without_run(
    run_id: str,
    cause: Cause,
    reason: Reason,
    message: str,
    exit_code: int,
    duration_ms: int,
    *,
    worker_failed: bool = True,
) -> RunOutcome:
    """The outcome of a command that was refused, could not be started, or was lost. Its stderr has the reason."""
    text = f"refused: {reason.value}: {message}\n"
    outcome = _outcome_of_text(run_id, exit_code, text, Termination(cause), reason, message, duration_ms)
    return replace(outcome, worker_failed=worker_failed)


def blamed_on_full_disk(outcome: RunOutcome) -> RunOutcome:
    """The outcome of a run whose work dir was on a disk of this worker that was full at the end of the run.

    If the command failed by itself, the full disk is taken as the cause, because the command got less space than its
    limit.
    """
    if not outcome.task_failed or outcome.termination.cause not in {Cause.EXITED, Cause.SIGNALED}:
        return outcome
    end = replace(outcome.termination, cause=Cause.DISK)
    message = f"this worker's disk is full: {outcome.message}"
    return replace(outcome, termination=end, message=message, worker_failed=True)


def outcome_of_builtin(run_id: str, error: str | None, duration_ms: int) -> RunOutcome:
    """The outcome of a command that needs no process: exit code 1 with ``error`` on stderr, or 0."""
    message = "exited with 0" if error is None else "exited with 1"
    code = 0 if error is None else 1
    return _outcome_of_text(run_id, code, error or "", Termination(Cause.EXITED), None, message, duration_ms)


def _outcome_of_text(
    run_id: str,
    exit_code: int,
    stderr: str,
    termination: Termination,
    refusal: Reason | None,
    message: str,
    duration_ms: int,
) -> RunOutcome:
    raw = stderr.encode("utf-8", errors="replace")
    return RunOutcome(
        run_id=run_id,
        exit_code=exit_code,
        timed_out=False,
        stdout="",
        stderr=raw.decode(),
        stdout_truncated=False,
        stderr_truncated=False,
        stdout_bytes=0,
        stderr_bytes=len(raw),
        output_hash=hashlib.sha256(raw).hexdigest(),
        duration_ms=duration_ms,
        termination=termination,
        refusal=refusal,
        message=message,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _describe(ending: Ending, code: int, signal_name: str | None) -> str:
    end = f"exited with {code}" if signal_name is None else f"ended by {signal_name}"
    if ending.wait_status is None:
        end = "killed, its exit status is unknown"
    why = {
        Cause.TIMEOUT: "timed out",
        Cause.OUTPUT_LIMIT: "wrote too much output",
        Cause.CANCELLED: "stopped by the worker",
        Cause.MEMORY: "used too much memory",
        Cause.CPU: "used too much processor time",
        Cause.FILE_SIZE: "made too large a file",
        Cause.DISK: "filled its disk",
        Cause.PROCESSES: "started too many processes",
        Cause.LOST: "lost, because something outside of the run killed its supervisor or its sandbox",
    }.get(ending.cause)
    escalation = ", SIGKILL was needed" if ending.escalated else ""
    return f"{end}{escalation}" if why is None else f"{why}: {end}{escalation}"
