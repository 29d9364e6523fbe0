"""What the node tells a supervisor: one line of JSON. Standard library only."""

from __future__ import annotations

import json
from typing import NamedTuple

ORDER_BYTES_MAX = 4 * 1024 * 1024


class CgroupOrder(NamedTuple):
    """The control group to make for a run. ``parents`` maps a controller to the directory in which to make it."""

    version: int
    parents: dict[str, str]
    kill_parent: str
    """A directory of cgroup v2 that has ``cgroup.kill``; empty without one."""
    name: str


class Bounds(NamedTuple):
    """What a whole run may use."""

    memory_bytes: int
    processes: int
    cpu_ms: int
    cpu_percent: int
    workdir_bytes: int
    """Watched in a work dir on a disk of the host; 0 where a file system of its own keeps it."""
    file_bytes: int = 0
    """Of one file; the kernel keeps it, this is for telling that it was reached."""


class Order(NamedTuple):
    """One run. ``fence`` is ``none``, ``landlock`` or ``bwrap``; what belongs to another fence is empty."""

    fence: str
    executable: str
    argv: list[str]
    env: dict[str, str]
    drop_root: bool
    """Run as a user of its own that owns nothing, when the supervisor is root."""
    own_workdir: bool
    """Give the work dir to that user."""
    rlimits: list[tuple[int, int, int]]
    """Resource, soft and hard limit."""
    bounds: Bounds
    cgroup: CgroupOrder | None
    name: str
    """Of the gate, for finding what is left when a supervisor was killed."""
    bwrap: str
    bwrap_args: list[str]
    tmpfs: list[str]
    """Paths inside the sandbox whose file systems count as disk."""
    grants: list[tuple[str, int]]
    """Paths and Landlock rights over what is beneath them."""
    workdir_rights: int
    seccomp: str
    """The filter program, in hexadecimal; empty for none."""


def decode(line: bytes) -> Order:
    """Raises ValueError, KeyError or TypeError: only for a node of another version."""
    raw = json.loads(line)
    raw["bounds"] = Bounds(**raw["bounds"])
    raw["rlimits"] = [(kind, soft, hard) for kind, soft, hard in raw["rlimits"]]
    if raw["cgroup"] is not None:
        raw["cgroup"] = CgroupOrder(**raw["cgroup"])
    raw["grants"] = [(path, rights) for path, rights in raw["grants"]]
    return Order(**raw)
