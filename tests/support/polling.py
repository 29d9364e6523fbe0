"""Waiting for files and sockets, whatever the numbers of their descriptors: ``select`` knows only those below 1024."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import IO


def readable(files: Iterable[IO[str] | int], timeout_s: float) -> list[int]:
    """The descriptors of those files that can be read, or have ended, after at most ``timeout_s``."""
    poll = select.poll()
    for each in files:
        poll.register(each, select.POLLIN)
    return [fd for fd, _ in poll.poll(timeout_s * 1000)]
