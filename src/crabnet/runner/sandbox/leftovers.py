"""Removal of what runs leave when node and supervisor are killed together.

The kernel ends a sandbox with the process above it, except during about a millisecond while bwrap makes the sandbox. A
process that has executed nothing yet can remain then. It is recognised by the name of its gate, which contains the
node's tag.
"""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from crabnet.runner import scratch
from crabnet.runner.sandbox import cgroups
from crabnet.runner.sandbox.model import CgroupPlaces
from crabnet.runner.supervisor.spawn import GATE, STDIN_GATE

_GATES: Final = frozenset({GATE.encode(), STDIN_GATE.encode()})


def run_name(tag: str) -> str:
    """Return a new name for the control group and the gate of one run."""
    return f"run-{tag}-{secrets.token_hex(8)}"


def sweep(places: CgroupPlaces | None, tag: str) -> int:
    """Kill and remove what earlier processes of this node left. Returns the number of leftovers.

    Only the holder of the lock of the tag's data dir may call it.
    """
    groups = cgroups.sweep(places) if places is not None else 0
    return groups + _kill_gates(f"run-{tag}-") + scratch.sweep(tag)


def clear_run(places: CgroupPlaces | None, name: str) -> None:
    """Kill and remove what a run left after its supervisor was killed."""
    if places is not None:
        cgroups.clear(places, name)
    _kill_gates(name)


def _kill_gates(prefix: str) -> int:
    """Kill processes that are, or are about to become, the gate of a run whose name has this prefix."""
    killed = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if not _GATES.isdisjoint(words) and any(word.startswith(prefix.encode()) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
    return killed
