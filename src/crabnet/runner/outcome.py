"""What goes into a run and what comes out of it. Pure."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from enum import StrEnum

from crabnet.errors import Reason
from crabnet.runner.output import CapturedOutput


class Cause(StrEnum):
    """Why a run ended."""

    EXITED = "exited"
    """The command ended by itself."""
    SIGNALED = "signaled"
    """A signal that was not ours ended the command."""
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than ``output_total_bytes_max``."""
    CANCELLED = "cancelled"
    """The caller asked for its end."""
    SPAWN_FAILED = "spawn_failed"
    """The policy allowed it, but it could not be started."""
    REFUSED = "refused"
    """The policy did not allow it."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One command to run. ``timeout_ms`` counts from the start of the command."""

    run_id: str
    command: str
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Termination:
    """How a run ended."""

    cause: Cause
    signal: str | None = None
    """The signal that ended the command itself, such as ``SIGTERM``."""
    escalated: bool = False
    """Some process of the run outlived SIGTERM by the grace and had to be sent SIGKILL. Processes that left the
    command's process group get no SIGTERM, so they count here."""
    wall_ms: int = 0
    """From the start of the command to the end of its main process."""
    cpu_ms: int = 0
    """User and system time of all its processes."""
    grace_ms: int = 0
    """From SIGTERM to the end of its last process; 0 when it needed no SIGTERM."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The result of a run, refused ones included.

    ``exit_code`` follows the shells: 128+N when signal N ended the command, 126 when it was refused or may not
    be executed, 127 when it was not found. ``timed_out`` is what counts after a timeout: a command that
    handles SIGTERM chooses its own exit code.
    """

    run_id: str
    exit_code: int
    timed_out: bool
    stdout: str
    """UTF-8, invalid bytes replaced by U+FFFD; ends with ``output.truncation_marker`` when cut."""
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_bytes: int
    """Raw bytes received, kept or not."""
    stderr_bytes: int
    output_hash: str
    """Hex SHA-256 of those ``stdout_bytes`` raw bytes followed by those ``stderr_bytes``."""
    duration_ms: int
    """The whole run, with starting and collecting."""
    termination: Termination
    refusal: Reason | None
    """Why it did not run; None when it ran."""
    message: str
    """One line for an event or a log. Holds none of the output."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What was seen of the end of a command that was started."""

    cause: Cause
    wait_status: int | None
    """As from ``waitpid``; None when it was never seen."""
    escalated: bool
    wall_ms: int
    cpu_ms: int
    grace_ms: int


def outcome_of_run(run_id: str, output: CapturedOutput, ending: Ending, duration_ms: int) -> RunOutcome:
    """The outcome of a command that was started."""
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
        stdout_bytes=output.stdout.raw_bytes,
        stderr_bytes=output.stderr.raw_bytes,
        output_hash=output.output_hash,
        duration_ms=duration_ms,
        termination=Termination(
            ending.cause, signal_name, ending.escalated, ending.wall_ms, ending.cpu_ms, ending.grace_ms
        ),
        refusal=None,
        message=_describe(ending, code, signal_name),
    )


def outcome_without_run(
    run_id: str, cause: Cause, reason: Reason, message: str, exit_code: int, duration_ms: int
) -> RunOutcome:
    """The outcome of a command that was refused or could not be started; its stderr tells the publisher."""
    return _outcome_of_text(
        run_id, exit_code, f"refused: {reason.value}: {message}\n", Termination(cause), reason, message, duration_ms
    )


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
        end = "killed, its end was not seen"
    why = {
        Cause.TIMEOUT: "timed out",
        Cause.OUTPUT_LIMIT: "wrote too much output",
        Cause.CANCELLED: "stopped by the worker",
    }.get(ending.cause)
    escalation = ", SIGKILL was needed" if ending.escalated else ""
    return f"{end}{escalation}" if why is None else f"{why}: {end}{escalation}"
