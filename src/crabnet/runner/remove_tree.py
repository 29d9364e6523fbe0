"""Removing a directory that a publisher's command has filled, even if it is very deep, very large or not accessible."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOVED: Final = "crabnet-removed-"


def remove_tree(path: Path) -> bool:
    """Remove the directory and everything beneath it. Returns False when a part is left. Follows no link. Blocks.

    A command can make directories of any depth. So inner directories are moved up before they are emptied: paths stay
    short, and neither memory, recursion nor open files grow with the depth. Permissions that the command removed are
    restored where that is allowed. No process of the run may be alive.
    """
    with suppress(OSError), _opened(None, str(path)) as root:
        _empty(root)
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _empty(root: int) -> None:
    """Remove everything in ``root``. Skips entries that cannot be removed, and ends when a round removes nothing."""
    moved = 0
    removed = True
    while removed:
        removed = False
        for name in _names(root):
            if _unlink(root, name):
                removed = True
                continue
            with suppress(OSError), _opened(root, name) as directory:
                for inner in _names(directory):
                    if _unlink(directory, inner):
                        continue
                    moved = _move_up(directory, inner, root, moved)
            with suppress(OSError):
                os.rmdir(name, dir_fd=root)
                removed = True


def _names(directory: int) -> Iterator[str]:
    """Yield names while the directory is read. Removing entries meanwhile may hide others, so callers read it again."""
    with os.scandir(directory) as listing:
        for entry in listing:
            yield entry.name


def _unlink(directory: int, name: str) -> bool:
    """Unlink ``name``. Returns True when it is gone, False for a directory or a file that cannot be removed."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _move_up(directory: int, name: str, root: int, number: int) -> int:
    """Move a directory into ``root`` under a new name. Returns the last number used."""
    with suppress(OSError):
        _give_back(directory, name)
    while True:
        number += 1
        try:
            os.rename(name, f"{_MOVED}{number}", src_dir_fd=directory, dst_dir_fd=root)
        except (FileExistsError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                continue
        return number


@contextmanager
def _opened(parent: int | None, name: str) -> Iterator[int]:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        if not os.fstat(fd).st_mode & stat.S_IWUSR:
            with suppress(OSError):
                os.fchmod(fd, stat.S_IRWXU)
    except PermissionError:
        _give_back(parent, name)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _give_back(parent: int | None, name: str) -> None:
    """Let the owner read, write and search a directory again. Raises OSError."""
    fd = os.open(name, _PLACE, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IRWXU)  # noqa: PTH101 - the directory itself, not a path to it
    finally:
        os.close(fd)
