"""Detection of a copied data dir: is this the data dir that the node wrote to, or a copy of it?

A file that is never replaced keeps its inode and its birth time, even when its directory is renamed. No copying tool
can give these two to another file. So a data dir that was restored from a backup, or brought here from another disk,
is recognised as a copy. If a backup was copied *over* a data dir, its files were touched after they were written. A
snapshot of the whole file system shows neither sign.
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
"""The allowed difference of a file's mtime and ctime. A write sets both at once, but some network file systems set one
of them a little late.
"""
_BIRTH_OFFSET: Final = 80
"""The offset of ``stx_btime`` in ``struct statx``: 8 bytes of seconds, then 4 of nanoseconds (statx(2))."""


class Place(Struct, frozen=True, array_like=True):
    """Identifies a file by its inode and its birth time in nanoseconds, 0 if the file system does not report it."""

    inode: int
    birth_ns: int

    def may_be(self, other: Place) -> bool:
        """False if the two are certainly different files."""
        born = self.birth_ns == other.birth_ns or not self.birth_ns or not other.birth_ns
        return self.inode == other.inode and born


_places: Final = msgspec.json.Decoder(dict[str, Place])


def place_of(path: Path) -> Place | None:
    """Return the place of a file or directory, None if it does not exist. Raises OSError."""
    try:
        return Place(path.stat(follow_symlinks=False).st_ino, _birth_ns(path))
    except FileNotFoundError:
        return None


def touched(path: Path) -> bool:
    """True if a file was changed by something other than a write since its last write. Raises OSError.

    Tools that restore a file also restore its mtime, but nobody can restore its ctime.
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
    """The file ``origin`` of a data dir: the places of files that are never replaced.

    The constructor and ``keep`` raise StorageFailedError.
    """

    def __init__(self, files: Files, data_dir: Path, names: tuple[str, ...]) -> None:
        self._files = files
        self._path = data_dir / ORIGIN_FILE
        with guarded("read the inodes of the data dir", data_dir):
            found = {name: place_of(data_dir / name) for name in names}
            self._now = {name: place for name, place in found.items() if place is not None}
            content = read_whole(files, self._path, _FILE_BYTES_MAX)
        try:
            self._noted = None if content is None else _places.decode(content)
        except (msgspec.MsgspecError, UnicodeError):
            self._noted = None

    @property
    def copied(self) -> bool:
        """True if the data dir is a copy of the one that was written to. False if no places were ever noted."""
        noted = self._noted or {}
        return any(name in noted and not place.may_be(noted[name]) for name, place in self._now.items())

    def keep(self) -> None:
        """Durably note the present places as those of this data dir."""
        if self._noted != self._now:
            with guarded("note the inodes of the data dir", self._path):
                replace_file(self._files, self._path, msgspec.json.encode(self._now) + b"\n")
            self._noted = self._now
