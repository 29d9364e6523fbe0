"""Processes that outlive the one that made them: they become children of this process, and so are found (Linux)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt(*, on: bool) -> None:
    """From now on, what is orphaned beneath this process comes to it instead of to process 1, or no longer."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(on)) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot adopt orphans")


@contextmanager
def adopted() -> Iterator[frozenset[int]]:
    """Adopt orphans while the block lasts. Gives the children that were there before, as a browser of other tests."""
    adopt(on=True)
    try:
        yield frozenset(_children())
    finally:
        adopt(on=False)


def children() -> dict[int, str]:
    """The living children of this process, and what each was started as."""
    return {child: words for child in _children() if (words := _started_as(child))}


def reap(known: Set[int]) -> None:
    """Take leave of adopted children that have ended; ``known`` are those that somebody else waits for."""
    for child in _children():
        if child not in known and not _started_as(child):
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _children() -> Iterator[int]:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            yield from map(int, (thread / "children").read_text().split())


def _started_as(pid: int) -> str:
    """How a process was started; "" for one that has ended, be it reaped or not."""
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] not in "ZX":
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") or stat
    return ""
