"""No child outlives its node, even if the node is killed at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.support import orphans

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives orphans to another process")

_WAIT_S: Final = 60
_PROGRAMS: Final = "tests.support.child_programs"
_NODE: Final = """
import sys, trio
from crabnet.node.children.children import Children
from crabnet.node.children.spec import ChildSpec
async def main():
    def told(kind, fields):
        print(kind, fields.get("pid"), flush=True)
    children = Children(told, lambda: 0, lambda: 1.0)
    children.keep(ChildSpec(name="a", entry=sys.argv[1], stop_ms=600_000, handshake_ms=600_000))
    print("begins", flush=True)
    for job in children.jobs():
        await job.run()
trio.run(main)
"""


@contextmanager
def node(entry: str) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps one child. Whatever it leaves comes to this process."""
    with (
        orphans.adopted(),
        subprocess.Popen(
            [sys.executable, "-c", _NODE, entry],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            yield process
        finally:
            process.kill()


def none_is_left() -> None:
    """Wait until every child of a node that is gone has ended too."""
    deadline = time.monotonic() + _WAIT_S
    while left := {pid: words for pid, words in orphans.children().items() if "crabnet.child" in words}:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"left: {left}")
        orphans.reap(set())
        time.sleep(0.005)
    orphans.reap(set())


@pytest.mark.parametrize("program", ["works", "stubborn", "computes", "echoes"])
def test_a_child_ends_when_its_node_is_killed(program: str) -> None:
    with node(f"{_PROGRAMS}:{program}") as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("child_started ")
        parent.kill()
        parent.wait()
        none_is_left()


def test_a_stopped_child_ends_when_its_node_is_killed() -> None:
    with node(f"{_PROGRAMS}:works") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[1])
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        none_is_left()


@pytest.mark.parametrize("program", [f"{_PROGRAMS}:deaf", "tests.support.child_stuck_import:main"])
def test_a_child_that_hangs_while_it_starts_ends_when_its_node_is_killed(program: str) -> None:
    with node(program) as parent:
        time.sleep(0.2)
        parent.kill()
        parent.wait()
        none_is_left()


@pytest.mark.parametrize(
    "moment", [pytest.param(each, marks=[pytest.mark.deep] if each % 4 else []) for each in range(20)]
)
def test_no_moment_of_the_start_leaves_an_orphan(moment: int) -> None:
    with node(f"{_PROGRAMS}:deaf") as parent:
        time.sleep(moment * 0.002)  # what is tested is that no moment matters
        parent.kill()
        parent.wait()
        none_is_left()


def test_a_node_that_is_asked_to_end_takes_its_child_with_it() -> None:
    with node(f"{_PROGRAMS}:works") as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("child_started ")
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.readline().startswith("child_ended ")
        parent.wait()
        none_is_left()
