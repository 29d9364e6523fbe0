"""The lock of a data dir: an exclusive ``flock`` on a lock file that is never deleted.

The kernel releases the lock when the process ends, so ``kill -9`` leaves no stale lock. The JSON inside the file is
only a hint for people about the holder.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import msgspec

from crabnet.errors import DataDirBusyError, Reason, StorageFailedError, UsageError
from crabnet.limits import LOCK_HINT_BYTES, LOCK_NODE_GRACE_MS, LOCK_WAIT_STEP_MS
from crabnet.storage.files import Files, OpenMode, guarded, make_dir, opened, read_whole, write_all

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_PROGRAM_CHARS_MAX: Final = 64


class LockRole(StrEnum):
    """The kind of process that holds a lock."""

    NODE = "node"
    """A node holds the lock until it is stopped."""
    PASSING = "passing"
    """A node that lasts as long as one command needs it, so others may wait for its end."""
    COMMAND = "command"
    """A command holds the lock for a short time, so others may wait for it."""


class LockHolder(msgspec.Struct, frozen=True):
    """The hint inside a lock file."""

    pid: int
    started_at_ms: int
    role: LockRole
    program: str

    def __str__(self) -> str:
        try:
            since = datetime.fromtimestamp(self.started_at_ms / 1000, UTC).isoformat(timespec="seconds")
        except (OverflowError, ValueError, OSError):
            since = "an unknown time"
        return f"{self.role.value} {self.program} with pid {self.pid}, since {since}"


def read_holder(files: Files, path: Path) -> LockHolder | None:
    """Read the hint about the last holder of the lock at ``path``, without taking the lock.

    The holder may be gone: only the lock itself shows whether it is held. Returns ``None`` when the file has no
    readable hint. Raises nothing.
    """
    try:
        content = read_whole(files, path, LOCK_HINT_BYTES)
        return None if content is None else msgspec.json.decode(content, type=LockHolder)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


class DirLock:
    """A lock that this process holds. ``release``, or the end of the process, releases it."""

    def __init__(self, files: Files, path: Path, fd: int) -> None:
        self._files = files
        self._fd: int | None = fd
        self.path = path

    @classmethod
    def acquire(cls, files: Files, path: Path, role: LockRole, *, program: str, now_ms: int) -> Self:
        """Take the lock file ``path`` at once or fail. Missing directories are made.

        Raises ``DataDirBusyError``, which names the holder, or ``StorageFailedError``. The latter has the reason
        ``LOCKS_UNSUPPORTED`` when a second open file could take the same lock, as on some network file systems.
        """
        with guarded("take the lock", path):
            make_dir(files, path.parent)
            fd = files.open(path, OpenMode.LOCK)
            try:
                if not _locked(files, fd, path):
                    holder = read_holder(files, path)
                    raise DataDirBusyError(
                        f"{path.parent} is in use by {holder if holder is not None else 'another process'}; "
                        f"stop it, or use another data dir"
                    )
                with opened(files, path, OpenMode.LOCK) as second:
                    if _locked(files, second, path):
                        raise _unsupported(path)
                hint = LockHolder(os.getpid(), now_ms, role, program[:_PROGRAM_CHARS_MAX])
                write_all(files, fd, msgspec.json.encode(hint).ljust(LOCK_HINT_BYTES), 0)
            except BaseException:
                with suppress(OSError):
                    files.close(fd)
                raise
        return cls(files, path, fd)

    def release(self) -> None:
        """Release the lock. Releasing it twice is harmless. Raises ``StorageFailedError``."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with guarded("release the lock", self.path):
                self._files.close(fd)


def _locked(files: Files, fd: int, path: Path) -> bool:
    try:
        return files.try_lock(fd)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _unsupported(path) from error
        raise


def _unsupported(path: Path) -> StorageFailedError:
    return StorageFailedError(
        f"the file system of {path.parent} has no working file locks (flock); put the data dir on a local disk",
        Reason.LOCKS_UNSUPPORTED,
    )


def demand_owner(data_dir: Path) -> None:
    """Refuse root in the data dir of another user. Call it before anything is written.

    Root would leave files there that the owner cannot use. Raises UsageError (WRONG_OWNER) in that case, and
    StorageFailedError when the owner cannot be read.
    """
    if os.geteuid() != 0:
        return
    with guarded("read the owner of the data dir", data_dir):
        try:
            owner = data_dir.stat().st_uid
        except FileNotFoundError:
            return
    if owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise UsageError(
        f"{data_dir} belongs to user {name}, and that user could not use files that root writes there: run this as that"
        f" user, as in `sudo -u '{name}' crabnet ...`",
        Reason.WRONG_OWNER,
    )


def acquire_with_wait(
    files: Files,
    path: Path,
    role: LockRole,
    *,
    program: str,
    clock_ms: Callable[[], int],
    wait_ms: int,
    sleep_ms: Callable[[int], None],
) -> DirLock:
    """Take the lock, and wait up to ``wait_ms`` milliseconds while another one-shot command holds it.

    The call does not wait for a node. It raises ``DataDirBusyError`` as soon as the hint has named a node for
    ``LOCK_NODE_GRACE_MS``. Before that, the hint may be that of a killed node, not yet overwritten. ``clock_ms``
    returns wall-clock time in milliseconds. Other errors are those of ``DirLock.acquire``.
    """
    start_ms = clock_ms()
    node_since_ms: int | None = None
    while True:
        now_ms = clock_ms()
        try:
            return DirLock.acquire(files, path, role, program=program, now_ms=now_ms)
        except DataDirBusyError:
            holder = read_holder(files, path)
            if holder is None or holder.role is not LockRole.NODE:
                node_since_ms = None
            elif node_since_ms is None:
                node_since_ms = now_ms
            elif now_ms - node_since_ms >= LOCK_NODE_GRACE_MS:
                raise
            if not 0 <= now_ms - start_ms < wait_ms:
                raise
        sleep_ms(LOCK_WAIT_STEP_MS)
