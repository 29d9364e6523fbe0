"""Every data dir that a power cut could leave, by replaying a trace of file calls.

Only fsync of a file makes its bytes and length durable, only fsync of a directory its entries. Everything else may
have reached the disk or not, in any order, by half, or as zeros. After a failed fsync the bytes that were waiting never
reach the disk, although reading still shows them: this is what Linux does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from crabnet.storage.files import OpenMode, RealFiles
from tests.faults.suites import Report
from tests.faults.workload import STEPS, Snapshot, Trail, judge, put, run


class Write(NamedTuple):
    """Bytes for a file: written, or cut off when ``data`` is ``None``."""

    inode: int
    offset: int
    data: bytes | None


class Name(NamedTuple):
    """A change of directory entries: a new file or directory, a move, or a removal (without ``target``)."""

    inode: int | None
    source: str
    target: str | None
    is_dir: bool


@dataclass
class Event:
    """One step of the trace, with the promises that hold from then on."""

    write: Write | None = None
    name: Name | None = None
    synced_inode: int | None = None
    failed_inode: int | None = None
    synced_dir: str | None = None
    acknowledged: int = 0
    attempted: int = 0


class TracingFiles(RealFiles):
    """The real file system, with a trace; ``failing_syncs`` are the file syncs (from 1) that fail."""

    def __init__(self, root: Path, failing_syncs: frozenset[int] = frozenset()) -> None:
        self._root = root
        self._failing = failing_syncs
        self.syncs = 0
        self.events: list[Event] = []
        self.trail = Trail()
        self._numbers: dict[int, int] = {}

    def _inode(self, fd: int) -> int:
        """A number of our own for a file: the file system uses those of deleted files again."""
        return self._numbers[os.fstat(fd).st_ino]

    def _add(self, event: Event) -> None:
        event.acknowledged, event.attempted = len(self.trail.acknowledged), max(self.trail.attempted, default=0)
        self.events.append(event)

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def open(self, path: Path, mode: OpenMode) -> int:
        existed = self.size(path) is not None
        fd = super().open(path, mode)
        if not existed:
            self._numbers[os.fstat(fd).st_ino] = len(self.events)
        inode = self._inode(fd)
        if not existed:
            self._add(Event(name=Name(inode, self._relative(path), self._relative(path), is_dir=False)))
        elif mode is OpenMode.REPLACE:
            self._add(Event(write=Write(inode, 0, None)))
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        self._add(Event(write=Write(self._inode(fd), offset, data[:written])))
        return written

    def _sync(self, fd: int, sync: Callable[[int], None]) -> None:
        self.syncs += 1
        inode = self._inode(fd)
        if self.syncs in self._failing:
            self._add(Event(failed_inode=inode))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)
        self._add(Event(synced_inode=inode))

    def fsync(self, fd: int) -> None:
        self._sync(fd, super().fsync)

    def fdatasync(self, fd: int) -> None:
        self._sync(fd, super().fdatasync)

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._add(Event(write=Write(self._inode(fd), size, None)))

    def allocate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._add(Event(name=Name(None, self._relative(source), self._relative(target), is_dir=False)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._add(Event(name=Name(None, self._relative(path), None, is_dir=False)))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._add(Event(name=Name(None, self._relative(path), self._relative(path), is_dir=True)))

    def fsync_dir(self, path: Path) -> None:
        super().fsync_dir(path)
        if path.is_relative_to(self._root):
            self._add(Event(synced_dir=self._relative(path)))


def _written(content: bytes, write: Write) -> bytes:
    content = content.ljust(write.offset, b"\0")
    if write.data is None:
        return content[: write.offset]
    return content[: write.offset] + write.data + content[write.offset + len(write.data) :]


@dataclass
class _Disk:
    """What is durable, and what waits."""

    content: dict[int, bytes] = field(default_factory=dict)
    entries: dict[str, int | None] = field(default_factory=dict)
    waiting: list[Write | Name] = field(default_factory=list)

    def copy(self) -> _Disk:
        return _Disk(dict(self.content), dict(self.entries), [])

    def apply(self, change: Write | Name) -> None:
        if isinstance(change, Write):
            self.content[change.inode] = _written(self.content.get(change.inode, b""), change)
        elif change.target is None:
            self.entries.pop(change.source, None)
        elif change.is_dir or change.inode is not None:
            self.entries[change.target] = change.inode
        elif change.source in self.entries:
            self.entries[change.target] = self.entries.pop(change.source)

    def settle(self, chosen: Callable[[Write | Name], bool]) -> None:
        for change in self.waiting:
            if chosen(change):
                self.apply(change)
        self.waiting = [change for change in self.waiting if not chosen(change)]

    def feed(self, event: Event) -> None:
        if event.write is not None:
            self.waiting.append(event.write)
        if event.name is not None:
            self.waiting.append(event.name)
        if event.synced_inode is not None:
            self.settle(lambda change: isinstance(change, Write) and change.inode == event.synced_inode)
        if event.failed_inode is not None:
            doomed = event.failed_inode
            self.waiting = [c for c in self.waiting if not (isinstance(c, Write) and c.inode == doomed)]
        if event.synced_dir is not None:
            parent = event.synced_dir
            self.settle(lambda change: isinstance(change, Name) and parent in _parents(change))

    def snapshot(self) -> Snapshot:
        """The files that can be reached from the root."""
        found: Snapshot = {}
        for name, inode in sorted(self.entries.items()):
            parent = str(Path(name).parent)
            if parent == "." or (parent in found and found[parent] is None):
                found[name] = None if inode is None else self.content.get(inode, b"")
        return found


def _parents(change: Name) -> set[str]:
    return {str(Path(name).parent) for name in (change.source, change.target) if name is not None}


def states_after(disk: _Disk) -> Iterator[tuple[str, Snapshot]]:
    """What a power cut may leave when these changes wait."""
    waiting = disk.waiting

    def build(chosen: set[int], spoiled: tuple[int, str] | None = None) -> Snapshot:
        result = disk.copy()
        for index, change in enumerate(waiting):
            if index not in chosen:
                continue
            if spoiled is not None and spoiled[0] == index and isinstance(change, Write) and change.data is not None:
                half, size = change.data[: len(change.data) // 2], len(change.data)
                change = change._replace(data=half if spoiled[1] == "half" else bytes(size))
            result.apply(change)
        return result.snapshot()

    everything = set(range(len(waiting)))
    yield "nothing waiting arrived", build(set())
    yield "all of it arrived", build(everything)
    for index in everything:
        yield f"all but change {index}", build(everything - {index})
        yield f"only change {index}", build({index})
        yield f"the first {index}", build(set(range(index)))
        if isinstance(waiting[index], Write):
            for way in ("half", "zeros"):
                yield f"change {index} as {way}", build(everything, (index, way))
                yield f"only change {index}, as {way}", build({index}, (index, way))
    yield "names only", build({i for i in everything if isinstance(waiting[i], Name)})
    yield "bytes only", build({i for i in everything if isinstance(waiting[i], Write)})


def record(data_dir: Path, sessions: int, failing_syncs: frozenset[int] = frozenset()) -> TracingFiles:
    """The trace of some sessions in a row on one data dir."""
    put(data_dir, {})
    files = TracingFiles(data_dir, failing_syncs)
    for _ in range(sessions):
        run(files, data_dir, files.trail, STEPS)
    return files


def power_cuts(
    data_dir: Path, files: TracingFiles, *, share: int = 1, from_event: int = 0, hunting: bool = False
) -> Report:
    """Judge every different state that a power cut during the trace could leave."""
    report = Report(hunting=hunting)
    report.broken += files.trail.violations
    disk = _Disk()
    seen: set[tuple[object, ...]] = set()
    for index, event in enumerate(files.events):
        disk.feed(event)
        following = files.events[index + 1] if index + 1 < len(files.events) else event
        if index < from_event:
            continue
        acknowledged = files.trail.acknowledged[: following.acknowledged]
        for label, snapshot in states_after(disk):
            key = (following.acknowledged, tuple(snapshot.items()))
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % share:
                continue
            put(data_dir, snapshot)
            trail = Trail(list(range(1, following.attempted + 1)), list(acknowledged))
            report.add(f"power cut after call {index}, {label}", judge(data_dir, trail))
    return report
