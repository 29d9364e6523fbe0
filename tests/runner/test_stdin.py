"""What a command reads on its stdin."""

from __future__ import annotations

import hashlib

import pytest

from crabnet import limits
from crabnet.errors import Reason
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import RunRequest
from crabnet.runner.sandbox.model import NO_FENCE, Fence
from tests.runner.support import ANY
from tests.runner.test_sandbox import FENCES

EVERY_FENCE = [pytest.param(NO_FENCE, id="none"), *FENCES]


@pytest.mark.parametrize("fence", EVERY_FENCE)
async def test_a_command_reads_what_it_is_given_byte_for_byte(fence: Fence) -> None:
    given = bytes(range(256)) * (limits.RUNNER_STDIN_BYTES_MAX // 256)

    outcome = await run_command(RunRequest("run-1", "sha256sum", 60_000, stdin=given), ANY, fence)

    assert outcome.stdout == f"{hashlib.sha256(given).hexdigest()}  -\n", outcome.stderr


@pytest.mark.parametrize("fence", EVERY_FENCE)
async def test_no_command_can_change_what_it_is_given_or_find_another_way_to_it(fence: Fence) -> None:
    """It may open it again by its name, as programs do."""
    script = "echo x >> /proc/self/fd/0; cat /dev/stdin; for n in 4 5 6 7 8 9; do true <&$n && echo open $n; done"

    outcome = await run_command(RunRequest("run-1", f"sh -c '{script}'", 60_000, stdin=b"given\n"), ANY, fence)

    assert outcome.stdout == "given\n", outcome.stderr


@pytest.mark.parametrize("fence", EVERY_FENCE)
async def test_a_command_that_is_given_nothing_reads_nothing(fence: Fence) -> None:
    outcome = await run_command(RunRequest("run-1", "cat", 60_000), ANY, fence)

    assert (outcome.exit_code, outcome.stdout) == (0, "")


async def test_too_much_is_refused() -> None:
    given = bytes(limits.RUNNER_STDIN_BYTES_MAX + 1)

    outcome = await run_command(RunRequest("run-1", "cat", 60_000, stdin=given), ANY)

    assert outcome.refusal is Reason.TOO_LARGE
    assert str(limits.RUNNER_STDIN_BYTES_MAX) in outcome.stderr
