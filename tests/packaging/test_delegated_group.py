"""A node in a group that was delegated to it makes room for the groups of its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.runner.sandbox import cgroups
from tests.support.nodes import CRABNET, NodeProcess, Nodes

_ENTER = "import os, sys; open(sys.argv[1], 'w').write('0'); os.execv(sys.argv[2], sys.argv[2:])"


def unified() -> Path:
    root = cgroups.ROOT
    return root if (root / "cgroup.controllers").exists() else root / "unified"


@pytest.fixture
def group() -> Iterator[Path]:
    """A new group of cgroup v2, empty again after the test."""
    made = unified() / f"test-delegated-{os.getpid()}"
    try:
        made.mkdir()
        os.setxattr(made, "user.test", b"1")
    except OSError as error:
        pytest.skip(f"needs groups of cgroup v2 that may be made: NOT tested ({error.strerror})")
    yield made
    for directory in (*(entry for entry in made.iterdir() if entry.is_dir()), made):
        directory.rmdir()


def started_in(group: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    nodes = Nodes(tmp_path)
    node = nodes.make("node")
    node.program = [sys.executable, "-c", _ENTER, str(group / "cgroup.procs"), *CRABNET]
    yield node.start()
    node.end()
    nodes.close()


@pytest.mark.parametrize("delegated", [True, False])
def test_only_a_delegated_group_is_left(group: Path, tmp_path: Path, delegated: bool) -> None:
    if delegated:
        os.setxattr(group, "user.delegate", b"1")
    for node in started_in(group, tmp_path):
        assert node.process is not None
        found = Path(f"/proc/{node.process.pid}/cgroup").read_text(encoding="ascii")
        own = next(line.partition("::")[2] for line in found.splitlines() if line.startswith("0::"))
        assert own == f"/{group.name}" + ("/node" if delegated else "")


def test_a_group_with_other_processes_is_not_left(group: Path, tmp_path: Path) -> None:
    os.setxattr(group, "user.delegate", b"1")
    other = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    try:
        (group / "cgroup.procs").write_text(str(other))
        for _ in started_in(group, tmp_path):
            assert not (group / "node").exists()
    finally:
        os.kill(other, 9)
        os.waitpid(other, 0)
