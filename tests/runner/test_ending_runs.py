"""Ending runs: timeouts, the operator's stop, cancellation, deaths, and that nothing is left."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from crabnet.runner.execute import run_command
from crabnet.runner.outcome import Cause, RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from tests.runner.conftest import Lifeline
from tests.runner.support import ANY, HOLD, PATIENT_MS, Script, own_children, run


async def test_a_timeout_ends_the_command() -> None:
    outcome = await run("sleep 1000", RunnerPolicy(), timeout_ms=200)

    assert outcome.timed_out
    assert outcome.exit_code == 143
    assert outcome.termination.cause is Cause.TIMEOUT
    assert outcome.termination.signal == "SIGTERM"
    assert not outcome.termination.escalated
    assert outcome.termination.wall_ms >= 199


async def test_the_workers_own_ceiling_shortens_the_timeout() -> None:
    outcome = await run("sleep 1000", RunnerPolicy(timeout_ms_max=200))

    assert outcome.timed_out


async def test_a_command_that_ignores_sigterm_is_killed(script: Script) -> None:
    outcome = await run(script("trap '' TERM; while :; do sleep 1000; done"), timeout_ms=2_000)

    assert outcome.timed_out
    assert outcome.exit_code == 137
    assert outcome.termination.signal == "SIGKILL"
    assert outcome.termination.escalated
    assert outcome.termination.grace_ms >= 99


async def stopped(script: Script, lifeline: Lifeline, body: str, policy: RunnerPolicy = ANY) -> RunOutcome:
    """Run a script that announces itself, stop it then, and check that nothing of it is left."""
    stop = trio.Event()
    outcomes: list[RunOutcome] = []
    request = RunRequest("run-1", str(script(body.format(lifeline=lifeline.path))), PATIENT_MS)

    async def background() -> None:
        outcomes.append(await run_command(request, policy, stop=stop))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background)
        assert await lifeline.wait_up()
        stop.set()
    assert lifeline.gone()
    return outcomes[0]


async def test_stop_ends_a_run(script: Script, lifeline: Lifeline) -> None:
    outcome = await stopped(script, lifeline, HOLD + "exec sleep 1000")

    assert outcome.termination.cause is Cause.CANCELLED
    assert outcome.exit_code == 143
    assert not outcome.timed_out


async def test_a_command_may_clean_up_after_sigterm(script: Script, lifeline: Lifeline) -> None:
    body = "trap 'echo bye; exit 7' TERM; mkfifo block; exec 4<>block; " + HOLD + "read line <&4"

    outcome = await stopped(script, lifeline, body, replace(ANY, kill_wait_ms=20_000))

    assert outcome.stdout == "bye\n"
    assert outcome.exit_code == 7
    assert outcome.termination.signal is None
    assert not outcome.termination.escalated


async def test_a_stopped_process_can_be_ended(script: Script, lifeline: Lifeline) -> None:
    outcome = await stopped(script, lifeline, HOLD + "kill -STOP $$", replace(ANY, kill_wait_ms=20_000))

    assert outcome.termination.signal == "SIGTERM"
    assert not outcome.termination.escalated


@pytest.mark.parametrize(
    "body",
    [
        "exec 3>{lifeline}; sleep 1000 & sh -c 'sleep 1000 & sleep 1000' & echo up >&3; wait",
        "exec 3>{lifeline}; setsid sh -c 'sleep 1000 & sleep 1000' & echo up >&3; wait",
        "exec 3>{lifeline}; (setsid sh -c 'setsid sleep 1000 & sleep 1000' &) ; echo up >&3; sleep 1000",
        "exec 3>{lifeline}; (trap '' TERM HUP; setsid sleep 1000 & sleep 1000) & echo up >&3; wait",
    ],
    ids=["children", "other sessions", "orphans", "ignoring signals"],
)
async def test_grandchildren_end_with_the_run(script: Script, lifeline: Lifeline, body: str) -> None:
    outcome = await stopped(script, lifeline, body)

    assert outcome.termination.cause is Cause.CANCELLED


@pytest.mark.parametrize(
    "how", ["sleep 1000 &", "setsid sleep 1000 &", "(sleep 1000 &) &", "(trap '' TERM; sleep 1000) &"]
)
async def test_what_is_left_in_the_background_does_not_hold_the_run_open(
    script: Script, lifeline: Lifeline, how: str
) -> None:
    outcome = await run(script(f"exec 3>{lifeline.path}; echo up >&3; {how} echo done; exit 5"))

    assert outcome.termination.cause is Cause.EXITED
    assert (outcome.exit_code, outcome.stdout) == (5, "done\n")
    assert lifeline.gone()


async def test_cancellation_kills_everything_before_it_propagates(script: Script, lifeline: Lifeline) -> None:
    path = script(f"exec 3>{lifeline.path}; trap '' TERM; setsid sleep 1000 & echo up >&3; sleep 1000; sleep 1000")
    finished = False

    async with trio.open_nursery() as nursery:

        async def background() -> None:
            nonlocal finished
            await run(path)
            finished = True

        nursery.start_soon(background)
        assert await lifeline.wait_up()
        nursery.cancel_scope.cancel()

    assert not finished
    assert lifeline.gone()


async def test_cancellation_at_any_moment_leaves_nothing(script: Script) -> None:
    path = script("setsid sleep 1000 & sleep 1000")

    for delay_ms in range(0, 60, 4):
        with trio.move_on_after(delay_ms / 1000):
            await run(path)
        assert own_children() == []


async def test_a_run_ends_when_the_node_is_killed(script: Script, lifeline: Lifeline) -> None:
    path = script(f"exec 3>{lifeline.path}; setsid sleep 1000 & echo up >&3; exec sleep 1000")
    node = (
        "import pathlib, sys, trio\n"
        "from crabnet.runner.execute import run_command\n"
        "from crabnet.runner.outcome import RunRequest\n"
        "from crabnet.runner.policy import RunnerPolicy\n"
        "policy = RunnerPolicy(allowed_commands=frozenset({'*'}), workdir=pathlib.Path('/'))\n"
        "trio.run(run_command, RunRequest('run-1', sys.argv[1], 600_000), policy)\n"
    )
    process = await trio.lowlevel.open_process([sys.executable, "-c", node, str(path)])

    assert await lifeline.wait_up()
    process.kill()
    await process.wait()

    await lifeline.wait_gone()


async def test_a_run_whose_supervisor_is_killed_ends(script: Script, lifeline: Lifeline) -> None:
    path = script(f"exec 3>{lifeline.path}; sleep 1000 & echo up >&3; kill -KILL $PPID; sleep 1000")

    outcome = await run(path)

    assert outcome.exit_code == 137
    assert (outcome.termination.cause, outcome.worker_failed) == (Cause.LOST, True)
    assert await lifeline.wait_up()
    await lifeline.wait_gone()


async def test_no_process_and_no_descriptor_is_left() -> None:
    await run("true")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for command in ("true", "no-such-command", "sh -c 'sleep 1000 &'", "cd /nope"):
        await run(command)
    await run("sleep 1000", timeout_ms=50)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert own_children() == []
