"""The process that supervisors are forked from: one for all runs, replaced when it is gone, gone with its node."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from crabnet.runner.execute import run_command
from crabnet.runner.landlock import abi_version
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox.model import NO_FENCE, Fence, Mode
from crabnet.runner.self_test import BWRAP_PATHS
from crabnet.runner.supervisor.tree import children_of
from crabnet.runner.supervisor_client import Supervisors

BWRAP = next((Path(path) for path in BWRAP_PATHS if os.access(path, os.X_OK)), None)
FENCES = [
    pytest.param(NO_FENCE, id="none"),
    pytest.param(
        Fence(Mode.BWRAP, bwrap=BWRAP),
        id="bwrap",
        marks=pytest.mark.skipif(BWRAP is None, reason="needs bubblewrap"),
    ),
    pytest.param(
        Fence(Mode.LANDLOCK, landlock_abi=abi_version()),
        id="landlock",
        marks=pytest.mark.skipif(not abi_version(), reason="needs Landlock"),
    ),
]


async def run(supervisors: Supervisors, command: str = "echo hi", fence: Fence = NO_FENCE) -> RunOutcome:
    policy = RunnerPolicy(allowed_commands=frozenset({"*"}))
    return await run_command(RunRequest("run-1", command, 60_000), policy, fence, supervisors=supervisors)


def children() -> set[int]:
    """This process's own; those of the resource tracker and other helpers of the tests were there before."""
    return set(children_of(os.getpid()))


@pytest.fixture
def supervisors() -> Iterator[Supervisors]:
    before = children()
    found = Supervisors()
    yield found
    found.close()
    assert children() == before


@pytest.mark.parametrize("fence", FENCES)
async def test_all_runs_have_theirs_from_one_process(supervisors: Supervisors, fence: Fence) -> None:
    before = children()
    assert (await run(supervisors, fence=fence)).stdout == "hi\n"
    [first] = children() - before
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run, supervisors, "true", fence)
    [second] = children() - before
    assert first == second
    with trio.fail_after(30):
        while children_of(first):
            await trio.sleep(0.01)


async def test_after_its_close_the_next_run_starts_another(supervisors: Supervisors) -> None:
    before = children()
    await run(supervisors)
    supervisors.close()
    assert children() == before
    assert (await run(supervisors)).stdout == "hi\n"


@pytest.mark.parametrize("fence", FENCES)
async def test_one_that_died_is_replaced(supervisors: Supervisors, fence: Fence) -> None:
    before = children()
    await run(supervisors, fence=fence)
    [template] = children() - before
    os.kill(template, signal.SIGKILL)
    assert (await run(supervisors, fence=fence)).stdout == "hi\n"
    assert template not in children()


async def test_a_run_goes_on_when_it_dies(supervisors: Supervisors, tmp_path: Path) -> None:
    before = children()
    os.mkfifo(tmp_path / "go")
    outcomes: list[RunOutcome] = []

    async def run_on() -> None:
        outcomes.append(await run(supervisors, f"sh -c 'echo begun >{tmp_path}/begun; read -r line <{tmp_path}/go'"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_on)
        with trio.fail_after(30):
            while not (tmp_path / "begun").exists():
                await trio.sleep(0.01)
        [template] = children() - before
        os.kill(template, signal.SIGKILL)
        assert (await run(supervisors)).stdout == "hi\n"
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "line\n")
    assert [(outcome.exit_code, outcome.termination.cause) for outcome in outcomes] == [(0, Cause.EXITED)]


@pytest.mark.parametrize("delay_ms", range(0, 80, 8))
async def test_its_death_at_any_moment_of_a_start_loses_no_run_and_repeats_none(
    supervisors: Supervisors, tmp_path: Path, delay_ms: int
) -> None:
    before = children()

    async def kill_the_first() -> None:
        while not (found := children() - before):
            await trio.sleep(0)
        await trio.sleep(delay_ms / 1000)
        os.kill(found.pop(), signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_the_first)
        outcome = await run(supervisors, f"sh -c 'echo once >>{tmp_path}/times'")
    assert outcome.exit_code == 0, outcome
    assert (tmp_path / "times").read_text() == "once\n"


_DIES = """
import os, signal, trio
from crabnet.runner.supervisor_client import Supervisors
from crabnet.runner.supervisor.tree import children_of
async def main():
    supervisors = Supervisors()
    link = await supervisors.start()
    print(link.pid, *children_of(os.getpid()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""


async def test_it_leaves_with_its_supervisors_when_its_node_is_killed() -> None:
    done = await trio.run_process([sys.executable, "-c", _DIES], capture_stdout=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = done.stdout.split()
    assert len(pids) == 2
    with trio.fail_after(30):
        while any(_lives(int(pid)) for pid in pids):
            await trio.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_node_that_cannot_start_it_says_so_and_tries_again(
    supervisors: Supervisors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    outcome = await run(supervisors)
    assert (outcome.exit_code, outcome.termination.cause) == (126, Cause.SPAWN_FAILED)
    assert outcome.worker_failed
    monkeypatch.undo()
    assert (await run(supervisors)).stdout == "hi\n"


async def test_neither_it_nor_a_supervisor_has_the_environment_or_a_file_of_the_node(
    supervisors: Supervisors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    monkeypatch.setenv("CRABNET_SECRET", "a secret")
    secret = os.open(tmp_path, os.O_RDONLY)
    try:
        os.set_inheritable(secret, True)
        link = await supervisors.start()
        other = await supervisors.start(secret)
        [template] = children() - before
        files = {"/dev/null": 3, "socket": 1, "pipe": 2}
        try:
            expected = {
                template: (b"", files),
                link.pid: (b"", {**files, "pipe": 4}),
                other.pid: (b"", {**files, "pipe": 4, str(tmp_path): 1}),
            }
            with trio.fail_after(30):  # until each waits for its order
                while {pid: _seen(pid) for pid in expected} != expected:
                    await trio.sleep(0.01)
        finally:
            await link.end()
            await other.end()
    finally:
        os.close(secret)


def _seen(pid: int) -> tuple[bytes, dict[str, int]]:
    """Its environment, and what it has open by kind."""
    files = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            files.append(str(path.readlink()).partition(":")[0])
    return Path(f"/proc/{pid}/environ").read_bytes(), Counter(files)
