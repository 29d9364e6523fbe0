"""``Files`` with faults: the Nth file call fails, is cut short, or is the last one of the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from crabnet.storage.files import Files, OpenMode, RealFiles

T = TypeVar("T")


class KilledError(BaseException):
    """The process is dead: no code of it runs after this, so nothing may catch it."""


class Fault(Enum):
    """What happens to a file call."""

    EIO = "EIO"
    ENOSPC = "ENOSPC"
    EROFS_STICKY = "EROFS from here on"
    SHORT = "short write"
    SHORT_THEN_ERROR = "short write, then an error"
    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    HALF_THEN_KILL = "half written, then killed"
    FSYNC_DROPS = "fsync fails and drops the dirty data"


READS: Final = frozenset({"pread", "size", "listdir", "free_bytes", "drop_cache"})
WRITES: Final = frozenset({"pwrite"})
SYNCS: Final = frozenset({"fsync", "fdatasync"})
KILLS: Final = frozenset({Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.HALF_THEN_KILL})


def applies(fault: Fault, call: str) -> bool:
    """Whether a fault makes sense for a call, and differs there from another fault."""
    if fault in {Fault.SHORT, Fault.SHORT_THEN_ERROR, Fault.HALF_THEN_KILL}:
        return call in WRITES
    if fault is Fault.FSYNC_DROPS:
        return call in SYNCS
    return fault is Fault.EIO or call not in READS


class FaultyFiles:
    """Counts the calls, from 1, and does to call ``n`` what ``plan[n]`` says."""

    def __init__(self, plan: Mapping[int, Fault] | None = None, real: Files | None = None) -> None:
        self._plan = dict(plan or {})
        self._real = real or RealFiles()
        self._paths: dict[int, Path] = {}
        self._durable_bytes: dict[Path, int] = {}
        self._sticky = False
        self.dead = False
        self.calls: list[tuple[str, Path]] = []
        self.armed_at = 0
        self.injected = 0
        self._when: tuple[Callable[[str, Path], bool], Fault] | None = None

    def arm(self, ahead: int, fault: Fault) -> None:
        """Plan a fault for the call that comes ``ahead`` calls from now: 1 is the next one."""
        self.armed_at = len(self.calls) + ahead
        self._plan[self.armed_at] = fault

    def arm_when(self, is_met: Callable[[str, Path], bool], fault: Fault) -> None:
        """Plan a fault for the first call, by name and path, that meets a condition."""
        self._when = (is_met, fault)

    def abandon(self) -> None:
        """What the kernel does when a process is gone: close its files, and so drop its locks."""
        self.dead = True
        for fd in list(self._paths):
            os.close(fd)
        self._paths.clear()

    def _call(self, name: str, path: Path, perform: Callable[[], T]) -> T:
        if self.dead:
            raise KilledError
        self.calls.append((name, path))
        if self._when is not None and self._when[0](name, path):
            self.armed_at = len(self.calls)
            self._plan[self.armed_at] = self._when[1]
            self._when = None
        fault = self._plan.get(len(self.calls))
        if fault is None and not (self._sticky and name not in READS and name != "close"):
            return perform()
        self.injected += 1
        if fault is Fault.KILL_BEFORE:
            self.dead = True
            raise KilledError
        if fault in KILLS:
            perform()
            self.dead = True
            raise KilledError
        if fault is Fault.EROFS_STICKY:
            self._sticky = True
        if fault in {Fault.SHORT, Fault.SHORT_THEN_ERROR}:
            if fault is Fault.SHORT_THEN_ERROR:
                self._plan[len(self.calls) + 1] = Fault.EIO
            return perform()
        if fault is Fault.FSYNC_DROPS:
            os.truncate(path, self._durable_bytes.get(path, 0))
        if name == "close":
            perform()
        number = {Fault.EIO: errno.EIO, Fault.ENOSPC: errno.ENOSPC, Fault.FSYNC_DROPS: errno.EIO}.get(
            fault or Fault.EROFS_STICKY, errno.EROFS
        )
        raise OSError(number, os.strerror(number))

    def _is_cut(self) -> bool:
        fault = self._plan.get(len(self.calls))
        return fault in {Fault.SHORT, Fault.SHORT_THEN_ERROR, Fault.HALF_THEN_KILL}

    def open(self, path: Path, mode: OpenMode) -> int:
        def perform() -> int:
            existed = self._real.size(path)
            fd = self._real.open(path, mode)
            self._paths[fd] = path
            self._durable_bytes.setdefault(path, existed or 0)
            if mode is OpenMode.REPLACE:
                self._durable_bytes[path] = 0
            return fd

        return self._call("open", path, perform)

    def close(self, fd: int) -> None:
        if self.dead:
            return

        def perform() -> None:
            del self._paths[fd]
            self._real.close(fd)

        self._call("close", self._paths.get(fd, Path("?")), perform)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self._call("pread", self._paths.get(fd, Path("?")), lambda: self._real.pread(fd, size, offset))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        def perform() -> int:
            part = data[: len(data) // 2] if self._is_cut() else data
            return self._real.pwrite(fd, part, offset)

        return self._call("pwrite", self._paths.get(fd, Path("?")), perform)

    def _sync(self, name: str, fd: int, sync: Callable[[int], None]) -> None:
        path = self._paths.get(fd, Path("?"))

        def perform() -> None:
            sync(fd)
            self._durable_bytes[path] = os.fstat(fd).st_size

        self._call(name, path, perform)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd, self._real.fsync)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd, self._real.fdatasync)

    def truncate(self, fd: int, size: int) -> None:
        self._call("truncate", self._paths.get(fd, Path("?")), lambda: self._real.truncate(fd, size))

    def allocate(self, fd: int, size: int) -> None:
        self._call("allocate", self._paths.get(fd, Path("?")), lambda: self._real.truncate(fd, size))

    def drop_cache(self, fd: int) -> None:
        self._call("drop_cache", self._paths.get(fd, Path("?")), lambda: self._real.drop_cache(fd))

    def try_lock(self, fd: int) -> bool:
        return self._call("try_lock", self._paths.get(fd, Path("?")), lambda: self._real.try_lock(fd))

    def size(self, path: Path) -> int | None:
        return self._call("size", path, lambda: self._real.size(path))

    def rename(self, source: Path, target: Path) -> None:
        def perform() -> None:
            self._real.rename(source, target)
            self._durable_bytes[target] = self._durable_bytes.pop(source, 0)
            self._paths = {fd: target if path == source else path for fd, path in self._paths.items()}

        self._call("rename", target, perform)

    def unlink(self, path: Path) -> None:
        def perform() -> None:
            self._real.unlink(path)
            self._durable_bytes.pop(path, None)

        self._call("unlink", path, perform)

    def mkdir(self, path: Path) -> None:
        self._call("mkdir", path, lambda: self._real.mkdir(path))

    def listdir(self, path: Path) -> list[str]:
        return self._call("listdir", path, lambda: self._real.listdir(path))

    def fsync_dir(self, path: Path) -> None:
        self._call("fsync_dir", path, lambda: self._real.fsync_dir(path))

    def free_bytes(self, path: Path) -> int:
        return self._call("free_bytes", path, lambda: self._real.free_bytes(path))
