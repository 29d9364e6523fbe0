"""The control group of one run: setting limits, reading usage, killing and removing. Standard library only.

The kernel's documents ``cgroup-v1/memory``, ``cgroup-v1/pids`` and ``cgroup-v2`` describe the files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import NamedTuple

from crabnet.runner.supervisor.cgroup_join import Membership
from crabnet.runner.supervisor.order import Bounds, CgroupOrder

CPU_PERIOD_US = 100_000
_REMOVE_TRIES = 100
_REMOVE_PAUSE_S = 0.01


class CgroupUsage(NamedTuple):
    """The usage of a group so far. A value is 0 if the kernel does not report it."""

    memory_peak_bytes: int
    oom_kills: int
    fork_refusals: int
    cpu_ms: int


class RunCgroup:
    """The control group of one run: a directory in each hierarchy. Raises OSError if it cannot be made as ordered."""

    def __init__(self, order: CgroupOrder, bounds: Bounds, spare_processes: int) -> None:
        self._version = order.version
        self._directories = {
            controller: os.path.join(parent, order.name) for controller, parent in order.parents.items()
        }
        self._kill_directory = os.path.join(order.kill_parent, order.name) if order.kill_parent else ""
        try:
            for directory in self._all():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory, 0o755)
            limits = _limits_v1 if order.version == 1 else _limits_v2
            for controller, name, value, needed in limits(bounds, spare_processes):
                if controller in self._directories:
                    self._write(controller, name, value, needed=needed)
        except OSError:
            self.remove()
            raise

    def _all(self) -> list[str]:
        found = list(dict.fromkeys(self._directories.values()))
        if self._kill_directory and self._kill_directory not in found:
            found.append(self._kill_directory)
        return found

    @property
    def limits_memory(self) -> bool:
        """True if the kernel counts the memory of the whole run."""
        return "memory" in self._directories

    @property
    def member_files(self) -> list[str]:
        """The files by which a process joins the group: it writes 0 to each of them."""
        return [os.path.join(directory, "cgroup.procs") for directory in self._all()]

    @property
    def membership(self) -> Membership:
        """The groups that a new process of the run must join."""
        if self._version != 1:
            return Membership(cradle=next(iter(self._all()), ""))
        tasks = (os.path.join(directory, "tasks") for directory in dict.fromkeys(self._directories.values()))
        return Membership(self._kill_directory, tuple(tasks))

    def usage(self) -> CgroupUsage:
        """Read the counters."""
        if self._version == 1:
            return CgroupUsage(
                self._number("memory", "memory.max_usage_in_bytes"),
                self._counter("memory", "memory.oom_control", "oom_kill"),
                self._counter("pids", "pids.events", "max"),
                self._number("cpuacct", "cpuacct.usage") // 1_000_000,
            )
        return CgroupUsage(
            self._number("memory", "memory.peak"),
            self._counter("memory", "memory.events", "oom_kill"),
            self._counter("pids", "pids.events", "max"),
            self._counter("cpu", "cpu.stat", "usage_usec") // 1_000,
        )

    def kill(self) -> None:
        """Send SIGKILL to every member."""
        if self._kill_directory:
            with contextlib.suppress(OSError):
                _write_file(os.path.join(self._kill_directory, "cgroup.kill"), "1")
                return
        for pid in self._members():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove the directories. The kernel may need a moment after the last member has ended."""
        for directory in self._all():
            for _ in range(_REMOVE_TRIES):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(_REMOVE_PAUSE_S)
                else:
                    break

    def _members(self) -> list[int]:
        """Return the process ids of the members.

        It omits 0, which stands for a process of another namespace (pid_namespaces(7)): kill(0) would hit this process.
        """
        for path in self.member_files:
            with contextlib.suppress(OSError):
                return [pid for word in _read_file(path).split() if (pid := int(word)) > 0]
        return []

    def _write(self, controller: str, name: str, value: str, *, needed: bool) -> None:
        try:
            _write_file(os.path.join(self._directories[controller], name), value)
        except OSError:
            if needed:
                raise

    def _number(self, controller: str, name: str) -> int:
        with contextlib.suppress(KeyError, OSError, ValueError):
            return int(_read_file(os.path.join(self._directories[controller], name)))
        return 0

    def _counter(self, controller: str, name: str, key: str) -> int:
        with contextlib.suppress(KeyError, OSError, ValueError):
            for line in _read_file(os.path.join(self._directories[controller], name)).splitlines():
                found, _, value = line.partition(" ")
                if found == key:
                    return int(value)
        return 0


def _limits_v1(bounds: Bounds, spare_processes: int) -> list[tuple[str, str, str, bool]]:
    """Return controller, file and value of each limit, and true if the run may not start without it."""
    memory = str(bounds.memory_bytes)
    return [
        ("memory", "memory.limit_in_bytes", memory, True),
        ("memory", "memory.memsw.limit_in_bytes", memory, False),
        ("pids", "pids.max", str(bounds.processes + spare_processes), True),
        ("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US), False),
        ("cpu", "cpu.cfs_quota_us", str(CPU_PERIOD_US * bounds.cpu_percent // 100), False),
    ]


def _limits_v2(bounds: Bounds, spare_processes: int) -> list[tuple[str, str, str, bool]]:
    return [
        ("memory", "memory.max", str(bounds.memory_bytes), True),
        ("memory", "memory.swap.max", "0", False),
        ("memory", "memory.oom.group", "1", False),
        ("pids", "pids.max", str(bounds.processes + spare_processes), True),
        ("cpu", "cpu.max", f"{CPU_PERIOD_US * bounds.cpu_percent // 100} {CPU_PERIOD_US}", False),
    ]


def _read_file(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write_file(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
