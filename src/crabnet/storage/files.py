"""The only module of storage that calls the file system. Tests inject faults here.

Each method of ``Files`` makes one call and raises plain ``OSError``. ``guarded`` turns that into
``StorageFailedError``. The ledger decides what a failure means for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from crabnet.errors import Reason, StorageFailedError
from crabnet.limits import STORAGE_CHUNK_BYTES

FILE_MODE: Final = 0o600
DIR_MODE: Final = 0o700

_BLOCK_BYTES: Final = 4096
"""File systems allocate space in blocks, so the last free block may be unusable."""
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNWRITABLE: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG}
)


class OpenMode(Enum):
    """How a file is opened. Every mode closes on exec and does not follow a symbolic link as the last part."""

    READ = os.O_RDONLY
    WRITE = os.O_RDWR
    """An existing file, for reading and writing."""
    CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL
    """A file that must not exist yet."""
    REPLACE = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    """A temporary file, emptied if it exists."""
    APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
    """A file that others may truncate. Each write goes to its present end. The file is made when absent."""
    LOCK = os.O_RDWR | os.O_CREAT
    """A lock file. Its content is kept. The file is made when absent."""


class Files(Protocol):
    """The file calls that storage needs. Every method may raise ``OSError``; ``fd`` is a file descriptor."""

    def open(self, path: Path, mode: OpenMode) -> int: ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, size: int, offset: int) -> bytes: ...

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write once and return the number of bytes written, which may be less than ``len(data)``."""
        ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def truncate(self, fd: int, size: int) -> None: ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserve disk blocks for the first ``size`` bytes."""
        ...

    def drop_cache(self, fd: int) -> None:
        """Ask the kernel to drop the clean pages of a file, so that the next read goes to the medium."""
        ...

    def try_lock(self, fd: int) -> bool:
        """Take the exclusive ``flock``. Returns false when another open file description holds it."""
        ...

    def size(self, path: Path) -> int | None:
        """Return the size of a file in bytes, or ``None`` when it does not exist."""
        ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def mkdir(self, path: Path) -> None: ...

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted. The list is empty when there is no such directory."""
        ...

    def fsync_dir(self, path: Path) -> None: ...

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes an unprivileged process may still write to the file system of ``path``."""
        ...


class RealFiles:
    """``Files`` on the operating system."""

    def open(self, path: Path, mode: OpenMode) -> int:
        # O_NONBLOCK: a named pipe in the place of a file must not block the node. Regular files ignore the flag.
        return os.open(path, mode.value | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def drop_cache(self, fd: int) -> None:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def try_lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def size(self, path: Path) -> int | None:
        try:
            return path.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path) -> None:
        path.mkdir(DIR_MODE)

    def listdir(self, path: Path) -> list[str]:
        try:
            return sorted(each.name for each in path.iterdir())
        except FileNotFoundError:
            return []

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def storage_failed(error: OSError, what: str, path: Path) -> StorageFailedError:
    """Return the ``StorageFailedError`` for a failed file call.

    ``what`` is the work that failed, such as "append to the journal". ``path`` is used when the error itself names no
    file.
    """
    detail = error.strerror or str(error)
    if isinstance(error.filename, (str, Path)):
        path = Path(error.filename)
    if error.errno in _DISK_FULL:
        return StorageFailedError(
            f"cannot {what}: no space left for {path} ({detail}); free some space and start again", Reason.DISK_FULL
        )
    if error.errno in _UNWRITABLE:
        return StorageFailedError(
            f"cannot {what}: {path}: {detail}; check permissions and mount options", Reason.DATA_DIR_UNWRITABLE
        )
    return StorageFailedError(f"cannot {what}: {path}: {detail}; check the disk, then start again")


@contextmanager
def guarded(what: str, path: Path) -> Iterator[None]:
    """Raise ``StorageFailedError`` for any ``OSError`` of the block."""
    try:
        yield
    except OSError as error:
        raise storage_failed(error, what, path) from error


@contextmanager
def opened(files: Files, path: Path, mode: OpenMode) -> Iterator[int]:
    """Open a file for the length of a block."""
    fd = files.open(path, mode)
    try:
        yield fd
    finally:
        files.close(fd)


def write_all(files: Files, fd: int, data: bytes, offset: int) -> int:
    """Write ``data`` at ``offset`` with one call and return the offset after it.

    A short write raises ``OSError``: ``ENOSPC`` when the disk has no room for the rest, else ``EIO``. It is never
    continued, because its cause makes the rest doubtful.
    """
    written = files.pwrite(fd, data, offset)
    if written != len(data):
        cause = errno.ENOSPC if _is_full(files, fd, len(data) - written) else errno.EIO
        raise OSError(cause, f"short write: {written} of {len(data)} bytes")
    return offset + written


def _is_full(files: Files, fd: int, bytes_needed: int) -> bool:
    """True if the file system of an open file lacks room for some more bytes. False when that cannot be found out."""
    try:
        return files.free_bytes(Path(f"/proc/self/fd/{fd}")) < bytes_needed + _BLOCK_BYTES
    except OSError:
        return False


def read_chunks(files: Files, fd: int, offset: int = 0) -> Iterator[bytes]:
    """Read a file from ``offset`` to its end in pieces of ``STORAGE_CHUNK_BYTES``."""
    while chunk := files.pread(fd, STORAGE_CHUNK_BYTES, offset):
        yield chunk
        offset += len(chunk)


def read_whole(files: Files, path: Path, bytes_max: int) -> bytes | None:
    """Read a file and return at most its first ``bytes_max + 1`` bytes, ``None`` when it does not exist.

    A longer result than ``bytes_max`` shows that the file is too large. Raises ``OSError``.
    """
    try:
        fd = files.open(path, OpenMode.READ)
    except FileNotFoundError:
        return None
    try:
        parts: list[bytes] = []
        total = 0
        for chunk in read_chunks(files, fd):
            parts.append(chunk)
            total += len(chunk)
            if total > bytes_max:
                break
        return b"".join(parts)[: bytes_max + 1]
    finally:
        files.close(fd)


def make_dir(files: Files, path: Path) -> None:
    """Make a directory and its missing parents, each durable in its parent. An existing directory stays as it is."""
    missing: list[Path] = []
    while files.size(path) is None:
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        try:
            files.mkdir(each)
        except FileExistsError:
            continue
        files.fsync_dir(each.parent)


def replace_file(files: Files, path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` durably and atomically: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(path.name + ".tmp")
    with opened(files, temporary, OpenMode.REPLACE) as fd:
        write_all(files, fd, data, 0)
        files.fsync(fd)
    files.rename(temporary, path)
    files.fsync_dir(path.parent)


def move_file(files: Files, source: Path, target: Path) -> None:
    """Move a file to another directory durably."""
    files.rename(source, target)
    files.fsync_dir(target.parent)
    if source.parent != target.parent:
        files.fsync_dir(source.parent)
