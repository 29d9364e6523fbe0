"""Files of the data dir of a wrong kind that prevent a start. A start and ``crabnet fsck`` use this one list.

It leaves out files that a start repairs or does not need.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from crabnet.errors import DataDirDamagedError, Reason, StorageFailedError
from crabnet.storage.files import guarded
from crabnet.storage.layout import CONTROL_SOCKET, segment_first_lsn

_DIRECTORIES: Final = ("journal", "history", "archive", "damaged", "quarantine")
_SEGMENTS: Final = ("journal", "history")
_FILES: Final = (
    *("state.json", "state.json.bak", "state.json.tmp", "sealed", "reserve", "origin", "feed-risk", "repaired"),
    *("identity.key", "lock", "events.lock", "archive.sqlite.sum", "index.sqlite.sum"),
    *(f"{index}.sqlite{part}" for index in ("index", "archive") for part in ("", "-wal", "-shm")),
)
_LOOKS: Final = 5
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """Describe the kind of file that has this mode."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a device")


def demand_shape(data_dir: Path, *, listens: bool) -> None:
    """Check every path whose kind decides whether a node can start, or, without ``listens``, a command.

    Raises DataDirDamagedError when a path has another kind than expected. Raises StorageFailedError
    (DATA_DIR_UNWRITABLE) for a file that this user may not read and write.
    """
    for name in _DIRECTORIES:
        _demand(data_dir / name, "directory")
    for name in _FILES:
        _demand(data_dir / name, "file")
    for name in _SEGMENTS:
        with guarded("examine the data dir", data_dir / name):
            segments = [path for path in (data_dir / name).glob("*") if segment_first_lsn(path.name) is not None]
        for path in sorted(segments):
            _demand(path, "file")
    if listens:
        _demand(data_dir / CONTROL_SOCKET, "socket")


def _is_usable(path: Path) -> bool:
    """Whether this user may read and write a file, or the file is not there any more.

    No lock is held here, so another command may remove and make the file meanwhile. So this looks some times.
    """
    return any(os.access(path, os.R_OK | os.W_OK) or not path.exists() for _ in range(_LOOKS))


def _demand(path: Path, wanted: str) -> None:
    with guarded("examine the data dir", path):
        try:
            mode = path.stat(follow_symlinks=wanted == "directory").st_mode
        except FileNotFoundError:
            return
    found = kind_of(mode)
    if found.split()[-1] != wanted:
        article = "put the" if wanted != "socket" else "remove it, the node makes the"
        raise DataDirDamagedError(
            f"{path} is {found}, not a {wanted}: {article} {wanted}"
            f"{' back; docs/STORAGE.md says which files may be missing' if wanted != 'socket' else ' itself'}"
        )
    if wanted == "file" and not _is_usable(path):
        raise StorageFailedError(
            f"this user may not read and write {path}: return the file to the user of the node, for example with chown"
            " or chmod u+rw",
            Reason.DATA_DIR_UNWRITABLE,
        )
