"""A node that is process 1 of a container reaps orphans, passes signals on, and ends with the node's exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.nodes import CRABNET, NodeProcess, Nodes, environment, quiet, wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a process id namespace needs root: NOT tested"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed: NOT tested"),
]
INSIDE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *CRABNET]


@contextmanager
def contained(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node whose first process is process 1 of a PID namespace."""
    nodes = Nodes(tmp_path)
    node = nodes.make("node")
    node.program = INSIDE
    try:
        node.start()
        yield node
        if node.process is not None:
            os.kill(first_process(node), signal.SIGTERM)
            node.await_end()
    finally:
        nodes.close()


def children(pid: int) -> list[int]:
    """The children of a process, by their numbers here."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def first_process(node: NodeProcess) -> int:
    """Process 1 of the namespace, by its number here."""
    assert node.process is not None
    return children(node.process.pid)[0]


def test_an_orphan_is_reaped(tmp_path: Path) -> None:
    with contained(tmp_path) as node:
        first = first_process(node)
        (main,) = children(first)
        enter = ["nsenter", "-t", str(first), "--pid", "--mount", "sh", "-c", "sleep 600 & echo $!"]
        subprocess.run(enter, check=True, stdout=subprocess.DEVNULL)
        (orphan,) = wait_for("the orphan is adopted", lambda: [pid for pid in children(first) if pid != main])
        os.kill(orphan, signal.SIGKILL)
        wait_for("the orphan is reaped", lambda: children(first) == [main])
        assert node.ask("status")["running"] is True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_node_in_order(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with contained(tmp_path) as node:
        process = node.process
        assert process is not None
        os.kill(first_process(node), number)
        assert node.await_end() == code
        assert node.events("node_stopped", clean=True)


def test_a_killed_node_is_reported_as_a_shell_would(tmp_path: Path) -> None:
    with contained(tmp_path) as node:
        (main,) = children(first_process(node))
        os.kill(main, signal.SIGKILL)
        assert node.await_end() == 128 + signal.SIGKILL


def test_the_exit_code_of_a_node_that_cannot_start(tmp_path: Path) -> None:
    words = ["listen", *quiet(tmp_path / "data"), "--config", str(tmp_path / "missing.toml")]
    done = subprocess.run([*INSIDE, *words], capture_output=True, text=True, check=False, env=environment(), timeout=60)
    assert done.returncode == ExitCode.USAGE
    words = ["listen", "--data-dir", str(tmp_path / "data"), "--listen-addr", "192.0.2.1:9", "--announce-addr", ""]
    done = subprocess.run([*INSIDE, *words], capture_output=True, text=True, check=False, env=environment(), timeout=60)
    assert done.returncode == ExitCode.NETWORK, done.stderr
