"""The template: the process from which supervisors are forked. Standard library only.

It runs as ``python -I -S -c LOADER CHANNEL``. The start of an interpreter takes longer than everything else in a short
run, but a fork of an interpreter that has imported everything takes a millisecond. So a node starts this process once.
It was started with exec, so it contains nothing of the node's memory. It has one thread, so forking is safe.

Protocol on CHANNEL, a socket of type SOCK_SEQPACKET. The node sends one message for each supervisor: a letter for each
descriptor of ``spawn.Descriptors`` that it passes (SCM_RIGHTS), in their order. The template answers ``PID`` with a
descriptor of that process (pidfd), or ``-ERRNO``. When the node's end closes, the template exits. Its supervisors
continue until their own sockets close, also if the template is killed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys

from crabnet.runner.supervisor.main import Supervisor
from crabnet.runner.supervisor.spawn import Descriptors, reset_signals, warm_up

LETTERS = b"coewi"
"""One for each field of ``Descriptors``. The first three are always passed."""


def serve(channel: socket.socket) -> None:
    """Fork supervisors until the node's end of ``channel`` closes."""
    reset_signals()
    warm_up()
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.disable()
    gc.freeze()  # so that a collection in a supervisor does not write to, and thus copy, the pages of these objects
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wake:
                os.read(wake, 4096)
            elif not _answer(channel, (wake, wake_write)):
                _reap()
                return
        _reap()


def _answer(channel: socket.socket, own: tuple[int, int]) -> bool:
    """Fork the requested supervisor. Returns False when the node has ended."""
    data, fds, flags, _ = socket.recv_fds(channel, 16, len(LETTERS), socket.MSG_CMSG_CLOEXEC)
    try:
        if not data:
            return False
        number = errno.EMFILE if flags & socket.MSG_CTRUNC else errno.EPROTO
        if flags & socket.MSG_CTRUNC or len(fds) != len(data) or not data.startswith(LETTERS[:3]):
            return _tell(channel, -number)
        try:
            pid = os.fork()
        except OSError as error:
            return _tell(channel, -(error.errno or errno.EAGAIN))
        if pid == 0:
            _become_supervisor(_named(data, fds), (channel.fileno(), *own))
        return _tell_of(channel, pid)
    finally:
        for fd in fds:
            os.close(fd)


def _named(letters: bytes, fds: list[int]) -> Descriptors:
    found = dict(zip(letters, fds, strict=True))
    return Descriptors(*(found.get(letter, -1) for letter in LETTERS))


def _become_supervisor(given: Descriptors, of_template: tuple[int, ...]) -> None:
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for fd in of_template:
            os.close(fd)
        Supervisor(given).run()
    finally:
        os._exit(0)


def _tell_of(channel: socket.socket, pid: int) -> bool:
    """Answer with the supervisor's process id and pidfd. Returns False when the node has ended.

    The process id is still that of the supervisor, even if it has ended, because only this process reaps it, later.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        return _tell(channel, -(error.errno or errno.EMFILE))  # the node closes its socket, so the supervisor exits
    try:
        return _tell(channel, pid, pidfd)
    finally:
        os.close(pidfd)


def _tell(channel: socket.socket, number: int, *fds: int) -> bool:
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        channel.sendmsg([str(number).encode()], passed)
    except OSError:
        return False
    return True


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Run the template. It exits without clean-up, because the node may wait for its end and nothing needs clean-up."""
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
