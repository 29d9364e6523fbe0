"""Starting supervisors, and the node's end of each.

A supervisor is a Python process. The start of an interpreter takes longer than everything else in a short run. So the
node starts one process with its first run, the template. All supervisors are forked from it
(``supervisor/template.py``).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from crabnet import limits
from crabnet.runner.output import Stream
from crabnet.runner.supervisor.spawn import Descriptors
from crabnet.runner.supervisor.template import LETTERS

_LOADER: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from crabnet.runner.supervisor.template import main; main()"
)
"""The standard library comes first in the path, so that no module next to this package can replace a part of it."""
_SOURCE_ROOT: Final = str(Path(__file__).parents[2])
_ANSWER_BYTES: Final = 32
_TRIES: Final = 3
"""One try for a template that died long ago, one for a template that is killed while it starts, and one more."""


@dataclass(frozen=True, slots=True)
class Link:
    """The node's end of one supervisor: its process, the socket to it, and the pipes with the command's output."""

    pid: int
    pidfd: int
    control: trio.SocketStream
    pipes: dict[Stream, int]

    async def end(self) -> None:
        """Wait until the supervisor, and with it the run, has ended. Closing the socket makes it kill everything.

        It sends SIGKILL to a supervisor that has not ended after ``RUNNER_REAP_WAIT_MS``.
        """
        self.control.socket.close()
        for fd in self.pipes.values():
            os.close(fd)
        with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000) as waiting:
            await trio.lowlevel.wait_readable(self.pidfd)
        if waiting.cancelled_caught:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            await trio.lowlevel.wait_readable(self.pidfd)
        self._reap()

    def _reap(self) -> None:
        """Reap the supervisor if it is a child of this process, and close the pidfd.

        It is a child when the template died first and this process is the one that adopts orphans.
        """
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        os.close(self.pidfd)


class Supervisors:
    """Starts supervisors. The template from which they are forked lives until ``close``, or until its node dies."""

    def __init__(self) -> None:
        self._template: _Template | None = None
        self._starting = trio.Lock()

    async def start(self, workdir_fd: int = -1, stdin: bytes = b"") -> Link:
        """Start a supervisor, which then waits for its order. Raises OSError.

        ``workdir_fd`` is passed to it, unless it is -1. ``stdin`` is for the command. A template that has died is
        replaced. If the dead template had forked a supervisor, that supervisor never gets an order.
        """
        async with self._starting:
            with trio.CancelScope(shield=True):
                link = await self._start(workdir_fd, stdin)
        return link

    async def _start(self, workdir_fd: int, stdin: bytes) -> Link:
        tries_left = _TRIES
        while True:
            if self._template is None:
                self._template = await _start_template()
            try:
                return await _link(self._template, workdir_fd, stdin)
            except _TemplateGoneError as error:
                self.close()
                tries_left -= 1
                if not tries_left or error.errno == errno.ETIMEDOUT:
                    raise

    def close(self) -> None:
        """End the template. Blocks for up to ``RUNNER_REAP_WAIT_MS``. A later start makes a new template."""
        template, self._template = self._template, None
        if template is not None:
            template.end()


class _TemplateGoneError(OSError):
    """The template has died or does not answer in time."""


@dataclass(frozen=True, slots=True)
class _Template:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    """A non-blocking socket. Only one request is in flight at a time, so there is always room for it."""

    async def fork(self, given: Descriptors) -> tuple[int, int]:
        """Fork a supervisor with copies of descriptors. Returns its process id and a pidfd. Raises OSError."""
        letters = bytes(letter for letter, fd in zip(LETTERS, given, strict=True) if fd >= 0)
        fds = [fd for fd in given if fd >= 0]
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            with trio.fail_after(limits.RUNNER_SPAWN_WAIT_MS / 1000):
                self.channel.sendmsg([letters], passed)
                await trio.lowlevel.wait_readable(self.channel)
                answer, found, _, _ = socket.recv_fds(self.channel, _ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except trio.TooSlowError:
            raise _TemplateGoneError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        except OSError as error:
            raise _TemplateGoneError(errno.EPIPE, "the process that starts runs has ended") from error
        if not answer:
            raise _TemplateGoneError(errno.EPIPE, "the process that starts runs has ended")
        number = int(answer)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        if not found:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return number, found[0]

    def end(self) -> None:
        """Close the socket, which makes the template exit. Kill it if it does not exit in time."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(limits.RUNNER_REAP_WAIT_MS / 1000)
        self.process.kill()
        self.process.wait()


async def _start_template() -> _Template:
    """Start the template. Raises OSError."""
    if not sys.executable:
        raise FileNotFoundError(errno.ENOENT, "this program cannot find its Python interpreter")
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        interpreter = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _LOADER, _SOURCE_ROOT]
        process = await trio.to_thread.run_sync(_execute, [*interpreter, str(other.fileno())], other.fileno())
    except OSError:
        own.close()
        raise
    finally:
        other.close()
    own.setblocking(False)
    return _Template(process, own)


def _execute(command: list[str], fd: int) -> subprocess.Popen[bytes]:
    """Start ``command`` without this process's environment, which may contain secrets."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        start_new_session=True,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
    )


async def _link(template: _Template, workdir_fd: int, stdin: bytes) -> Link:
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
        stdin_fd = -1
        if stdin:
            stdin_fd = _sealed(stdin)
            theirs.callback(os.close, stdin_fd)
        out, err = write_ends[Stream.STDOUT], write_ends[Stream.STDERR]
        pid, pidfd = await template.fork(Descriptors(other_socket.fileno(), out, err, workdir_fd, stdin_fd))
        ours.pop_all()
    return Link(pid, pidfd, control, read_ends)


def _sealed(content: bytes) -> int:
    """A file in memory with this content, which nobody can change, at its beginning. Raises OSError."""
    fd = os.memfd_create("crabnet-stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(fd)
        raise
    return fd
