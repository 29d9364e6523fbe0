"""What the processes beneath one process use, read from ``/proc``. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from typing import NamedTuple

_PROCESSES_READ_MAX = 4_096
NAMES_MAX = 20_000
"""Files in a work dir on a disk of the host, where no quota counts them."""
_BLOCK_BYTES = 512
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UTIME, _CSTIME, _THREADS = 11, 14, 17
"""Places in ``/proc/PID/stat`` after the name in parentheses: proc(5), fields 14, 17 and 20."""


class TreeUsage(NamedTuple):
    """Sums over all descendants. ``cpu_ms`` holds what they used and what the children they waited for used;
    ``unheard`` tells that some of them do not wait: what their children used is lost when these end.
    """

    threads: int
    cpu_ms: int
    private_bytes: int
    """Resident pages that are not shared."""
    resident_bytes: int
    """Shared pages are in there as often as processes share them."""
    unheard: bool


def children_of(pid: int) -> list[int]:
    """The children of all threads of a process; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):  # that thread has ended; the others may have children, too
                found += [int(child) for child in _read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def usage_beneath(pid: int) -> TreeUsage:
    """Sum up the descendants of ``pid``, without itself. What comes and goes meanwhile may be missed."""
    threads = cpu_ticks = pages = resident_pages = read = 0
    unheard = False
    waiting = children_of(pid)
    while waiting and read < _PROCESSES_READ_MAX:
        child = waiting.pop()
        read += 1
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = _read(f"/proc/{child}/stat").rpartition(b")")[2].split()
            cpu_ticks += sum(int(ticks) for ticks in fields[_UTIME : _CSTIME + 1])
            threads += int(fields[_THREADS])
            resident, shared = _read(f"/proc/{child}/statm").split()[1:3]
            pages += int(resident) - int(shared)
            resident_pages += int(resident)
            children = children_of(child)
            unheard = unheard or (bool(children) and _ignores_children(child))
            waiting += children
    cpu_ms = cpu_ticks * 1000 // _TICKS_PER_S
    return TreeUsage(threads, cpu_ms, pages * _PAGE_BYTES, resident_pages * _PAGE_BYTES, unheard)


def _ignores_children(pid: int) -> bool:
    """Whether a process ignores SIGCHLD: the kernel waits for its children then, and adds nothing up (wait(2))."""
    ignored = status_field(pid, "SigIgn")
    return bool(ignored) and bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def memory_beneath(pid: int) -> int:
    """Bytes of memory that the descendants of ``pid`` hold and that no file on a disk stands behind.

    A page that several share counts once; all pages of a process that may not be looked at count. Costs more than
    ``usage_beneath``: the kernel walks their page tables.
    """
    total = 0
    for child in _descendants(pid):
        try:
            total += _own_memory(child)
        except PermissionError:
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += int(_read(f"/proc/{child}/statm").split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    return total


def _own_memory(pid: int) -> int:
    return sum(
        int(line.split()[1]) * 1024
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()
        if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))
    )


class Removed(NamedTuple):
    """``used_bytes`` of files without a name that processes have open; ``unseen`` are processes whose open files may
    not be looked at: those of a program that its user may execute and not read (proc(5), PR_SET_DUMPABLE). A process
    that has become another user is not among them. Only a run without a sandbox can start one, such as ``sudo``, and
    the operator allows it by running commands in that way.
    """

    used_bytes: int
    unseen: frozenset[int]


def removed_beneath(pid: int, device: int) -> Removed:
    """What the descendants of ``pid`` have open of removed files on ``device``."""
    sizes: dict[int, int] = {}
    unseen: set[int] = set()
    for child in _descendants(pid):
        try:
            names = os.listdir(f"/proc/{child}/fd")
        except PermissionError:
            unseen.add(child)
            continue
        except OSError:
            continue  # it has just ended
        for fd in names:
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{child}/fd/{fd}")
                if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                    sizes[found.st_ino] = found.st_blocks * _BLOCK_BYTES
    return Removed(sum(sizes.values()), frozenset(each for each in unseen if _is_own(each)))


def _is_own(pid: int) -> bool:
    """Whether a process runs, and as the present user."""
    users = status_field(pid, "Uid").split()
    return status_field(pid, "State")[:1] not in {"", "Z", "X"} and users[1:2] == [str(os.geteuid())]


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = children_of(pid)
    while waiting and len(found) < _PROCESSES_READ_MAX:
        found.append(waiting.pop())
        waiting += children_of(found[-1])
    return found


class DiskUsage(NamedTuple):
    """What lies beneath a directory. ``largest_bytes`` is the size of its largest file, holes included."""

    used_bytes: int
    names: int
    largest_bytes: int


def disk_beneath(directory: int) -> DiskUsage:
    """Follows no link at the end of a path. Stops at ``NAMES_MAX`` names; a directory too deep for a path counts as
    that many.
    """
    used = names = largest = 0
    waiting = ["."]
    while waiting and names <= NAMES_MAX:
        path = waiting.pop()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                names += NAMES_MAX
            continue
        try:
            for entry in os.scandir(fd):
                names += 1
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    used += found.st_blocks * _BLOCK_BYTES
                    if stat.S_ISREG(found.st_mode):
                        largest = max(largest, found.st_size)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{path}/{entry.name}")
                if names > NAMES_MAX:
                    break
        except OSError:
            pass
        finally:
            os.close(fd)
    return DiskUsage(used, names, largest)


def threads_of_user(uid: int) -> int:
    """How many threads a user has on this machine, as far as can be seen."""
    threads = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    threads += int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[_THREADS])
    return threads


def status_field(pid: int, name: str) -> str:
    """One line of ``/proc/PID/status``, without its name; empty when the process is gone."""
    with contextlib.suppress(OSError):
        for line in _read(f"/proc/{pid}/status").decode(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
    return ""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, 65_536):
            data += chunk
        return data
    finally:
        os.close(fd)
