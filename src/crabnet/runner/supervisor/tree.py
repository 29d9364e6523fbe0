"""Measures the resources that the descendants of a process use, from ``/proc``. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from typing import NamedTuple

_PROCESSES_READ_MAX = 4_096
NAMES_MAX = 20_000
"""The most files in a work dir on a disk of the host, where no quota counts them."""
_BLOCK_BYTES = 512
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UTIME, _CSTIME, _THREADS = 11, 14, 17
"""Indexes of fields in ``/proc/PID/stat`` after the name in parentheses: proc(5), fields 14, 17 and 20."""


class TreeUsage(NamedTuple):
    """Sums over all descendants.

    ``cpu_ms`` is the time of the descendants and of the children for which they waited. ``unheard`` is true if some of
    them do not wait for their children: the time of these children is lost when they end.
    """

    threads: int
    cpu_ms: int
    private_bytes: int
    """Resident pages that are not shared."""
    resident_bytes: int
    """Resident pages. A shared page counts once for each process that shares it."""
    unheard: bool


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process, none if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, ValueError):  # this thread has ended, but others may have children
                found += [int(child) for child in _read(f"/proc/{pid}/task/{thread}/children").split()]
    return found


def usage_beneath(pid: int) -> TreeUsage:
    """Sum up the descendants of ``pid``, without ``pid`` itself. It may miss processes that start or end meanwhile."""
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
    """True if a process ignores SIGCHLD. The kernel then reaps its children without adding up their time (wait(2))."""
    ignored = status_field(pid, "SigIgn")
    return bool(ignored) and bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def memory_beneath(pid: int) -> int:
    """Return the bytes of memory of the descendants of ``pid`` that are not backed by a file on a disk.

    A page that several processes share counts once. All pages count for a process whose memory map may not be read.
    This costs more than ``usage_beneath``, because the kernel walks the page tables.
    """
    total = 0
    for child in _descendants(pid):
        try:
            total += _own_memory(child)
        except PermissionError:
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += int(_read(f"/proc/{child}/statm").split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            continue  # the process has just ended
    return total


def _own_memory(pid: int) -> int:
    return sum(
        int(line.split()[1]) * 1024
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()
        if line.startswith((b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))
    )


class Removed(NamedTuple):
    """Files without a name that processes have open.

    ``used_bytes`` is their space on the disk. ``unseen`` are processes whose open files may not be read. Such a process
    executes a program that its user may execute but not read (proc(5), PR_SET_DUMPABLE). A process that has become
    another user is not included. Only a run without a sandbox can start one, such as ``sudo``. The operator allows that
    by running commands without a sandbox.
    """

    used_bytes: int
    unseen: frozenset[int]


def removed_beneath(pid: int, device: int) -> Removed:
    """Return the removed files on ``device`` that the descendants of ``pid`` have open."""
    sizes: dict[int, int] = {}
    unseen: set[int] = set()
    for child in _descendants(pid):
        try:
            names = os.listdir(f"/proc/{child}/fd")
        except PermissionError:
            unseen.add(child)
            continue
        except OSError:
            continue  # the process has just ended
        for fd in names:
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{child}/fd/{fd}")
                if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                    sizes[found.st_ino] = found.st_blocks * _BLOCK_BYTES
    return Removed(sum(sizes.values()), frozenset(each for each in unseen if _is_own(each)))


def _is_own(pid: int) -> bool:
    """True if a process runs as this process's user."""
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
    """The files beneath a directory. ``largest_bytes`` is the size of the largest file, including holes."""

    used_bytes: int
    names: int
    largest_bytes: int


def disk_beneath(directory: int) -> DiskUsage:
    """Measure the files beneath an open directory. Follows no link at the end of a path.

    It stops after ``NAMES_MAX`` names. A directory that is too deep for a path counts as that many names.
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
    """Return how many threads a user has on this machine, as far as ``/proc`` shows them."""
    threads = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    threads += int(_read(f"/proc/{name}/stat").rpartition(b")")[2].split()[_THREADS])
    return threads


def status_field(pid: int, name: str) -> str:
    """Return the value of one line of ``/proc/PID/status``, "" if the process has ended."""
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
