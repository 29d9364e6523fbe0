"""A supervisor that waits for the next run: used, replaced when it is gone, and gone with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from crabnet.runner.execute import run_command
from crabnet.runner.link import Standby
from crabnet.runner.outcome import RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox.model import Fence, Mode
from crabnet.runner.sandbox.survey import BWRAP_PATHS

BWRAP = next((Path(path) for path in BWRAP_PATHS if os.access(path, os.X_OK)), None)
pytestmark = pytest.mark.skipif(BWRAP is None, reason="needs bubblewrap")


async def run(standby: Standby) -> RunOutcome:
    fence = Fence(Mode.BWRAP, bwrap=BWRAP)
    return await run_command(RunRequest("run-1", "echo hi", 60_000), RunnerPolicy(), fence, standby=standby)


def children() -> list[int]:
    """This process's own; those of the resource tracker and other helpers of the tests were there before."""
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


async def test_the_next_run_takes_the_one_that_waits() -> None:
    before = set(children())
    standby = Standby()
    assert (await run(standby)).stdout == "hi\n"
    [first] = set(children()) - before
    assert (await run(standby)).stdout == "hi\n"
    [second] = set(children()) - before
    assert first != second

    standby.close()

    assert set(children()) == before
    assert (await run(standby)).stdout == "hi\n"


async def test_one_that_died_is_replaced() -> None:
    before = set(children())
    standby = Standby()
    await run(standby)
    [waiting] = set(children()) - before
    os.kill(waiting, signal.SIGKILL)
    with trio.fail_after(30):
        while Path(f"/proc/{waiting}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            await trio.sleep(0.01)

    assert (await run(standby)).stdout == "hi\n"

    standby.close()
    assert set(children()) == before


async def test_none_stays_in_two_runs_at_once() -> None:
    before = set(children())
    standby = Standby()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run, standby)
    assert len(set(children()) - before) == 1
    standby.close()
    assert set(children()) == before


_DIES = """
import os, signal, sys, trio
from crabnet.runner.link import Standby
async def main():
    standby = Standby()
    await standby.fill()
    link = standby.take()
    print(link.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""


async def test_it_leaves_when_its_node_is_killed() -> None:
    done = await trio.run_process([sys.executable, "-c", _DIES], capture_stdout=True, check=False)
    assert done.returncode == -signal.SIGKILL
    waiting = int(done.stdout)
    with trio.fail_after(30):
        while Path(f"/proc/{waiting}").exists():
            await trio.sleep(0.01)


async def test_a_node_that_cannot_start_one_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    standby = Standby()
    monkeypatch.setattr(sys, "executable", "")
    await standby.fill()
    monkeypatch.undo()
    assert standby.take() is None
    assert (await run(standby)).stdout == "hi\n"
    standby.close()


def test_the_helper_sees_children() -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        assert process.pid in children()
        process.kill()
