"""Checks paths that an operator names on the command line, before anything is read or written there."""

from __future__ import annotations

import stat
from pathlib import Path

from crabnet.errors import Reason, UsageError
from crabnet.storage.files import guarded
from crabnet.storage.opening.shape import kind_of


def input_file(path: Path) -> Path:
    """A file to read, with symbolic links resolved.

    Raises UsageError if there is no file, or if it is not a regular file; StorageFailedError.
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
    """The absolute path of a file that will be written completely and then moved into place by a rename.

    A rename replaces anything, even a device, so only a regular file may exist there. Raises UsageError if there is
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
        raise UsageError(f"{path} is {kind_of(mode)}, not a file, so it is not replaced", Reason.INVALID_ARGUMENT)
    return path
