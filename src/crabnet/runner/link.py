"""Starting supervisors, and having one ready before there is a run for it.

A supervisor is a Python process, and the start of its interpreter costs more than everything else of a short run. So a
node keeps one waiting for its order, from its first run on.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from crabnet import limits
from crabnet.runner.output import Stream

_LOADER: Final = "import sys; sys.path.append(sys.argv.pop(1)); from crabnet.runner.supervisor.main import main; main()"
"""The standard library comes first, so that nothing beside this package can take the place of a part of it."""
_SOURCE_ROOT: Final = str(Path(__file__).parents[2])
_POLL_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Link:
    """The node's end of one supervisor: its process, the socket to it, and where the command's output arrives."""

    process: trio.Process
    control: trio.SocketStream
    pipes: dict[Stream, int]

    async def end(self) -> None:
        """Make sure that the supervisor, and with it the run, has ended. A closed socket makes it kill everything."""
        self._close()
        with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000):
            await self.process.wait()
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def drop(self) -> None:
        """End a supervisor that never got an order. Blocks for as long as the kernel takes to kill it."""
        self._close()
        with suppress(ProcessLookupError):
            self.process.kill()
        while self.process.returncode is None:
            time.sleep(_POLL_S)

    def _close(self) -> None:
        self.control.socket.close()
        for fd in self.pipes.values():
            os.close(fd)


async def start_supervisor(workdir_fd: int) -> Link:
    """Start a supervisor, which waits for its order. ``workdir_fd`` goes to it, unless it is -1. Raises OSError."""
    if not sys.executable:
        raise FileNotFoundError(errno.ENOENT, "this program does not know its Python interpreter")
    with ExitStack() as ours, ExitStack() as theirs:
        own_socket, other_socket = socket.socketpair()
        theirs.callback(other_socket.close)
        control = trio.SocketStream(trio.socket.from_stdlib_socket(own_socket))
        ours.callback(control.socket.close)
        read_ends: dict[Stream, int] = {}
        write_ends: dict[Stream, int] = {}
        for stream in Stream:
            read_ends[stream], write_ends[stream] = os.pipe()
            ours.callback(os.close, read_ends[stream])
            theirs.callback(os.close, write_ends[stream])
        fds = (other_socket.fileno(), write_ends[Stream.STDOUT], write_ends[Stream.STDERR])
        interpreter = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _LOADER, _SOURCE_ROOT]
        process = await trio.lowlevel.open_process(
            [*interpreter, *(str(fd) for fd in fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(*fds, *([workdir_fd] if workdir_fd >= 0 else [])),
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
        )
        ours.pop_all()
    return Link(process, control, read_ends)


class Standby:
    """At most one supervisor that waits. When the node dies, its socket closes, and it leaves."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._filling = self._closed = False

    def take(self) -> Link | None:
        """The one that waits, if there is one and it still lives."""
        link, self._link = self._link, None
        if link is not None and link.process.returncode is not None:
            link.drop()
            return None
        return link

    async def fill(self) -> None:
        """Start one, if none waits. It is needed for speed only, so that a failure to start it is none."""
        if self._link is not None or self._filling:
            return
        self._filling = True
        try:
            with trio.CancelScope(shield=True), suppress(OSError):
                self._link = await start_supervisor(-1)
        finally:
            self._filling = False
        if self._closed:
            self.close()

    def close(self) -> None:
        """End the one that waits; none waits any more."""
        self._closed = True
        link = self.take()
        if link is not None:
            link.drop()
