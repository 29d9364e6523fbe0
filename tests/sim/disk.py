"""A disk in memory, behind the seam of ``storage.files``: what is synced survives a power cut, the rest may or may not.

Only a sync of a file makes its bytes and length durable, only a sync of a directory its entries. A killed process
loses nothing that it wrote; after a power cut whatever waits may have arrived or not, in any order, by half or as
zeros.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random
from typing import NamedTuple

from crabnet.storage.files import OpenMode

_FREE_BYTES = 1 << 40


class CutError(BaseException):
    """The process or the power is gone in the middle of a file call: no code of the node runs after it."""


class _Write(NamedTuple):
    """Bytes written at an offset, or the length set to it when ``data`` is None."""

    offset: int
    data: bytes | None


class _Name(NamedTuple):
    """A change of directory entries: made (no ``source``), moved, or removed (no ``target``)."""

    source: str | None
    target: str | None
    file: _File


class _File:
    """A file or directory: as it is read, as it is durable, and the writes in between."""

    __slots__ = ("data", "durable", "is_dir", "locked_by", "reserved", "waiting")

    def __init__(self, *, is_dir: bool = False) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.waiting: list[_Write] = []
        self.reserved = 0
        self.is_dir = is_dir
        self.locked_by: int | None = None

    def write(self, offset: int, data: bytes) -> None:
        _put(self.data, offset, data)
        self.waiting.append(_Write(offset, bytes(data)))

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.waiting.append(_Write(size, None))

    def sync(self) -> None:
        for write in self.waiting:
            self._arrive(write)
        self.waiting.clear()

    def _arrive(self, write: _Write) -> None:
        if write.data is None:
            del self.durable[write.offset :]
        else:
            _put(self.durable, write.offset, write.data)

    def lose_power(self, rng: Random, share: float) -> None:
        for write in self.waiting:
            if rng.random() < share:
                self._arrive(_torn(write, rng) if rng.random() < 0.5 else write)
        self.waiting.clear()
        self.data = bytearray(self.durable)


def _torn(write: _Write, rng: Random) -> _Write:
    """The first bytes of a write, with nothing or zeros in the place of the rest."""
    if write.data is None:
        return write
    half = rng.randrange(len(write.data) + 1)
    rest = b"" if rng.random() < 0.7 else bytes(len(write.data) - half)
    return _Write(write.offset, write.data[:half] + rest)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


class MemoryFiles:
    """``Files`` in memory. ``cut_after`` ends the node in the middle of a later call."""

    def __init__(self) -> None:
        root = _File(is_dir=True)
        self._names: dict[str, _File] = {"/": root}
        self._durable: dict[str, _File] = {"/": root}
        self._moves: list[_Name] = []
        self._open: dict[int, _File] = {}
        self._next_fd = 3
        self._calls_left = 0
        self.calls = 0

    def copy(self) -> MemoryFiles:
        """A backup: all that is written now, as if it had been synced."""
        other = MemoryFiles()
        for name, file in self._names.items():
            twin = _File(is_dir=file.is_dir)
            twin.data, twin.durable, twin.reserved = bytearray(file.data), bytearray(file.data), file.reserved
            other._names[name] = other._durable[name] = twin
        return other

    def save(self, target: Path) -> None:
        """Write all files to a directory of the real disk, as they would be read now."""
        for name, file in sorted(self._names.items()):
            path = target / name.lstrip("/")
            if file.is_dir:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                path.write_bytes(bytes(file.data))

    def cut_after(self, calls: int) -> None:
        """Let the ``calls``-th change from now on be the last: it happens, and then nothing more does."""
        self._calls_left = calls

    def kill(self) -> None:
        """The process is gone: its files are closed and its locks dropped, and what it wrote is still there."""
        self._open.clear()
        self._calls_left = 0
        for file in self._names.values():
            file.locked_by = None

    def power_cut(self, rng: Random) -> None:
        """The machine is gone: of what waits for a sync nothing, all or some has arrived, and some of it by half."""
        share = rng.choice([0.0, 0.5, 0.5, 1.0])
        for move in self._moves:
            if rng.random() < share:
                _rename(self._durable, move)
        self._moves.clear()
        for file in dict.fromkeys((*self._durable.values(), *self._names.values())):
            file.lose_power(rng, share)
        self._durable = {
            name: file for name, file in sorted(self._durable.items()) if name == "/" or _parent(name) in self._durable
        }
        self._names = dict(self._durable)
        self.kill()

    def _change(self) -> None:
        self.calls += 1
        if self._calls_left:
            self._calls_left -= 1
            if not self._calls_left:
                raise CutError

    def open(self, path: Path, mode: OpenMode) -> int:
        name = str(path)
        file = self._names.get(name)
        if file is not None and file.is_dir:
            raise _error(errno.EISDIR, name)
        if file is not None and mode is OpenMode.CREATE:
            raise _error(errno.EEXIST, name)
        if file is None:
            if mode in {OpenMode.READ, OpenMode.WRITE}:
                raise _error(errno.ENOENT, name)
            file = self._make(name, is_dir=False)
        if mode is OpenMode.REPLACE and file.data:
            file.cut(0)
        fd = self._next_fd
        self._next_fd += 1
        self._open[fd] = file
        return fd

    def _make(self, name: str, *, is_dir: bool) -> _File:
        parent = self._names.get(_parent(name))
        if parent is None or not parent.is_dir:
            raise _error(errno.ENOENT, name)
        file = self._names[name] = _File(is_dir=is_dir)
        self._moves.append(_Name(None, name, file))
        self._change()
        return file

    def close(self, fd: int) -> None:
        file = self._file(fd)
        del self._open[fd]
        if file.locked_by == fd:
            file.locked_by = None

    def _file(self, fd: int) -> _File:
        file = self._open.get(fd)
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return file

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self._file(fd).data[offset : offset + size])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._file(fd).write(offset, data)
        self._change()
        return len(data)

    def fsync(self, fd: int) -> None:
        self._change()
        self._file(fd).sync()

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._file(fd).cut(size)
        self._change()

    def allocate(self, fd: int, size: int) -> None:
        self._file(fd).reserved = size

    def drop_cache(self, fd: int) -> None:
        self._file(fd)

    def try_lock(self, fd: int) -> bool:
        file = self._file(fd)
        if file.locked_by not in {None, fd}:
            return False
        file.locked_by = fd
        return True

    def size(self, path: Path) -> int | None:
        file = self._names.get(str(path))
        return None if file is None else max(len(file.data), file.reserved)

    def rename(self, source: Path, target: Path) -> None:
        file = self._names.get(str(source))
        if file is None:
            raise _error(errno.ENOENT, str(source))
        move = _Name(str(source), str(target), file)
        _rename(self._names, move)
        self._moves.append(move)
        self._change()

    def unlink(self, path: Path) -> None:
        file = self._names.get(str(path))
        if file is None:
            raise _error(errno.ENOENT, str(path))
        move = _Name(str(path), None, file)
        _rename(self._names, move)
        self._moves.append(move)
        self._change()

    def mkdir(self, path: Path) -> None:
        if str(path) in self._names:
            raise _error(errno.EEXIST, str(path))
        self._make(str(path), is_dir=True)

    def listdir(self, path: Path) -> list[str]:
        name = str(path)
        return sorted(each.rpartition("/")[2] for each in self._names if each != "/" and _parent(each) == name)

    def fsync_dir(self, path: Path) -> None:
        name = str(path)
        self._change()
        waiting = []
        for move in self._moves:
            touches = any(each is not None and _parent(each) == name for each in (move.source, move.target))
            if touches:
                _rename(self._durable, move)
            else:
                waiting.append(move)
        self._moves = waiting

    def free_bytes(self, path: Path) -> int:
        self.size(path)
        return _FREE_BYTES


def _parent(name: str) -> str:
    return name.rpartition("/")[0] or "/"


def _rename(names: dict[str, _File], move: _Name) -> None:
    """Do to a table of names what a change says; a move whose file is not there does nothing."""
    if move.source is not None:
        if names.get(move.source) is not move.file:
            return
        del names[move.source]
    if move.target is not None:
        names[move.target] = move.file
