"""Is this data dir the one that was written to, or a copy of it?

Inode and birth time of a file that is never replaced stay with it, also when its directory is renamed, and no copying
tool can give them to another file. So a data dir that was restored from a backup, or brought here from another disk,
shows as a copy. One that a backup was copied *over* has files that were touched after they were written. A snapshot of
the whole file system shows neither.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.storage.files import Files, guarded, read_whole, replace_file

ORIGIN_FILE: Final = "origin"
_FILE_BYTES_MAX: Final = 4_096
_AT_FDCWD: Final = -100
_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_TOUCH_NS: Final = 100_000_000
"""A write sets both times of a file at once. Some network file systems are a little late with one of them."""
_BIRTH_OFFSET: Final = 80
"""Of ``stx_btime`` in ``struct statx``: 8 bytes of seconds, 4 of nanoseconds (statx(2))."""


class Place(Struct, frozen=True, array_like=True):
    """What a file has for itself: its inode, and its birth in nanoseconds, 0 where the file system does not tell."""

    inode: int
    birth_ns: int

    def may_be(self, other: Place) -> bool:
        """False if the two are surely different files."""
        born = self.birth_ns == other.birth_ns or not self.birth_ns or not other.birth_ns
        return self.inode == other.inode and born


_places: Final = msgspec.json.Decoder(dict[str, Place])


def place_of(path: Path) -> Place | None:
    """The place of a file or directory, None if there is none. Raises OSError."""
    try:
        return Place(path.stat(follow_symlinks=False).st_ino, _birth_ns(path))
    except FileNotFoundError:
        return None


def touched(path: Path) -> bool:
    """True if something other than a write was done to a file since it was written last: tools that restore a file give
    it back the time of its last write, and nobody can give it back the time of its last change. Raises OSError.
    """
    status = path.stat(follow_symlinks=False)
    return abs(status.st_ctime_ns - status.st_mtime_ns) > _TOUCH_NS


def _birth_ns(path: Path) -> int:
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except (AttributeError, OSError):
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, bytes(path), _NOFOLLOW, _STATX_BTIME, buffer) != 0:
        return 0
    data = buffer.raw
    if not int.from_bytes(data[:4], sys.byteorder) & _STATX_BTIME:
        return 0
    seconds = int.from_bytes(data[_BIRTH_OFFSET : _BIRTH_OFFSET + 8], sys.byteorder, signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(data[_BIRTH_OFFSET + 8 : _BIRTH_OFFSET + 12], sys.byteorder)


class Origin:
    """The file ``origin`` of a data dir: the places of what is never replaced there. May raise StorageFailedError."""

    def __init__(self, files: Files, data_dir: Path, names: tuple[str, ...]) -> None:
        self._files = files
        self._path = data_dir / ORIGIN_FILE
        with guarded("look where the data dir lies", data_dir):
            found = {name: place_of(data_dir / name) for name in names}
            self._now = {name: place for name, place in found.items() if place is not None}
            content = read_whole(files, self._path, _FILE_BYTES_MAX)
        try:
            self._noted = None if content is None else _places.decode(content)
        except (msgspec.MsgspecError, UnicodeError):
            self._noted = None

    @property
    def copied(self) -> bool:
        """True if the data dir is a copy of the one that was written to. False if that was never noted."""
        noted = self._noted or {}
        return any(name in noted and not place.may_be(noted[name]) for name, place in self._now.items())

    def keep(self) -> None:
        """Note that the data dir is here from now on, durably."""
        if self._noted != self._now:
            with guarded("note where the data dir lies", self._path):
                replace_file(self._files, self._path, msgspec.json.encode(self._now) + b"\n")
            self._noted = self._now
