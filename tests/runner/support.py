"""Running real commands as the tests of the runner do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crabnet.runner.execute import run_command
from crabnet.runner.outcome import RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from tests.support.warm import server_pid

Script = Callable[[str], Path]
ANY = RunnerPolicy(allowed_commands=frozenset({"*"}), kill_wait_ms=100)
PATIENT_MS = 60_000
HOLD = "exec 3>{lifeline}; echo up >&3; "


async def run(command: object, policy: RunnerPolicy = ANY, *, timeout_ms: int = PATIENT_MS) -> RunOutcome:
    return await run_command(RunRequest("run-1", str(command), timeout_ms), policy)


def own_children() -> list[str]:
    """The processes whose parent is this one, without the server of other tests."""
    found = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in found if pid != str(server_pid())]
