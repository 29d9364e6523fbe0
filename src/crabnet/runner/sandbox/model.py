"""Modes, profiles and limits of runs, and the results of a node's self-test. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from crabnet import limits


class Mode(StrEnum):
    """How a run is separated from the host."""

    BWRAP = "bwrap"
    """Separate namespaces, made by bubblewrap, and a system call filter."""
    LANDLOCK = "landlock"
    """Landlock rules and a system call filter, among the host's processes."""
    NONE = "none"
    """Only limits. The operator must choose this mode explicitly."""


class Choice(StrEnum):
    """The setting ``runner_sandbox``."""

    AUTO = "auto"
    BWRAP = "bwrap"
    LANDLOCK = "landlock"
    NONE = "none"


class Profile(StrEnum):
    """The access that a run has. The operator must allow profiles other than ``strict``."""

    STRICT = "strict"
    NETWORK = "network"
    """Like ``strict``, but in the host's network. It needs bubblewrap."""


class Enforcer(StrEnum):
    """The mechanism that enforces a limit."""

    CGROUP_V1 = "cgroup v1"
    CGROUP_V2 = "cgroup v2"
    RLIMIT = "rlimit"
    """The kernel enforces the limit for each process separately."""
    TMPFS = "tmpfs"
    WATCH = "watch"
    """The supervisor checks several times a second. Fast growth can exceed the limit for a moment."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of one run. A limit covers all processes of the run together, unless it says otherwise."""

    memory_bytes: int = limits.RUNNER_MEMORY_BYTES_DEFAULT
    """If a control group counts the memory, it includes files in the work dir and in ``/tmp``."""
    processes: int = limits.RUNNER_PROCESSES_DEFAULT
    """Processes and threads."""
    cpu_time_s: int = limits.RUNNER_CPU_TIME_S_DEFAULT
    cpu_percent: int = limits.RUNNER_CPU_PERCENT_DEFAULT
    """Percent of one processor. 100 is one whole processor."""
    file_bytes: int = limits.RUNNER_FILE_BYTES_DEFAULT
    """Size of one file."""
    open_files: int = limits.RUNNER_OPEN_FILES_DEFAULT
    """Open files of one process."""
    workdir_bytes: int = limits.RUNNER_WORKDIR_BYTES_DEFAULT
    tmp_bytes: int = limits.RUNNER_TMP_BYTES_DEFAULT
    """Size of ``/tmp``. ``/dev/shm`` may have the same size in addition."""

    def tighter(self, other: RunLimits) -> RunLimits:
        """Return the lower of the two values of each limit."""
        names = self.__dataclass_fields__
        return replace(self, **{name: min(getattr(self, name), getattr(other, name)) for name in names})


@dataclass(frozen=True, slots=True)
class CgroupPlaces:
    """Where this node may make control groups. ``parents`` maps each usable controller to a directory of the node."""

    version: int
    parents: dict[str, Path]
    kill_parent: Path | None
    """A directory of cgroup v2 whose groups have ``cgroup.kill``."""

    @property
    def enforcer(self) -> Enforcer:
        """The enforcer of limits in these groups, as status shows it."""
        return Enforcer.CGROUP_V1 if self.version == 1 else Enforcer.CGROUP_V2


@dataclass(frozen=True, slots=True)
class Fence:
    """How this node confines runs. With ``drop_root``, each run of a root node gets a separate user id."""

    mode: Mode
    cgroups: CgroupPlaces | None = None
    bwrap: Path | None = None
    landlock_abi: int = 0
    drop_root: bool = True


NO_FENCE = Fence(Mode.NONE, drop_root=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One mode that was tried at start: whether it is usable, why not, and how long a run in it took."""

    mode: Mode
    usable: bool
    detail: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """The result of the self-test. Without a ``fence`` this node runs nothing. ``detail`` says why and what to do."""

    choice: Choice
    fence: Fence | None
    profiles: tuple[Profile, ...]
    limits: RunLimits
    enforced_by: dict[str, Enforcer]
    attempts: tuple[Attempt, ...]
    duration_ms: int
    detail: str = ""
    swept: int = 0
    """Leftovers of an earlier node process that were removed."""

    @property
    def mode(self) -> str:
        """The mode's name, or ``unavailable``."""
        return self.fence.mode.value if self.fence is not None else "unavailable"

    @property
    def summary(self) -> str:
        """One line: what confines runs and what enforces each limit, or why nothing is run."""
        if self.fence is None:
            return self.detail
        kept = ", ".join(f"{limit} by {enforcer.value}" for limit, enforcer in self.enforced_by.items())
        return f"{self.mode}: {kept}{'; ' if self.detail else ''}{self.detail}"


def enforcers(fence: Fence) -> dict[str, Enforcer]:
    """Return the enforcer of each limit of ``RunLimits``. A limit that nothing enforces is missing."""
    controllers = fence.cgroups.parents if fence.cgroups is not None else {}
    by_group = fence.cgroups.enforcer if fence.cgroups is not None else Enforcer.WATCH
    found = {
        "memory_bytes": by_group if "memory" in controllers else Enforcer.WATCH,
        "processes": by_group if "pids" in controllers else Enforcer.RLIMIT,
        "cpu_time_s": Enforcer.WATCH,
        "file_bytes": Enforcer.RLIMIT,
        "open_files": Enforcer.RLIMIT,
    }
    if "cpu" in controllers:
        found["cpu_percent"] = by_group
    if fence.mode is Mode.BWRAP:
        found |= {"workdir_bytes": Enforcer.TMPFS, "tmp_bytes": Enforcer.TMPFS}
    else:
        found["workdir_bytes"] = Enforcer.WATCH
    if fence.mode is Mode.NONE and "pids" not in controllers:
        del found["processes"]  # other processes share the user id, and RLIMIT_NPROC would count them
    return found
