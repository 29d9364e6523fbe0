"""Where a command starts: opening the working directory, finding executables, and ``cd`` without a shell."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from crabnet.errors import Reason, RefusedError
from crabnet.runner.policy import RunnerPolicy


@dataclass(frozen=True, slots=True)
class Workdir:
    """An open working directory. ``fd`` stays on it even if its path is changed meanwhile."""

    fd: int
    path: Path
    """Absolute, without symbolic links."""
    root: Path | None


@asynccontextmanager
async def open_workdir(policy: RunnerPolicy) -> AsyncIterator[Workdir]:
    """Open the policy's working directory for one run.

    It is opened first and its real path compared with the root's afterwards, so that no symbolic link can be
    swapped in between. A fresh directory is removed afterwards; only a killed node leaves it behind. Raises
    ``RefusedError`` (``workdir_missing``, ``workdir_outside_root``).
    """
    if policy.workdir is None and policy.workdir_root is None:
        async with _fresh_directory() as path:
            with _opened(path) as fd:
                yield Workdir(fd, path, None)
        return
    root = None if policy.workdir_root is None else _real_directory(policy.workdir_root, "root")
    wanted = policy.workdir if policy.workdir is not None else policy.workdir_root
    if wanted is None:
        raise RefusedError("there is no working directory; set one", Reason.WORKDIR_MISSING)
    if root is not None and policy.workdir is not None:
        wanted = root / wanted
    with _opened(wanted) as fd:
        path = _path_of(fd)
        if root is not None and not path.is_relative_to(root):
            raise RefusedError(
                "the worker's working directory leads outside its root; correct the worker's configuration",
                Reason.WORKDIR_OUTSIDE_ROOT,
            )
        yield Workdir(fd, path, root)


@asynccontextmanager
async def _fresh_directory() -> AsyncIterator[Path]:
    try:
        path = Path(tempfile.mkdtemp(prefix="crabnet-run-")).resolve(strict=True)
    except OSError as error:
        raise RefusedError(
            f"the worker cannot make a working directory: {error.strerror}", Reason.WORKDIR_MISSING
        ) from error
    try:
        yield path
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, path, ignore_errors=True))


def _real_directory(path: Path, what: str) -> Path:
    with _opened(path, what) as fd:
        return _path_of(fd)


@contextmanager
def _opened(path: Path, what: str = "directory") -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RefusedError(f"the worker's working {what} cannot be opened: {why}", Reason.WORKDIR_MISSING) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _path_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def find_executable(policy: RunnerPolicy, name: str, workdir: Path) -> Path | None:
    """The file that ``name`` would start, or None. A name with a slash is a path, relative to ``workdir``."""
    if "/" in name:
        candidates = [workdir / name]
    else:
        candidates = [Path(directory, name) for directory in policy.search_path] if name else []
    for candidate in candidates:
        with suppress(OSError):
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
    return None


def environment(policy: RunnerPolicy, workdir: Path) -> dict[str, str]:
    """The whole environment of a command. Never the node's, which may hold secrets."""
    return {"PATH": ":".join(policy.search_path), "LANG": "C.UTF-8", "HOME": str(workdir)}


def change_directory(arguments: tuple[str, ...], workdir: Workdir) -> str | None:
    """``cd`` as a command of its own: None when it would succeed, else the line for stderr.

    It changes nothing, since each command is a run of its own; baseline publishers use it as a probe. Without
    an argument it names the working directory. Directories outside the root look like missing ones.
    """
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    if len(arguments) > 1:
        return "cd: too many arguments\n"
    wanted = arguments[0] if arguments else "."
    try:
        with _opened(workdir.path / wanted) as fd:
            found = _path_of(fd)
    except RefusedError:
        return f"cd: {wanted}: no such directory\n"
    if workdir.root is not None and not found.is_relative_to(workdir.root):
        return f"cd: {wanted}: no such directory\n"
    return None
