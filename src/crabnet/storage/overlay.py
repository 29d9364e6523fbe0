"""A view of files in which all changes stay in memory.

With it, a process that may only read a data dir can open and recover it as usual. The data dir does not change.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from crabnet.storage.files import Files, OpenMode, read_chunks

_FIRST_FD: Final = 1 << 30
"""The lowest descriptor of a file in memory. The system has no descriptors that high."""


class OverlayFiles:
    """``Files`` that reads from ``below`` and keeps all changes in memory.

    A file is copied to memory when it is first opened for writing.
    """

    def __init__(self, below: Files) -> None:
        self._below = below
        self._changed: dict[Path, bytearray | None] = {}
        """The files that differ from those below: the content of each, None if it was removed."""
        self._made: set[Path] = set()
        self._open: dict[int, bytearray] = {}
        self._locked: dict[int, int] = {}
        """The descriptors of locked files, by the id of the file's content."""
        self._next_fd = _FIRST_FD

    def open(self, path: Path, mode: OpenMode) -> int:
        if mode is OpenMode.READ and path not in self._changed:
            return self._below.open(path, mode)
        content = self._content(path)
        if mode is OpenMode.CREATE and content is not None:
            raise _error(errno.EEXIST, path)
        if content is None and mode in {OpenMode.READ, OpenMode.WRITE}:
            raise _error(errno.ENOENT, path)
        content = bytearray() if content is None else content
        if mode is OpenMode.REPLACE:
            del content[:]
        self._changed[path] = content
        self._next_fd += 1
        self._open[self._next_fd] = content
        return self._next_fd

    def _content(self, path: Path) -> bytearray | None:
        """Return the content of a file, None if it does not exist."""
        if path in self._changed:
            return self._changed[path]
        try:
            fd = self._below.open(path, OpenMode.READ)
        except FileNotFoundError:
            return None
        try:
            return bytearray().join(read_chunks(self._below, fd))
        finally:
            self._below.close(fd)

    def close(self, fd: int) -> None:
        content = self._open.pop(fd, None)
        if content is None:
            self._below.close(fd)
        elif self._locked.get(id(content)) == fd:
            del self._locked[id(content)]

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        content = self._open.get(fd)
        return self._below.pread(fd, size, offset) if content is None else bytes(content[offset : offset + size])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        content = self._open[fd]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        return len(data)

    def fsync(self, fd: int) -> None:
        """Do nothing: changes are never made durable."""

    def fdatasync(self, fd: int) -> None:
        """Do nothing: changes are never made durable."""

    def truncate(self, fd: int, size: int) -> None:
        content = self._open[fd]
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]

    def allocate(self, fd: int, size: int) -> None:
        content = self._open[fd]
        content.extend(bytes(max(0, size - len(content))))

    def drop_cache(self, fd: int) -> None:
        if fd not in self._open:
            self._below.drop_cache(fd)

    def try_lock(self, fd: int) -> bool:
        """Lock only within this overlay. The file below is not locked."""
        return self._locked.setdefault(id(self._open[fd]), fd) == fd

    def size(self, path: Path) -> int | None:
        if path in self._changed:
            content = self._changed[path]
            return None if content is None else len(content)
        return 0 if path in self._made else self._below.size(path)

    def rename(self, source: Path, target: Path) -> None:
        content = self._content(source)
        if content is None:
            raise _error(errno.ENOENT, source)
        self._changed[source] = None
        self._changed[target] = content

    def unlink(self, path: Path) -> None:
        if self.size(path) is None:
            raise _error(errno.ENOENT, path)
        self._changed[path] = None

    def mkdir(self, path: Path) -> None:
        if self.size(path) is not None:
            raise _error(errno.EEXIST, path)
        self._made.add(path)

    def listdir(self, path: Path) -> list[str]:
        names = set() if path in self._made else set(self._below.listdir(path))
        for each, content in self._changed.items():
            if each.parent == path:
                names.discard(each.name) if content is None else names.add(each.name)
        return sorted(names)

    def fsync_dir(self, path: Path) -> None:
        """Do nothing: changes are never made durable."""

    def free_bytes(self, path: Path) -> int:
        return self._below.free_bytes(path)


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))
