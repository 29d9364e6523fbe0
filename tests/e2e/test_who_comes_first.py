"""Several processes want one data dir (own-6)."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crabnet.control.client import SOCKET_NAME
from crabnet.errors import ExitCode
from crabnet.storage.files import RealFiles
from crabnet.storage.lock import DirLock, LockRole
from tests.support.nodes import CRABNET, Nodes, crabnet, environment, quiet

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


@contextmanager
def owned(data_dir: Path, role: LockRole) -> Iterator[None]:
    """The data dir is in use by a command, or by a node."""
    lock = DirLock.acquire(RealFiles(), data_dir / "lock", role, program="crabnet", now_ms=0)
    try:
        yield
    finally:
        lock.release()


def test_a_node_waits_for_a_command_to_end(nodes: Nodes) -> None:
    node = nodes.make("node")
    with owned(node.data_dir, LockRole.COMMAND):
        node.launch()
        process = node.process
        assert process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    node.ready()
    assert node.publish()


def test_a_node_does_not_wait_for_another(tmp_path: Path) -> None:
    with owned(tmp_path, LockRole.NODE):
        assert crabnet("listen", *quiet(tmp_path)).returncode == ExitCode.BUSY


def test_a_run_whose_node_ends_before_it_took_the_request_is_not_done_here(tmp_path: Path) -> None:
    """Its data dir would be in use for as long as the task takes."""
    data_dir = tmp_path / "d"
    done = crabnet(*PUBLISH, *quiet(data_dir))
    seed_id = done.stdout.split()[-1]
    with socket.socket(socket.AF_UNIX) as node, socket.socket(socket.AF_UNIX) as first:
        node.bind(str(data_dir / SOCKET_NAME))
        node.listen(0)
        first.connect(str(data_dir / SOCKET_NAME))
        run = subprocess.Popen(
            [*CRABNET, "seed", "run", seed_id, *quiet(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(timeout=2)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == ExitCode.TIMEOUT, stderr
    assert "node_stopping" in stderr
    assert "nothing was done" in stderr
