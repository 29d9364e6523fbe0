"""Kills a part of a run in the middle of its start, over and over, and looks for what is left.

A process of its own (``python death.py ORDER``): it is the subreaper of everything that it starts. For each delay it
forks a node that begins a run, kills the victims that long after they appeared, and waits until no process is left.
It prints what survived, what the node said, and what sweeping could not remove.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from crabnet.runner.execute import run_command
from crabnet.runner.outcome import RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox import cgroups, leftovers
from crabnet.runner.sandbox.model import CgroupPlaces, Fence, Mode
from crabnet.runner.supervisor.tree import children_of
from tests.sandbox.node import LIMITS, fence_of, groups

ALONE_S = 1.0
"""Until what is left when several were killed at once is swept."""
GONE_S = 10.0
"""Until every process has ended; what is still there then has survived."""
TAG = f"death-{os.getpid()}"


def descendants(pid: int) -> list[int]:
    found = children_of(pid)
    return found + [below for child in found for below in descendants(child)]


def program_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def wait_for(look: Callable[[], list[int]], node: int) -> list[int]:
    """Until ``look`` finds something, or the node has nothing more to start."""
    until_s = time.monotonic() + GONE_S
    while time.monotonic() < until_s and os.waitid(os.P_PID, node, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if found := look():
            return found
    return []


def templates(node: int) -> list[int]:
    """What supervisors are forked from."""
    return children_of(node)


def supervisors(node: int) -> list[int]:
    return [below for one in templates(node) for below in children_of(one)]


def launchers(node: int) -> list[int]:
    """bwrap itself; without it, the command."""
    return [below for one in supervisors(node) for below in children_of(one)]


def inits(node: int) -> list[int]:
    """Process 1 of the sandbox."""
    return [below for one in launchers(node) if program_of(one) == "bwrap" for below in children_of(one)]


VICTIMS: dict[str, tuple[Callable[[int], list[int]], ...]] = {
    "node": (lambda node: [node],),
    "supervisor": (supervisors,),
    "launcher": (launchers,),
    "init": (inits,),
    "node and template": (templates, lambda node: [node]),
    "supervisor and template": (supervisors, templates),
    "node and supervisor": (supervisors, lambda node: [node]),
    "node, supervisor and launcher": (launchers, supervisors, lambda node: [node]),
}


def begin(fence: Fence, command: str) -> tuple[int, int]:
    """Fork a node that runs ``command``. Returns its number, and where it will say how that went."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    os.close(reader)
    policy = RunnerPolicy(allowed_commands=frozenset({"*"}), kill_wait_ms=100, limits=LIMITS)
    outcome = trio.run(run_command, RunRequest("death", command, 600_000, owner_tag=TAG), policy, fence)
    os.write(writer, outcome.termination.cause.value.encode())
    os._exit(0)


def survivors(within_s: float) -> list[str]:
    """Reap what has ended and wait for the rest; the command lines of those that stay."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        time.sleep(0.005)
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(os.getpid())]


def end_all() -> None:
    """Kill everything beneath this process, and wait for the end of it."""
    for pid in [*descendants(os.getpid()), *children_of(os.getpid())]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    survivors(GONE_S)


def attempt(fence: Fence, places: CgroupPlaces | None, victims: str, delay_ms: float) -> dict[str, object]:
    # A number that no other process on this machine has in its arguments.
    node, said = begin(fence, f"sleep {86_400 + os.getpid()}.{time.monotonic_ns()}")
    looks = VICTIMS[victims]
    found = wait_for(lambda: looks[0](node), node)
    time.sleep(delay_ms / 1000)
    killed = 0
    victims_pids: set[int] = set()
    for pid in {*found, *(pid for look in looks for pid in look(node))}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
            victims_pids.add(pid)
    left = survivors(ALONE_S if len(looks) > 1 else GONE_S)
    if left and templates in looks and set(templates(node)) - victims_pids:
        # All died before the run had got its order, so the node began it anew, as it should: that hit nothing.
        end_all()
        os.close(said)
        return attempt(fence, places, victims, delay_ms)
    if left and len(looks) > 1:
        leftovers.sweep(places, TAG)  # what the next start of the node does
        left = survivors(GONE_S)
    end_all()
    answer = os.read(said, 100).decode()
    os.close(said)
    return {"delay_ms": delay_ms, "killed": killed, "survivors": left, "cause": answer}


def main(order: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    os.environ["TMPDIR"] = tempfile.tempdir = order["directory"]
    places = cgroups.find_places(TAG)
    held = None if places is None else cgroups.hold(places)
    fence = fence_of(Mode(order["mode"]), places)
    found = [attempt(fence, places, order["victims"], delay_ms) for delay_ms in order["delays_ms"]]
    leftovers.sweep(places, TAG)
    left = [*groups(places), *os.listdir(order["directory"])]
    if held is not None:
        held.release()
    print(json.dumps({"attempts": found, "left": left}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
