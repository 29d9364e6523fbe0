"""A person at a terminal: a command in a pseudo terminal of a chosen width, what it shows, and what is typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.nodes import CRABNET, DEADLINE_S, environment
from tests.support.polling import readable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CHUNK_BYTES = 65_536


class Terminal:
    """A command with a controlling terminal of its own. Use it as a context manager: what still runs then is killed."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        columns: int = 80,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._process = subprocess.Popen(
            [*prefix, *CRABNET, *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True,
            env={"TERM": "xterm-256color", **(env or environment())},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing else happens in this child
        )  # fmt: skip
        os.close(theirs)
        self.written = ""
        """Everything that was written, with control characters."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)

    def _read(self, wait_s: float) -> bool:
        """Take what was written. False if nothing was, or if the command has closed the terminal."""
        if not readable([self._ours], wait_s):
            return False
        try:
            data = os.read(self._ours, _CHUNK_BYTES)
        except OSError:  # EIO: the other end is closed
            return False
        self.written += data.decode(errors="replace")
        return bool(data)

    def await_text(self, text: str) -> None:
        """Wait until the screen, or what scrolled off it, has shown ``text``."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.written:
            over = self._process.poll() is not None
            if not self._read(0.2) and over:
                raise AssertionError(f"the command ended without {text!r}: {self.written!r}")
            assert time.monotonic() < deadline, f"waited in vain for {text!r}: {self.written!r}"

    def press_ctrl_c(self) -> None:
        """What the key does: the terminal sends SIGINT to the command."""
        os.write(self._ours, b"\x03")

    def hang_up(self) -> None:
        """The window is closed."""
        self._process.send_signal(signal.SIGHUP)

    def end(self) -> int:
        """Wait for the end of the command; its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._process.poll() is None:
            self._read(0.05)
            assert time.monotonic() < deadline, f"the command does not end: {self.written!r}"
        with suppress(OSError):
            while self._read(0):
                pass
        return self._process.returncode

    @property
    def lines(self) -> list[str]:
        """What a person sees in the end: lines that were rewritten in place show their last text. Without colours."""
        return screen(self.written)

    @property
    def colours(self) -> list[str]:
        """The escape sequences for colours, in order."""
        return _COLOUR.findall(self.written)


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this was written to it."""
    shown: list[str] = []
    for line in _COLOUR.sub("", written).replace("\r\n", "\n").split("\n"):
        text = ""
        for part in line.split("\r"):
            text = part + text[len(part) :]
        shown.append(text.rstrip())
    while shown and not shown[-1]:
        shown.pop()
    return shown
