"""One life of a child: a process, its lifeline, its handshake and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from typing import Final

import trio

from crabnet.child import LENGTH, python_command
from crabnet.errors import Reason
from crabnet.node.children.handshake import Ready, first_line, outcome_of
from crabnet.node.children.spec import ChildSpec, Failure

_MAIN: Final = "crabnet.child:main"
"""The program of every child."""


class Process:
    """A child that has been started. Call ``end`` exactly once."""

    def __init__(self, spec: ChildSpec) -> None:
        """Start the child. Raises OSError.

        The child is to die with the thread that starts it, so this blocks the thread of the loop, for the few
        milliseconds until the interpreter is executed.
        """
        self._spec = spec
        ours, theirs = socket.socketpair()
        with ExitStack() as stack, theirs:
            stack.callback(ours.close)
            self._popen = subprocess.Popen(
                python_command(_MAIN, spec.entry, str(spec.stop_ms)),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None if spec.stderr else subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH", *spec.environment) if name in os.environ},
            )
            stack.callback(self._popen.wait)
            stack.callback(self._popen.kill)
            self._pidfd = os.pidfd_open(self._popen.pid)
            stack.pop_all()
        self.pid = self._popen.pid
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        """The lifeline. After the handshake its owner may use it."""

    async def handshake(self) -> Ready | Failure:
        """Give the child what it is to know, and wait until it says whether it works."""
        late = Failure(Reason.TIMEOUT, f"it was not ready within {self._spec.handshake_ms} ms")
        given = self._spec.given if isinstance(self._spec.given, bytes) else self._spec.given()
        line = None
        with trio.move_on_after(self._spec.handshake_ms / 1000):
            with suppress(trio.BrokenResourceError):
                await self.stream.send_all(LENGTH.pack(len(given)) + given)
                line = await first_line(self.stream.socket)
            if line is not None:
                return outcome_of(line)
            await self.ended()
            return Failure(Reason.INTERNAL, f"it ended before it was ready ({self.ending()})")
        return late

    async def ended(self) -> None:
        """Wait until the process has ended. Only one task may wait for that."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def ending(self) -> str:
        """How the process ended, in words; "" while it lives."""
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return ""
        return f"{'exit status' if found.si_code == os.CLD_EXITED else 'signal'} {found.si_status}"

    async def end(self, stop_ms: int) -> bool:
        """End the process: in an orderly way, which may take ``stop_ms``, else at once. Not cancelled.

        What is left of its process group is killed with it. Returns whether the process itself was killed.
        """
        with trio.CancelScope(shield=True):
            if stop_ms:
                with suppress(OSError):
                    self.stream.socket.shutdown(socket.SHUT_WR)
                with trio.move_on_after(stop_ms / 1000):
                    await self.ended()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # before the process is reaped, so the number is still its own
            await self.ended()
        killed = self.ending() == f"signal {signal.SIGKILL:d}"  # by the line above, or by the child's own watcher
        self._popen.wait()
        os.close(self._pidfd)
        self.stream.socket.close()
        return killed
