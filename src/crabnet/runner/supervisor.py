"""The process between a node and a command: starts it, signals it, outlives nothing of it.

It is a program of its own (``python -I -S supervisor.py CONTROL STDOUT STDERR``), on the standard library
alone, because only a process without threads can do this safely: it is the parent and the subreaper of every
process of the run (prctl(2), PR_SET_CHILD_SUBREAPER), so none can hide by leaving the session, none becomes a
zombie of the node, and their CPU time is counted together. When the node dies, however it dies, the control
socket closes and everything is killed; when this process dies, PDEATHSIG kills the command.

Protocol on the socket CONTROL. From the node: one line of JSON (``executable``, ``argv``, ``env``,
``workdir_fd``), then single bytes: ``T`` asks the command's process group to end (SIGTERM),
``K`` or the end of the stream kills everything (SIGKILL). To the node, one line of JSON each:
``{"event": "started", "pid": int}`` or ``{"event": "failed", "errno": int}``;
``{"event": "exited", "status": int}`` with the wait status of the command; ``{"event": "gone", "cpu_ms": int}``
when no process is left. Once the command has ended and no ``T`` was sent, what it left running is killed; after
``T`` that waits for ``K``.

A process that forks faster than it can be killed, or that can signal this process, needs a stronger
fence: a sandbox around the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
from typing import NamedTuple, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_RETRY_MS = 50
_LAUNCH_BYTES_MAX = 4 * 1024 * 1024


class Launch(NamedTuple):
    """What the node asks for."""

    executable: str
    argv: list[str]
    env: dict[str, str]
    workdir_fd: int


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Supervisor:
    """One run. ``control`` is the socket to the node; ``stdout`` and ``stderr`` become the command's."""

    def __init__(self, control: int, stdout: int, stderr: int) -> None:
        self._control = control
        self._stdout = stdout
        self._stderr = stderr
        self._main_pid = 0
        self._main_alive = False
        self._terminating = False
        self._killing = False
        self._cpu_s = 0.0

    def run(self) -> None:
        """Serve one run from launch to the last process."""
        for fd in (self._control, self._stdout, self._stderr):
            os.set_inheritable(fd, False)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake = self._wake_on_child_exit()
        launch = self._read_launch()
        if launch is None:
            return
        failure = self._start(launch)
        os.close(self._stdout)
        os.close(self._stderr)
        if failure:
            self._tell({"event": "failed", "errno": failure})
            return
        self._tell({"event": "started", "pid": self._main_pid})
        self._supervise(wake)
        self._tell({"event": "gone", "cpu_ms": round(self._cpu_s * 1000)})

    @staticmethod
    def _wake_on_child_exit() -> int:
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return wake

    def _read_launch(self) -> Launch | None:
        data = b""
        while not data.endswith(b"\n"):
            chunk = os.read(self._control, 65536)
            if not chunk or len(data) > _LAUNCH_BYTES_MAX:
                return None
            data += chunk
        return Launch(**json.loads(data))

    def _start(self, launch: Launch) -> int:
        """Fork and exec. Returns 0, or the errno of what failed."""
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        supervisor_pid = os.getpid()
        self._main_pid = os.fork()
        if self._main_pid == 0:
            self._become(launch, supervisor_pid, error_write)
        os.close(error_write)
        report = os.read(error_read, 16)
        os.close(error_read)
        if report:
            os.waitpid(self._main_pid, 0)
            return int(report)
        self._main_alive = True
        return 0

    def _become(self, launch: Launch, supervisor_pid: int, error_write: int) -> NoReturn:
        code = errno.EINVAL
        try:
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor_pid:
                os._exit(127)
            self._reset_signals()
            os.umask(0o077)
            os.dup2(self._stdout, 1)
            os.dup2(self._stderr, 2)
            os.fchdir(launch.workdir_fd)
            os.set_inheritable(launch.workdir_fd, False)
            os.execve(launch.executable, launch.argv, launch.env)  # noqa: S606 - no shell is the point
        except OSError as error:
            code = error.errno or code
        finally:
            os.write(error_write, str(code).encode())
            os._exit(127)

    @staticmethod
    def _reset_signals() -> None:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _supervise(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        while self._reap():
            if not self._main_alive and not self._terminating:
                self._killing = True
            if self._killing:
                self._kill_children()
            for fd, _ in poll.poll(_RETRY_MS if self._killing else None):
                if fd == wake:
                    os.read(wake, 4096)
                elif not self._obey():
                    poll.unregister(self._control)

    def _reap(self) -> bool:
        """Collect what has ended. False when nothing is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._cpu_s += usage.ru_utime + usage.ru_stime
            if pid == self._main_pid:
                self._main_alive = False
                self._tell({"event": "exited", "status": status})

    def _obey(self) -> bool:
        """Do what the node asks. False when it will ask nothing more."""
        try:
            orders = os.read(self._control, 16)
        except OSError:
            orders = b""
        if b"T" in orders:
            self._terminating = True
            if self._main_alive:
                with contextlib.suppress(PermissionError):
                    os.killpg(self._main_pid, signal.SIGTERM)
                    os.killpg(self._main_pid, signal.SIGCONT)
        if b"K" in orders or not orders:
            self._killing = True
        return bool(orders)

    def _kill_children(self) -> None:
        """Kill every child. Their children become ours, wake us by that, and are next.

        Processes of another user (a set-user-ID program) cannot be killed; they stay until they end.
        """
        if self._main_alive:
            with contextlib.suppress(PermissionError):
                os.killpg(self._main_pid, signal.SIGKILL)
        own = os.getpid()
        try:
            with os.fdopen(os.open(f"/proc/{own}/task/{own}/children", os.O_RDONLY)) as listing:
                pids = [int(pid) for pid in listing.read().split()]
        except OSError:
            return
        for pid in pids:
            with contextlib.suppress(PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _tell(self, event: dict[str, object]) -> None:
        try:
            os.write(self._control, json.dumps(event).encode() + b"\n")
        except OSError:
            self._killing = True


if __name__ == "__main__":
    Supervisor(*(int(fd) for fd in sys.argv[1:4])).run()
