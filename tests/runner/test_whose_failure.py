"""Whose failure a run ends with: the task's, or the worker's (ADR 31)."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox.model import Fence, Mode
from tests.runner.conftest import Lifeline
from tests.runner.support import ANY, HOLD, PATIENT_MS, Script, run


@pytest.mark.parametrize(
    ("command", "timeout_ms"),
    [("false", PATIENT_MS), ("sh -c 'kill -KILL $$'", PATIENT_MS), ("no-such-command", PATIENT_MS), ("sleep 600", 200)],
)
async def test_the_task_fails(command: str, timeout_ms: int) -> None:
    outcome = await run(command, timeout_ms=timeout_ms)
    assert (outcome.worker_failed, outcome.task_failed) == (False, True)


async def test_a_file_that_is_no_program_is_the_tasks_failure(script: Script) -> None:
    path = script("true")
    path.write_bytes(b"\0\1\2")
    outcome = await run(path)
    assert (outcome.termination.cause, outcome.task_failed) == (Cause.SPAWN_FAILED, True)


async def test_a_success_is_nobodys_failure() -> None:
    outcome = await run("true")
    assert (outcome.worker_failed, outcome.task_failed) == (False, False)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (replace(ANY, allowed_commands=frozenset({"true"})), Reason.COMMAND_NOT_ALLOWED),
        (replace(ANY, command_chars_max=3), Reason.COMMAND_TOO_LONG),
        (replace(ANY, workdir=Path("/nonexistent")), Reason.WORKDIR_MISSING),
    ],
)
async def test_a_refusal_is_the_workers_failure(policy: RunnerPolicy, reason: Reason) -> None:
    outcome = await run("echo hi", policy)
    assert (outcome.refusal, outcome.exit_code) == (reason, 126)
    assert (outcome.worker_failed, outcome.task_failed) == (True, False)


async def test_a_sandbox_that_cannot_be_made_is_the_workers_failure() -> None:
    fence = Fence(Mode.BWRAP, None, Path("/bin/false"), 0)
    outcome = await run_command(RunRequest("run-1", "true", PATIENT_MS), ANY, fence)
    assert (outcome.refusal, outcome.worker_failed) == (Reason.SANDBOX_UNAVAILABLE, True)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open only so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    filler = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
        with suppress(OSError):
            while True:
                filler.append(os.open("/dev/null", os.O_RDONLY))
        for fd in filler[len(filler) - count :]:
            os.close(fd)
        del filler[len(filler) - count :]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5, 6])
async def test_a_lack_of_descriptors_is_the_workers_failure(left: int) -> None:
    with descriptors_left(left):
        outcome = await run("true")
    assert (outcome.worker_failed, outcome.task_failed) == (True, False)
    assert os.strerror(errno.EMFILE) in outcome.message


@pytest.mark.parametrize(("command", "failed"), [("sh -c 'echo x > file'", True), ("true", False)])
async def test_a_full_disk_under_the_work_dir_is_the_workers_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, failed: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk: a full disk is NOT tested")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "crabnet-test", disk], check=True)
    try:
        monkeypatch.setenv("TMPDIR", str(disk))
        full = disk / "full"
        with suppress(OSError), full.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        outcome = await run(command)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (outcome.worker_failed, outcome.task_failed) == (failed, False)
    assert outcome.termination.cause is (Cause.DISK if failed else Cause.EXITED)


async def test_output_that_a_disk_loses_is_the_workers_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, lifeline: Lifeline
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    much = 2 * limits.RUNNER_SPOOL_MEMORY_BYTES
    path = script(f"head -c {much} /dev/zero >&2; {HOLD.format(lifeline=lifeline.path)} cat {gate}")
    outcomes: list[RunOutcome] = []

    async def background() -> None:
        outcomes.append(await run(path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background)
        assert await lifeline.wait_up()
        while not (spooled := spools(tmp_path)):
            await trio.sleep(0.01)
        os.truncate(spooled[0], 10)
        await trio.to_thread.run_sync(gate.write_text, "")
    assert (outcomes[0].termination.cause, outcomes[0].worker_failed) == (Cause.LOST, True)


def spools(place: Path) -> list[Path]:
    """The open files of this process without a name that hold something, in this place."""
    found = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [entry for entry in found if is_spool(entry, place)]


def is_spool(entry: Path, place: Path) -> bool:
    try:
        return str(entry.readlink()).startswith(f"{place}/") and entry.stat().st_nlink == 0 < entry.stat().st_size
    except FileNotFoundError:  # closed meanwhile
        return False


async def test_a_run_that_its_worker_ends_is_the_workers_failure() -> None:
    stop = trio.Event()
    stop.set()
    outcome = await run_command(RunRequest("run-1", "sleep 600", PATIENT_MS), ANY, stop=stop)
    assert (outcome.termination.cause, outcome.worker_failed) == (Cause.CANCELLED, True)
