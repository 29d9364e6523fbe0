"""Output files of a run: a list of the files in its work dir with sizes and hashes. The content is not trusted.

A publisher's command wrote the tree and may still change it. So only regular files and directories are opened, each
with openat2(2) beneath the work dir. Links, mounts and magic links are not followed (RESOLVE_BENEATH and similar
flags). Opening never waits, because a FIFO or a leased file would block. An opened file is checked again before it is
read. ``CollectBounds`` bounds every cost. The manifest reports omissions with their reasons.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Final

from crabnet import limits
from crabnet.errors import Reason, RefusedError

_OPENAT2: Final = 437
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08
"""RESOLVE_NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH of linux/openat2.h."""
_OPEN_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BYTES: Final = 256 * 1024


class Omission(StrEnum):
    """The reason for which something in the work dir is not in the manifest."""

    LINK = "link"
    """A symbolic link."""
    SPECIAL = "special"
    """A FIFO, socket or device."""
    SHARED = "shared"
    """A file with more hard links than were found in the work dir. It may be a file from elsewhere."""
    ODD_NAME = "odd_name"
    """A name that is not printable UTF-8."""
    LONG_NAME = "long_name"
    TOO_DEEP = "too_deep"
    TOO_MANY = "too_many"
    TOO_LARGE = "too_large"
    """The file, or all files together, have more bytes than may be read. Holes count."""
    UNREADABLE = "unreadable"
    """A file without permission, a mount, or a file that another process has leased."""
    CHANGED = "changed"
    """A file that changed while it was read."""


@dataclass(frozen=True, slots=True)
class CollectBounds:
    """Bounds of the cost of collecting, and of the size of the list."""

    files_max: int = limits.RUNNER_FILES_MAX
    entries_max: int = limits.RUNNER_FILE_ENTRIES_MAX
    """The number of names that are examined, of every kind."""
    bytes_max: int = limits.RUNNER_FILES_BYTES_MAX
    """The bytes of all listed files together."""
    name_bytes_max: int = limits.RUNNER_FILE_NAME_BYTES_MAX
    """The UTF-8 bytes of one name with its directories."""
    names_bytes_max: int = limits.RUNNER_FILE_NAMES_BYTES_MAX
    """The UTF-8 bytes of all listed names together."""
    depth_max: int = limits.RUNNER_FILE_DEPTH_MAX
    """The number of directories above a file. With 0, only files directly in the work dir are listed."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One regular file. ``name`` is relative, printable UTF-8, with ``/`` between its parts."""

    name: str
    size_bytes: int
    sha256: str
    same_as: str | None = None
    """The listed name of another hard link to the same file, which was read only once."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that is not listed. ``name`` is shortened, and characters that are not printable are escaped."""

    name: str
    why: Omission


@dataclass(frozen=True, slots=True)
class Manifest:
    """The output files of a run, sorted by name, and what was left out."""

    files: tuple[OutputFile, ...]
    omitted: Mapping[Omission, int]
    """The number of omissions, by reason. The content of an omitted directory is not counted."""
    examples: tuple[LeftOut, ...]
    """The first few omissions."""

    @property
    def complete(self) -> bool:
        """True if nothing was left out."""
        return not self.omitted

    @property
    def size_bytes(self) -> int:
        """The size of all listed files together. A file with several hard links counts once."""
        return sum(file.size_bytes for file in self.files if file.same_as is None)


def collect_outputs(root: int, bounds: CollectBounds | None = None) -> Manifest:
    """List the regular files beneath the directory that is open as ``root``. Blocks: call it in a thread.

    Raises ``RefusedError`` (``sandbox_unavailable``) when the kernel has no openat2 (Linux 5.6), and ``OSError`` when
    ``root`` itself cannot be read. The content of the directory cannot cause an exception.
    """
    return _Collector(root, CollectBounds() if bounds is None else bounds).collect()


@dataclass(frozen=True, slots=True)
class _Found:
    path: bytes
    name: str
    inode: tuple[int, int]
    links: int
    size_bytes: int


@dataclass
class _Collector:
    root: int
    bounds: CollectBounds
    entries: int = 0
    names_of_inode: Counter[tuple[int, int]] = field(default_factory=Counter)
    omitted: Counter[Omission] = field(default_factory=Counter)
    examples: list[LeftOut] = field(default_factory=list)

    def collect(self) -> Manifest:
        found = sorted(self._walk(b"", 0), key=lambda file: file.path)
        listed: dict[tuple[int, int], OutputFile] = {}
        files: list[OutputFile] = []
        bytes_left, names_left = self.bounds.bytes_max, self.bounds.names_bytes_max
        for file in found:
            if file.links > self.names_of_inode[file.inode]:
                self._omit(file.path, Omission.SHARED)
            elif len(files) >= self.bounds.files_max or len(file.path) > names_left:
                self._omit(file.path, Omission.TOO_MANY)
            elif (first := listed.get(file.inode)) is not None:
                files.append(OutputFile(file.name, first.size_bytes, first.sha256, same_as=first.name))
                names_left -= len(file.path)
            elif file.size_bytes > bytes_left:
                self._omit(file.path, Omission.TOO_LARGE)
            else:
                bytes_left -= file.size_bytes
                output = self._read(file)
                if output is not None:
                    listed[file.inode] = output
                    files.append(output)
                    names_left -= len(file.path)
        return Manifest(tuple(files), dict(self.omitted), tuple(self.examples))

    def _walk(self, directory: bytes, depth: int) -> Iterator[_Found]:
        """Yield regular files with acceptable names. At most ``depth_max`` + 1 directories are open at once."""
        fd = self._open(directory, _OPEN_DIRECTORY) if directory else self._open_root()
        if fd is None:
            return
        try:
            for entry in self._entries(fd, directory):
                path = directory + b"/" + entry if directory else entry
                status = _status(fd, entry)
                if status is None:
                    self._omit(path, Omission.CHANGED)
                elif stat.S_ISDIR(status.st_mode):
                    if depth >= self.bounds.depth_max:
                        self._omit(path, Omission.TOO_DEEP)
                    elif self._acceptable(path) is not None:
                        yield from self._walk(path, depth + 1)
                elif not stat.S_ISREG(status.st_mode):
                    self._omit(path, Omission.LINK if stat.S_ISLNK(status.st_mode) else Omission.SPECIAL)
                else:
                    inode = (status.st_dev, status.st_ino)
                    self.names_of_inode[inode] += 1
                    if (name := self._acceptable(path)) is not None:
                        yield _Found(path, name, inode, status.st_nlink, status.st_size)
        finally:
            os.close(fd)

    def _open_root(self) -> int:
        """Open the work dir. Raises OSError."""
        try:
            return _open_beneath(self.root, b".", _OPEN_DIRECTORY)
        except PermissionError:
            # A run may remove all permissions of its work dir. Only the directory's owner can restore them.
            os.fchmod(self.root, stat.S_IRWXU)
            return _open_beneath(self.root, b".", _OPEN_DIRECTORY)

    def _entries(self, fd: int, directory: bytes) -> list[bytes]:
        names: list[bytes] = []
        try:
            with os.scandir(fd) as listing:
                for entry in listing:
                    if self.entries >= self.bounds.entries_max:
                        self._omit(directory, Omission.TOO_MANY)
                        break
                    self.entries += 1
                    names.append(os.fsencode(entry.name))
        except OSError:
            self._omit(directory, Omission.UNREADABLE)
        return sorted(names)

    def _acceptable(self, path: bytes) -> str | None:
        if len(path) > self.bounds.name_bytes_max:
            self._omit(path, Omission.LONG_NAME)
            return None
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            self._omit(path, Omission.ODD_NAME)
            return None
        if not all(map(_printable, name)):
            self._omit(path, Omission.ODD_NAME)
            return None
        return name

    def _open(self, path: bytes, flags: int) -> int | None:
        try:
            return _open_beneath(self.root, path, flags)
        except FileNotFoundError:
            self._omit(path, Omission.CHANGED)
        except OSError as error:
            replaced = error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
            self._omit(path, Omission.CHANGED if replaced else Omission.UNREADABLE)
        return None

    def _read(self, file: _Found) -> OutputFile | None:
        """Read ``file`` if it is still the file that was found, and at most up to the size that it had then."""
        fd = self._open(file.path, _OPEN_FILE)
        if fd is None:
            return None
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or (before.st_dev, before.st_ino) != file.inode:
                self._omit(file.path, Omission.CHANGED)
                return None
            digest = hashlib.sha256()
            left = file.size_bytes
            while left and (chunk := os.read(fd, min(left, _READ_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
            after = os.fstat(fd)
        except OSError:
            self._omit(file.path, Omission.UNREADABLE)
            return None
        finally:
            os.close(fd)
        if left or (after.st_size, after.st_mtime_ns) != (file.size_bytes, before.st_mtime_ns):
            self._omit(file.path, Omission.CHANGED)
            return None
        return OutputFile(file.name, file.size_bytes, digest.hexdigest())

    def _omit(self, path: bytes, why: Omission) -> None:
        self.omitted[why] += 1
        if len(self.examples) < limits.RUNNER_FILES_LEFT_OUT_SHOWN:
            shown = path[: limits.RUNNER_NAME_CHARS_SHOWN].decode("utf-8", errors="backslashreplace")
            escaped = "".join(char if _printable(char) else ascii(char)[1:-1] for char in shown)
            self.examples.append(LeftOut(escaped, why))


def _printable(char: str) -> bool:
    """False for control, format, private and unassigned characters, and for separators other than the space.

    Format characters can change the direction of writing.
    """
    return char == " " or unicodedata.category(char)[0] not in "CZ"


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def _open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Call openat2(2). Raises ``OSError``, and ``RefusedError`` if the kernel lacks that call."""
    how = struct.pack("=QQQ", flags, 0, _RESOLVE)
    fd = int(
        _libc().syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(path),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
    )
    if fd < 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            raise RefusedError(
                "the kernel has no openat2; output files need Linux 5.6 or newer", Reason.SANDBOX_UNAVAILABLE
            )
        raise OSError(number, os.strerror(number))
    return fd


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
