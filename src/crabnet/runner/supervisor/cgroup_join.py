"""Starting a process as a member of its control groups. Standard library only.

A move by ``cgroup.procs`` takes a lock that all processes of the machine share, and waits until every processor has
passed through the scheduler (an RCU grace period): some 8 ms, more on a busy machine. A process that is born in a
group of version 2 (clone3(2), CLONE_INTO_CGROUP), or has one thread and moves it by ``tasks`` of version 1, does not.
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
"""``struct clone_args`` of linux/sched.h, in the size that has ``cgroup``."""


class Membership(NamedTuple):
    """``cradle``: a directory of cgroup v2, or empty. ``task_files``: of groups of version 1."""

    cradle: str = ""
    task_files: tuple[str, ...] = ()


def fork_into(groups: Membership) -> tuple[int, Membership]:
    """Fork as os.fork() does, with what the child has still to ``join``. Only without threads. Raises OSError.

    An old kernel, or a container's filter of system calls, may refuse a birth in a group.
    """
    if not groups.cradle:
        return os.fork(), groups
    cradle = os.open(groups.cradle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = _clone(_CLONE_INTO_CGROUP, cradle)
    os.close(cradle)
    return (os.fork(), groups) if pid < 0 else (pid, groups._replace(cradle=""))


def join(groups: Membership) -> None:
    """Become a member. Only without threads. Raises OSError."""
    for path in (*groups.task_files, *([os.path.join(groups.cradle, "cgroup.procs")] if groups.cradle else [])):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def warm_up() -> None:
    """Load what ``fork_into`` needs, in the process that supervisors are forked from."""
    _libc()


def _clone(flags: int, cgroup: int) -> int:
    """clone3(2) as fork(2) is made of it. Negative when it fails.

    It leaves out what the interpreter and the C library do for the other threads, and there are none.
    """
    arguments = _CLONE_ARGS.pack(flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    return int(_libc().syscall(ctypes.c_long(_CLONE3), ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments))))


@cache
def _libc() -> ctypes.PyDLL:
    """Calls by it keep the interpreter's lock, which a new process could not take back."""
    libc = ctypes.PyDLL(None)
    libc.syscall.restype = ctypes.c_long
    return libc
