"""Runs one command to its end: checks it and prepares its launch and its outcome. ``process`` handles the process."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.runner.collect import CollectBounds, OutputFile, collect_outputs
from crabnet.runner.outcome import (
    EXIT_NOT_RUN,
    Cause,
    RunOutcome,
    RunRequest,
    blamed_on_full_disk,
    outcome_of_builtin,
    outcome_of_run,
    outcome_without_run,
)
from crabnet.runner.output import CapturedOutput
from crabnet.runner.policy import SHELL, Accepted, Refused, RunnerPolicy, check_command
from crabnet.runner.process import RunProcess
from crabnet.runner.sandbox import bwrap, leftovers
from crabnet.runner.sandbox.model import NO_FENCE, Fence, Mode, Profile
from crabnet.runner.sandbox.orders import Launch, order
from crabnet.runner.sandbox.requests import Agreed, agree
from crabnet.runner.supervisor.main import is_full
from crabnet.runner.supervisor.tree import threads_of_user
from crabnet.runner.supervisor_client import Supervisors
from crabnet.runner.workdir import (
    CD_SCRIPT,
    Workdir,
    change_directory,
    environment,
    find_executable,
    open_workdir,
)

_EXIT_NOT_FOUND = 127
_OF_THE_COMMAND = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOEXEC,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.E2BIG,
        errno.EINVAL,
        errno.ETXTBSY,
        errno.ELIBBAD,
    }
)
"""The errors of execve(2) that any worker would get. Any other errno, such as EMFILE, is a failure of this worker."""


async def run_command(
    request: RunRequest,
    policy: RunnerPolicy,
    fence: Fence = NO_FENCE,
    *,
    stop: trio.Event | None = None,
    clock: Callable[[], float] = trio.current_time,
    supervisors: Supervisors | None = None,
) -> RunOutcome:
    """Run ``request.command`` behind ``fence`` if ``policy`` allows it, and return the outcome.

    No property of the command raises an exception. A refusal or a failure to start is an outcome too (exit codes 126
    and 127, with the reason on stderr). Setting ``stop`` ends the run like a timeout, with the cause ``cancelled``. If
    the surrounding trio task is cancelled, every process of the run is killed before the cancellation propagates. A
    kill of the node itself has the same effect.

    The run ends with the main process of the command. Its background processes are killed, and cannot keep the run
    open through the output pipes. On a timeout the process group gets SIGTERM. ``policy.kill_wait_ms`` later all
    remaining processes of the run get SIGKILL, including those in other sessions. ``clock`` returns seconds.
    ``supervisors`` are those of a node that will have more runs. Without them, the run starts its own.
    """
    if supervisors is None:
        with closing(Supervisors()) as own:
            return await run_command(request, policy, fence, stop=stop, clock=clock, supervisors=own)
    started_at = clock()

    def not_run(why: _NotRun) -> RunOutcome:
        return outcome_without_run(
            request.run_id,
            why.cause,
            why.reason,
            why.message,
            why.exit_code,
            _ms(clock() - started_at),
            worker_failed=why.worker_failed,
        )

    try:
        accepted, agreed = check_request(policy, fence, request)
        inside = Path(bwrap.WORK) if fence.mode is Mode.BWRAP else None
        async with open_workdir(policy, request.owner_tag, inside) as workdir:
            if accepted.argv[0] == "cd" and fence.mode is Mode.NONE:
                error = change_directory(accepted.argv[1:], workdir)
                return outcome_of_builtin(request.run_id, error, _ms(clock() - started_at))
            launch = _launch(policy, fence, accepted, workdir)
            if launch is None:
                message = f"the command {accepted.argv[0][: limits.RUNNER_NAME_CHARS_SHOWN]!r} was not found"
                return not_run(_NotRun(message, exit_code=_EXIT_NOT_FOUND, worker_failed=False))
            name = leftovers.run_name(request.owner_tag)
            line = order(launch, fence, agreed, name, user_threads=await _user_threads(fence))
            run = RunProcess(policy, min(request.timeout_ms, policy.timeout_ms_max), clock)
            async with _cleared(run, fence, name):
                await run.perform(line, workdir.fd, stop, supervisors, request.stdin)
                files, files_omitted = await _collect(policy, run, workdir)
                output = await trio.to_thread.run_sync(_output, run)
                disk_full = _has_no_room(workdir)
    except RefusedError as refusal:
        return not_run(_NotRun(refusal.message, Cause.REFUSED, refusal.reason))
    except OSError as error:
        return not_run(_NotRun(f"this worker failed: {error.strerror or error}", Cause.LOST))
    kept = _not_started(run) or _kept(output)
    if isinstance(kept, _NotRun):
        return not_run(kept)
    duration_ms = _ms(clock() - started_at)
    outcome = outcome_of_run(request.run_id, kept, run.ending(), duration_ms, fence.mode.value, agreed.profile.value)
    if disk_full:
        outcome = blamed_on_full_disk(outcome)
    return replace(outcome, files=files, files_omitted=files_omitted)


class _NotRun(NamedTuple):
    """Why there is no proper outcome of a run."""

    message: str
    cause: Cause = Cause.SPAWN_FAILED
    reason: Reason = Reason.SPAWN_FAILED
    exit_code: int = EXIT_NOT_RUN
    worker_failed: bool = True


def _not_started(run: RunProcess) -> _NotRun | None:
    """Why a run could not be started, or None if it was started."""
    if run.sandbox_error is not None:
        return _NotRun(run.sandbox_error, reason=Reason.SANDBOX_UNAVAILABLE)
    if run.supervisor_error:
        return _NotRun(f"this worker could not start a process: {os.strerror(run.supervisor_error)}")
    if run.spawn_error:
        code = _EXIT_NOT_FOUND if run.spawn_error == errno.ENOENT else EXIT_NOT_RUN
        message = f"the command could not be started: {os.strerror(run.spawn_error)}"
        return _NotRun(message, exit_code=code, worker_failed=run.spawn_error not in _OF_THE_COMMAND)
    return None


def _kept(output: CapturedOutput | OSError) -> CapturedOutput | _NotRun:
    """The output of a run, or why there is none."""
    if not isinstance(output, OSError):
        return output
    reason = Reason.DISK_FULL if output.errno in {errno.ENOSPC, errno.EDQUOT} else Reason.STORAGE_FAILED
    return _NotRun(f"the output of the command was lost on this worker's disk: {output.strerror}", Cause.LOST, reason)


@asynccontextmanager
async def _cleared(run: RunProcess, fence: Fence, name: str) -> AsyncIterator[None]:
    """Close a run at the end of the block, and remove what its supervisor could not."""
    try:
        yield
    finally:
        run.close()
        if not run.orderly:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_clear, fence, name)


def _clear(fence: Fence, name: str) -> None:
    """Remove the leftovers of a run. Blocks. The next start of the node removes what remains."""
    with suppress(OSError):
        leftovers.clear_run(fence.cgroups, name)


def _has_no_room(workdir: Workdir) -> bool:
    """Whether a fresh work dir is on a disk of the host that is full."""
    return workdir.fd >= 0 and workdir.fresh and is_full(workdir.fd)


def _output(run: RunProcess) -> CapturedOutput | OSError:
    """The output of a run, or the error of the disk on which it was. Blocks."""
    try:
        return run.capture.finish()
    except OSError as error:
        return error


async def _collect(policy: RunnerPolicy, run: RunProcess, workdir: Workdir) -> tuple[tuple[OutputFile, ...], int]:
    """The files that an ended run left in a fresh work dir, and how many things are not listed."""
    fd = run.work_fd if run.work_fd >= 0 else workdir.fd
    if fd < 0 or not workdir.fresh or not policy.files_max:
        return (), 0
    try:
        manifest = await trio.to_thread.run_sync(collect_outputs, fd, CollectBounds(files_max=policy.files_max))
    except RefusedError:
        return (), 0  # with an old kernel files cannot be collected safely
    except OSError:
        return (), 1
    return manifest.files, sum(manifest.omitted.values())


def refused_outcome(request: RunRequest, refusal: RefusedError) -> RunOutcome:
    """The outcome of a run that was refused before it did anything."""
    return outcome_without_run(
        request.run_id, Cause.REFUSED, refusal.reason, refusal.message, EXIT_NOT_RUN, duration_ms=0
    )


def check_request(policy: RunnerPolicy, fence: Fence, request: RunRequest) -> tuple[Accepted, Agreed]:
    """Check whether a run is allowed, before anything is started. Raises ``RefusedError``."""
    verdict = check_command(policy, request.command)
    if isinstance(verdict, Refused):
        raise RefusedError(verdict.message, verdict.reason)
    if not 1 <= request.timeout_ms <= limits.TIMEOUT_MS_MAX:
        raise RefusedError(
            f"the timeout is {request.timeout_ms} ms, but must be 1 to {limits.TIMEOUT_MS_MAX}", Reason.INVALID_ARGUMENT
        )
    if len(request.stdin) > limits.RUNNER_STDIN_BYTES_MAX:
        raise RefusedError(
            f"the command would read {len(request.stdin)} bytes, but {limits.RUNNER_STDIN_BYTES_MAX} are the most",
            Reason.TOO_LARGE,
        )
    agreed = agree(request.rules, policy.profiles, policy.limits)
    if agreed.profile is Profile.NETWORK and fence.mode is not Mode.BWRAP:
        raise RefusedError(
            f"this worker has no sandbox for the profile network, only {fence.mode.value}", Reason.PROFILE_NOT_ALLOWED
        )
    return verdict, agreed


def _launch(policy: RunnerPolicy, fence: Fence, accepted: Accepted, workdir: Workdir) -> Launch | None:
    boxed = fence.mode is Mode.BWRAP
    argv = accepted.argv
    if argv[0] == "cd":
        argv = (SHELL, "-c", CD_SCRIPT, *argv)
    executable = find_executable(policy, argv[0], workdir.path, None if fence.mode is Mode.NONE else bwrap.visible)
    if executable is None:
        return None
    home = Path(bwrap.WORK) if boxed else workdir.path
    env = environment(policy, home, scratch=None if boxed or fence.mode is Mode.NONE else home)
    return Launch(executable, argv, env, workdir.path, workdir.fresh)


async def _user_threads(fence: Fence) -> int:
    """The number of threads of this user if RLIMIT_NPROC counts them with those of the run, else 0."""
    if fence.mode is not Mode.LANDLOCK or (os.geteuid() == 0 and fence.drop_root):
        return 0
    return await trio.to_thread.run_sync(threads_of_user, os.getuid())


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
