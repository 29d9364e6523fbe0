"""Paths that an operator names on the command line, checked before anything is read or written there."""

from __future__ import annotations

import stat
from pathlib import Path

from crabnet.errors import Reason, UsageError
from crabnet.storage.files import guarded
from crabnet.storage.opening.shape import kind_of


def input_file(path: Path) -> Path:
    """A file to be read, with symbolic links resolved.

    Raises UsageError when there is none, or something else than a regular file; StorageFailedError.
    """
    with guarded("read the file", path):
        path = path.expanduser().resolve()
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"there is no file {path}", Reason.INVALID_ARGUMENT) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is {kind_of(mode)}, not a file", Reason.INVALID_ARGUMENT)
    return path


def output_file(path: Path) -> Path:
    """A file to be written in its whole and put in place by a rename, as an absolute path.

    A rename replaces whatever is there, a device too: so only a regular file may be. Raises UsageError when there is
    anything else, or no directory to write to; StorageFailedError.
    """
    with guarded("write the file", path):
        path = path.expanduser().absolute()
        if not path.parent.is_dir():
            raise UsageError(f"there is no directory {path.parent}", Reason.INVALID_ARGUMENT)
        try:
            mode = path.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:
            return path
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is {kind_of(mode)}, not a file: it is not replaced", Reason.INVALID_ARGUMENT)
    return path
