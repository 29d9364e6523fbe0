"""Building the order to the supervisor from a launch and a fence."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.runner import landlock
from crabnet.runner.sandbox import bwrap, cgroups
from crabnet.runner.sandbox.model import Fence, Mode, Profile, RunLimits
from crabnet.runner.sandbox.requests import Agreed
from crabnet.runner.seccomp import SyscallProfile, filter_program
from crabnet.runner.supervisor.main import BWRAP_PROCESSES
from crabnet.runner.supervisor.order import Bounds, Order

_SYSTEM_DIRECTORIES: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SYSTEM_FILES: Final = ("/etc/alternatives", "/etc/ld.so.cache")
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full")
_RANDOM_DEVICES: Final = ("/dev/random", "/dev/urandom")
_SYSCALL_PROFILES: Final = {Profile.STRICT: SyscallProfile.STRICT, Profile.NETWORK: SyscallProfile.NETWORK}
_WATCH_FIRST_S: Final = 1
"""How much later RLIMIT_CPU signals a single process. The watch ends the whole run first, at its limit of CPU time."""
_ADDRESS_SPACE_FACTOR: Final = 2
"""Room for memory that a process reserves and does not use. Without a control group, the watch counts only used memory.
"""
_ADDRESS_SPACE_BYTES_MIN: Final = 16 * 1024 * 1024 * 1024
"""The lowest RLIMIT_AS with a control group. The group counts used memory, so this only stops absurd reservations."""


_SPARE_THREADS: Final = 5
"""Threads of the node's user that start after they were counted: the supervisor, its template, and threads of the node.
Without room for them a run would reach RLIMIT_NPROC before the watch sees it at its limit."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The program to execute. ``argv[0]`` is the name that it sees. ``executable`` is the file on the host."""

    executable: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: Path
    fresh: bool
    """True if the work dir was made for this run."""


def order(launch: Launch, fence: Fence, agreed: Agreed, group_name: str, *, user_threads: int = 0) -> Order:
    """Return the order for a launch.

    ``user_threads`` is the number of threads that the node's user already has, if they count towards the run's limit.
    """
    limits = agreed.limits
    counted = fence.cgroups is not None and "memory" in fence.cgroups.parents
    boxed = fence.mode is Mode.BWRAP
    return Order(
        fence=fence.mode.value,
        executable=str(launch.executable),
        argv=list(launch.argv),
        env=dict(launch.env),
        drop_root=fence.drop_root,
        own_workdir=launch.fresh,
        rlimits=rlimits(limits, counted=counted, processes=_processes(fence, limits, user_threads)),
        bounds=Bounds(
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            cpu_ms=limits.cpu_time_s * 1000,
            cpu_percent=limits.cpu_percent,
            workdir_bytes=limits.workdir_bytes if launch.fresh and not boxed else 0,
            file_bytes=limits.file_bytes,
        ),
        cgroup=cgroups.order_for(fence.cgroups, group_name) if fence.cgroups is not None else None,
        name=group_name,
        bwrap=str(fence.bwrap or ""),
        bwrap_args=bwrap.arguments(_inside(launch, agreed)) if boxed else [],
        tmpfs=[path for path in bwrap.DISKS if launch.fresh or path != bwrap.WORK] if boxed else [],
        grants=_grants() if fence.mode is Mode.LANDLOCK else [],
        workdir_rights=landlock.WORK if launch.fresh else landlock.READ_EXECUTE,
        seccomp=_filter(fence, agreed.profile, counted=counted).hex(),
    )


def rlimits(limits: RunLimits, *, counted: bool, processes: int) -> list[tuple[int, int, int]]:
    """Return the limits for each process of a run, as resource, soft and hard limit.

    ``counted`` is true if a control group limits the run's memory. With ``processes`` 0 there is no RLIMIT_NPROC.
    """
    if counted:
        space = max(_ADDRESS_SPACE_BYTES_MIN, limits.memory_bytes * _ADDRESS_SPACE_FACTOR)
    else:
        space = limits.memory_bytes * _ADDRESS_SPACE_FACTOR
    cpu_s = limits.cpu_time_s + _WATCH_FIRST_S
    found = [
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_AS, space, space),
    ]
    if processes:
        found.append((resource.RLIMIT_NPROC, processes, processes))
    return found


def _processes(fence: Fence, limits: RunLimits, user_threads: int) -> int:
    """Return the value of RLIMIT_NPROC, 0 for none.

    RLIMIT_NPROC counts all processes of a user within a user namespace. Only in a sandbox are these the run's alone.
    If a control group counts processes, it must refuse first, because it records a refusal and RLIMIT_NPROC does not.
    """
    if fence.mode is Mode.BWRAP:
        by_group = fence.cgroups is not None and "pids" in fence.cgroups.parents
        return limits.processes + BWRAP_PROCESSES + (_GROUP_FIRST if by_group else 0)
    return limits.processes + user_threads + _SPARE_THREADS if fence.mode is Mode.LANDLOCK else 0


def _inside(launch: Launch, agreed: Agreed) -> bwrap.Inside:
    return bwrap.Inside(agreed.profile, agreed.limits, None if launch.fresh else launch.workdir)


def _grants() -> list[tuple[str, int]]:
    return [
        *((path, landlock.READ_EXECUTE) for path in _SYSTEM_DIRECTORIES),
        *((path, landlock.READ) for path in (*_SYSTEM_FILES, *_RANDOM_DEVICES)),
        *((path, landlock.READ_WRITE) for path in _DEVICES),
    ]


def _filter(fence: Fence, profile: Profile, *, counted: bool) -> bytes:
    if fence.mode is Mode.BWRAP:
        return filter_program(_SYSCALL_PROFILES[profile], counted=counted)
    if fence.mode is Mode.LANDLOCK:
        return filter_program(SyscallProfile.LANDLOCK, landlock_abi=fence.landlock_abi, counted=counted)
    return b""


_GROUP_FIRST: Final = 8
"""By how many processes RLIMIT_NPROC exceeds the limit of a control group."""
