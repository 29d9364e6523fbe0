"""Directories of this node's runs on the host. The node locks each one, so an unlocked directory is a leftover."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.runner.remove_tree import remove_tree
from crabnet.runner.supervisor.spawn import NOBODY_UID

_PREFIX: Final = "crabnet-run-"
_ABANDONED_AFTER_S: Final = 600
"""Much longer than a node needs between making a directory and locking it."""
_PLACES: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - directories are made in them by mkdtemp alone
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory for one run. ``fd`` refers to it and holds its lock (flock(2))."""

    path: Path
    fd: int

    def remove(self) -> None:
        """Remove the directory with everything that the run left in it. Blocks."""
        remove_tree(self.path)
        os.close(self.fd)


def temporary() -> Path:
    """Return the directory for temporary directories: the first candidate to which this process may write.

    The candidates are ``TMPDIR``, ``TEMP`` and ``TMP``, then the usual places. Raises FileNotFoundError when this
    process may write to none of them. This replaces ``tempfile.gettempdir``, which writes a test file: a node that is
    killed meanwhile would leave that file.
    """
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    places = [Path(place).absolute() for place in (*named, *_PLACES) if place]
    for place in places:
        # os.access comes first, because is_dir raises for a path that this process may not examine.
        if os.access(place, os.W_OK | os.X_OK) and place.is_dir():
            return place
    tried = ", ".join(map(str, places))
    raise FileNotFoundError(errno.ENOENT, f"none of {tried} is a writable directory; set TMPDIR to one")


def make(owner_tag: str) -> Scratch:
    """Make an empty directory to which only this user has access. Raises OSError."""
    path = Path(tempfile.mkdtemp(prefix=_prefix(owner_tag), dir=temporary())).resolve(strict=True)
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        path.rmdir()
        raise
    with suppress(OSError):  # a file system without locks: leftovers there are recognised only by their tag
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Scratch(path, fd)


def sweep(owner_tag: str) -> int:
    """Remove the directories that an earlier process of the same node left. Returns their number.

    It also removes directories of this user's other nodes if no process locks them, because a killed node's data dir
    may have been deleted. These are not counted.
    """
    own = 0
    try:
        found = sorted(temporary().glob(_PREFIX + "*"))
    except OSError:  # there is no directory for temporary directories
        return 0
    for path in found:
        if path.name.startswith(_prefix(owner_tag)):
            if _is_ours(path):
                remove_tree(path)
                own += 1
        else:
            _remove_abandoned(path)
    return own


def _prefix(owner_tag: str) -> str:
    return f"{_PREFIX}{owner_tag}-"


def _is_ours(path: Path) -> bool:
    """True for a directory of this user, and for root a directory of any user. Other users may also use ``/tmp``."""
    with suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and (os.geteuid() == 0 or found.st_uid == os.geteuid())
    return False


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError), _locked(path) as found:
        of_a_run = os.geteuid() == 0 and found.st_uid >= NOBODY_UID
        if (found.st_uid == os.geteuid() or of_a_run) and time.time() - found.st_mtime > _ABANDONED_AFTER_S:
            remove_tree(path)


@contextmanager
def _locked(path: Path) -> Iterator[os.stat_result]:
    """Lock a directory for the block. Raises OSError when another process holds the lock."""
    fd = os.open(path, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(fd)
    finally:
        os.close(fd)
