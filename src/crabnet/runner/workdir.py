"""The start of a command: opening the working directory, finding executables, and ``cd`` without a shell."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from crabnet.errors import Reason, RefusedError
from crabnet.runner import scratch
from crabnet.runner.policy import RunnerPolicy

_NO_DIRECTORY: Final = -1


@dataclass(frozen=True, slots=True)
class Workdir:
    """An open working directory. ``fd`` refers to it even if its path is changed meanwhile.

    ``fd`` is -1 for a directory that a sandbox makes by itself.
    """

    fd: int
    path: Path
    """Absolute, without symbolic links."""
    root: Path | None
    fresh: bool
    """True if it was made for this run and is removed afterwards."""


@asynccontextmanager
async def open_workdir(policy: RunnerPolicy, owner_tag: str = "", inside: Path | None = None) -> AsyncIterator[Workdir]:
    """Open the policy's working directory for one run.

    The directory is opened first, and then its real path is compared with the root's, so that nobody can replace a
    symbolic link in between. A fresh directory is removed afterwards. If the node is killed, ``scratch.sweep`` finds
    the directory by ``owner_tag``. ``inside`` is the path at which a sandbox makes a fresh directory by itself. Raises
    ``RefusedError`` (``workdir_missing``, ``workdir_outside_root``).
    """
    if policy.workdir is None and policy.workdir_root is None:
        if inside is not None:
            yield Workdir(_NO_DIRECTORY, inside, None, fresh=True)
            return
        async with _fresh_directory(owner_tag) as made:
            yield Workdir(made.fd, made.path, None, fresh=True)
        return
    root = None if policy.workdir_root is None else _real_directory(policy.workdir_root, "root")
    wanted = policy.workdir if policy.workdir is not None else policy.workdir_root
    if wanted is None:
        raise RefusedError("the worker has no working directory; set one", Reason.WORKDIR_MISSING)
    if root is not None and policy.workdir is not None:
        wanted = root / wanted
    with _opened(wanted) as fd:
        path = _path_of(fd)
        if root is not None and not path.is_relative_to(root):
            raise RefusedError(
                "the worker's working directory leads outside its root; correct the worker's configuration",
                Reason.WORKDIR_OUTSIDE_ROOT,
            )
        yield Workdir(fd, path, root, fresh=False)


@asynccontextmanager
async def _fresh_directory(owner_tag: str) -> AsyncIterator[scratch.Scratch]:
    try:
        made = scratch.make(owner_tag)
    except OSError as error:
        raise RefusedError(
            f"the worker cannot make a working directory: {error.strerror}", Reason.WORKDIR_MISSING
        ) from error
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(made.remove)


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


def find_executable(
    policy: RunnerPolicy, name: str, workdir: Path, visible: Callable[[Path], bool] | None = None
) -> Path | None:
    """Return the file that ``name`` would start, or None. A name with a slash is a path relative to ``workdir``.

    With ``visible``, the real path of the file must satisfy that function or be in ``workdir``.
    """
    if "/" in name:
        candidates = [workdir / name]
    else:
        candidates = [Path(directory, name) for directory in policy.search_path] if name else []
    for candidate in candidates:
        with suppress(OSError):
            if candidate.is_file() and os.access(candidate, os.X_OK):
                real = candidate.resolve(strict=True)
                if visible is None or visible(real) or real.is_relative_to(workdir):
                    return candidate
    return None


def environment(policy: RunnerPolicy, home: Path, scratch: Path | None = None) -> dict[str, str]:
    """Return the whole environment of a command.

    The node's environment may contain secrets, so the command gets only the variables that the operator names.
    """
    fixed = {"PATH": ":".join(policy.search_path), "LANG": "C.UTF-8", "HOME": str(home)}
    if scratch is not None:
        fixed["TMPDIR"] = str(scratch)
    return {**policy.environment, **fixed}


CD_SCRIPT: Final = (
    '[ "$1" = -- ] && shift; [ $# -le 1 ] || { echo "cd: too many arguments" >&2; exit 1; }; '
    '[ -d "${1-.}" ] && [ -x "${1-.}" ] || { echo "cd: ${1-.}: no such directory" >&2; exit 1; }'
)
"""``cd`` as a separate command, for a shell inside a sandbox. There it sees only what a run may see."""


def change_directory(arguments: tuple[str, ...], workdir: Workdir) -> str | None:
    """Check a ``cd`` command. Returns None when it would succeed, else the line for stderr.

    ``cd`` has no effect, because each command is a separate run, but baseline publishers use it as a probe. Without an
    argument it means the working directory. A directory outside the root is reported as missing.
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
