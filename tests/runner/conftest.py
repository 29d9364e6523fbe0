"""Fixtures for running real commands: scripts, and a pipe that tells which of their processes live."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio


class Lifeline:
    """A named pipe that the processes of a script hold open: end of file means that all of them are gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def wait_up(self) -> bytes:
        """Wait for the first bytes written to it."""
        await trio.lowlevel.wait_readable(self._fd)
        return os.read(self._fd, 4096)

    async def wait_gone(self) -> None:
        """Wait until no process holds it. Only after ``wait_up``."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            if not os.read(self._fd, 4096):
                return

    def gone(self) -> bool:
        """Whether it has been written to, and no process holds it any more."""
        try:
            while os.read(self._fd, 4096):
                pass
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    line = Lifeline(tmp_path / "lifeline")
    yield line
    line.close()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Write a shell script and return its path."""
    directory = tmp_path / "bin"
    directory.mkdir()

    def write(body: str) -> Path:
        path = directory / f"script{len(list(directory.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write
