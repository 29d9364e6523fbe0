"""Starting a process as a member of its control groups. Standard library only.

A move by ``cgroup.procs`` takes a lock that all processes of the machine share. It waits until every processor has
passed through the scheduler (an RCU grace period), which takes some 8 ms, and more on a busy machine. There is no such
wait for a process that is created in a group of version 2 (clone3(2), CLONE_INTO_CGROUP), or that has one thread and
moves it by ``tasks`` of version 1.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from functools import cache
from typing import NamedTuple

_CLONE3 = 435
_CLONE_INTO_CGROUP = 0x2_0000_0000
_CLONE_ARGS = struct.Struct("=11Q")
"""``struct clone_args`` of linux/sched.h, in the size that includes ``cgroup``."""


class Membership(NamedTuple):
    """The groups to join: ``cradle``, a directory of cgroup v2 or empty, and ``task_files`` of groups of version 1."""

    cradle: str = ""
    task_files: tuple[str, ...] = ()


def fork_into(groups: Membership) -> tuple[int, Membership]:
    """Fork as os.fork() does. Also returns the groups that the child must still ``join``. Raises OSError.

    Call it only without threads. An old kernel or a container's system call filter may refuse to create a process in a
    group.
    """
    if not groups.cradle:
        return os.fork(), groups
    cradle = os.open(groups.cradle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = _clone(_CLONE_INTO_CGROUP, cradle)
    os.close(cradle)
    return (os.fork(), groups) if pid < 0 else (pid, groups._replace(cradle=""))


def join(groups: Membership) -> None:
    """Join the groups. Call it only without threads. Raises OSError."""
    for path in (*groups.task_files, *([os.path.join(groups.cradle, "cgroup.procs")] if groups.cradle else [])):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def warm_up() -> None:
    """Load in the template what ``fork_into`` needs."""
    _libc()


def _clone(flags: int, cgroup: int) -> int:
    """Call clone3(2) with the effect of fork(2). Returns a negative number when it fails.

    It skips what the interpreter and the C library do for other threads, because there are none.
    """
    arguments = _CLONE_ARGS.pack(flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    return int(_libc().syscall(ctypes.c_long(_CLONE3), ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments))))


@cache
def _libc() -> ctypes.PyDLL:
    """Return the C library. Calls through it keep the interpreter's lock, which a new process could not take again."""
    libc = ctypes.PyDLL(None)
    libc.syscall.restype = ctypes.c_long
    return libc
