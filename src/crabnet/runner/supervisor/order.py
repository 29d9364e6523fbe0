"""The order of the node to a supervisor: one line of JSON. Standard library only."""

from __future__ import annotations

import json
from typing import NamedTuple

ORDER_BYTES_MAX = 4 * 1024 * 1024


class CgroupOrder(NamedTuple):
    """The control group to make for a run. ``parents`` maps a controller to the directory in which to make it."""

    version: int
    parents: dict[str, str]
    kill_parent: str
    """A directory of cgroup v2 that has ``cgroup.kill``. Empty if there is none."""
    name: str


class Bounds(NamedTuple):
    """The limits of a whole run."""

    memory_bytes: int
    processes: int
    cpu_ms: int
    cpu_percent: int
    workdir_bytes: int
    """The size of a work dir on a disk of the host. 0 if a separate file system enforces it."""
    file_bytes: int = 0
    """The size of one file. The kernel enforces it. The supervisor only reports that it was reached."""


class Order(NamedTuple):
    """One run. ``fence`` is ``none``, ``landlock`` or ``bwrap``. Fields of another fence are empty."""

    fence: str
    executable: str
    argv: list[str]
    env: dict[str, str]
    drop_root: bool
    """If the supervisor is root, run the command as a separate user that owns nothing."""
    own_workdir: bool
    """Make that user the owner of the work dir."""
    rlimits: list[tuple[int, int, int]]
    """Resource, soft limit and hard limit of each entry."""
    bounds: Bounds
    cgroup: CgroupOrder | None
    name: str
    """The name of the gate, which serves to find leftovers when a supervisor was killed."""
    bwrap: str
    bwrap_args: list[str]
    tmpfs: list[str]
    """Paths inside the sandbox whose file systems count as disk."""
    grants: list[tuple[str, int]]
    """Paths, and the Landlock rights over everything beneath them."""
    workdir_rights: int
    seccomp: str
    """The filter program in hexadecimal. Empty for none."""


def decode(line: bytes) -> Order:
    """Decode an order. Raises ValueError, KeyError or TypeError, but only for an order of another version."""
    raw = json.loads(line)
    raw["bounds"] = Bounds(**raw["bounds"])
    raw["rlimits"] = [(kind, soft, hard) for kind, soft, hard in raw["rlimits"]]
    if raw["cgroup"] is not None:
        raw["cgroup"] = CgroupOrder(**raw["cgroup"])
    raw["grants"] = [(path, rights) for path, rights in raw["grants"]]
    return Order(**raw)
