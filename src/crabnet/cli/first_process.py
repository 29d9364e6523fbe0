"""The first process of a container. Standard library only."""

from __future__ import annotations

import os
import signal
from typing import Final

_FIRST: Final = 1
_FORWARDED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


def leave_first_process() -> int | None:
    """If this is process 1, fork, so that the program runs in the child. Elsewhere this does nothing.

    Process 1 adopts every orphan in its PID namespace and must reap it (pid_namespaces(7)), and a program with children
    of its own cannot do that safely. Returns None where the program is to go on. In process 1 it returns after the end
    of the child, with the child's exit code as a shell reports it. Until then process 1 forwards signals and reaps. To
    be called while the process has one thread.
    """
    if os.getpid() != _FIRST:
        return None
    watched = _FORWARDED | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            os.kill(child, number)
        status = _reap_all(child)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap_all(child: int) -> int | None:
    """Reap every process that has ended. Returns the status of ``child`` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status
