"""Directories of this node's runs on the host: each is locked while its node lives, so that what is left is known."""

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
"""Much longer than a node takes from making a directory to locking it."""
_PLACES: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - directories are made in them by mkdtemp alone
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory for one run. ``fd`` stays on it and holds its lock (flock(2))."""

    path: Path
    fd: int

    def remove(self) -> None:
        """Remove it with all that the run left in it. Blocks."""
        remove_tree(self.path)
        os.close(self.fd)


def temporary() -> Path:
    """The directory for temporary ones: of ``TMPDIR``, ``TEMP`` and ``TMP``, then of the usual places, the first that
    this process may write to. Raises FileNotFoundError when there is none.

    ``tempfile.gettempdir`` finds it by writing a file there, and a node that is killed in between leaves that file.
    """
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    places = [Path(place).absolute() for place in (*named, *_PLACES) if place]
    for place in places:
        if (
            os.access(place, os.W_OK | os.X_OK) and place.is_dir()
        ):  # in this order: is_dir raises where one may not look
            return place
    tried = ", ".join(map(str, places))
    raise FileNotFoundError(errno.ENOENT, f"none of {tried} is a directory that can be written to; set TMPDIR to one")


def make(owner_tag: str) -> Scratch:
    """Make a directory that is empty and only this user's. Raises OSError."""
    path = Path(tempfile.mkdtemp(prefix=_prefix(owner_tag), dir=temporary())).resolve(strict=True)
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError:
        path.rmdir()
        raise
    with suppress(OSError):  # a file system without locks: what is left there is not known, but by its tag
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Scratch(path, fd)


def sweep(owner_tag: str) -> int:
    """Remove the directories that an earlier process of the same node left. Returns how many.

    Those of other nodes of this user are removed, too, and not counted, when no process locks them: the data dir of a
    node that was killed may be gone for good.
    """
    own = 0
    try:
        found = sorted(temporary().glob(_PREFIX + "*"))
    except OSError:  # nowhere to make any
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
    """A directory of this user, or of anybody's run when it is root. Others may write into ``/tmp``, too."""
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
    """Raises OSError when a process has it."""
    fd = os.open(path, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(fd)
    finally:
        os.close(fd)
