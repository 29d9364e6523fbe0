"""A one-shot command on a disk that is full at the end of its work (disk-2)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crabnet.core.commands import Publish
from crabnet.errors import ExitCode
from crabnet.node.node import Node
from tests.operator.support import Clock, work
from tests.support.nodes import CRABNET, crabnet, environment, quiet

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]
FILE_BYTES_MAX = 64 * 1024


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path: Path) -> Path:
    """A data dir whose checkpoint is larger than a file may be for the commands of the test."""

    async def fill(node: Node) -> None:
        for _ in range(40):
            await node.publish(Publish(title="t", command="true", bid_window_ms=600_000, description="d" * 4_000))

    work(tmp_path / "d", fill, clock=Clock())
    assert (tmp_path / "d" / "state.json").stat().st_size > 2 * FILE_BYTES_MAX
    return tmp_path / "d"


def limited(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that cannot write large files: the journal's next frame fits, the next checkpoint does not."""
    limit = ["prlimit", f"--fsize={FILE_BYTES_MAX}"]
    return subprocess.run(
        [*limit, *CRABNET, *words], capture_output=True, text=True, check=False, env=environment(), timeout=60
    )


def test_what_is_durable_is_printed_and_the_checkpoint_that_fails_is_a_warning(data_dir: Path) -> None:
    done = limited(*PUBLISH, *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    seed_id = done.stdout.split()[-1]
    assert done.stdout == f"seed published {seed_id}\n"
    assert "not closed cleanly" in done.stderr
    assert "checkpoint" in done.stderr
    shown = crabnet("seed", "show", seed_id, *quiet(data_dir))
    assert shown.returncode == 0, shown.stderr
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    assert crabnet("audit", "verify", *quiet(data_dir)).returncode == 0


def test_what_is_not_durable_fails(data_dir: Path) -> None:
    done = limited(*PUBLISH, "--desc", "d" * 60_000, *quiet(data_dir), "--rules", "r" * 10_000)
    assert done.returncode == ExitCode.STORAGE_FAILED
    assert done.stdout == ""
