"""Running one command to its end: spawn, capture, time limit, termination of every process it left.

Each run has a supervisor process of its own (``supervisor.py`` tells why), to which this module is the
other end. The node only decides when a run must end and reads its output.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.runner.outcome import (
    Cause,
    Ending,
    RunOutcome,
    RunRequest,
    outcome_of_builtin,
    outcome_of_run,
    outcome_without_run,
)
from crabnet.runner.output import OutputCapture, Stream
from crabnet.runner.policy import Accepted, Refused, RunnerPolicy, check_command
from crabnet.runner.workdir import Workdir, change_directory, environment, find_executable, open_workdir

_EXIT_REFUSED = 126
_EXIT_NOT_FOUND = 127
_READ_BYTES = 64 * 1024
_SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True, slots=True)
class Launch:
    """What will be executed. ``argv[0]`` is the name the program sees; ``executable`` is the file."""

    executable: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: Path
    """Where ``executable`` is started: an absolute path, for a ``Wrap`` to read and not to change."""
    pass_fds: tuple[int, ...] = ()
    """Descriptors of the node that the command inherits."""


Wrap = Callable[[Launch], Launch]
"""Puts something around a launch, such as a sandbox program in front of ``argv``. It may raise ``RefusedError``."""


class _Event(msgspec.Struct, frozen=True):
    event: str
    pid: int = 0
    errno: int = 0
    status: int = 0
    cpu_ms: int = 0


_EVENT_DECODER = msgspec.json.Decoder(_Event)


async def run_command(
    request: RunRequest,
    policy: RunnerPolicy,
    *,
    wrap: Wrap | None = None,
    stop: trio.Event | None = None,
    clock: Callable[[], float] = trio.current_time,
) -> RunOutcome:
    """Run ``request.command`` if ``policy`` allows it, and return how that went.

    Nothing about the command raises: a refusal or a failure to start is an outcome too (exit codes 126 and
    127, the reason on stderr). Setting ``stop`` ends the run like a timeout, with the cause ``cancelled``.
    When the surrounding trio task is cancelled, every process of the run is killed before that propagates; a
    kill of the node itself has the same effect.

    The run ends with the main process of the command: what it left in the background is killed, and cannot
    hold the run open through the output pipes. On a timeout the process group gets SIGTERM, and what is left
    of the run ``policy.kill_wait_ms`` later SIGKILL, other sessions included. ``clock`` gives seconds.
    """
    started_at = clock()

    def not_run(cause: Cause, reason: Reason, message: str, exit_code: int) -> RunOutcome:
        return outcome_without_run(request.run_id, cause, reason, message, exit_code, _ms(clock() - started_at))

    verdict = check_command(policy, request.command)
    if isinstance(verdict, Refused):
        return not_run(Cause.REFUSED, verdict.reason, verdict.message, _EXIT_REFUSED)
    if not 1 <= request.timeout_ms <= limits.TIMEOUT_MS_MAX:
        message = f"the timeout is {request.timeout_ms} ms, must be 1 to {limits.TIMEOUT_MS_MAX}"
        return not_run(Cause.REFUSED, Reason.INVALID_ARGUMENT, message, _EXIT_REFUSED)
    try:
        async with open_workdir(policy) as workdir:
            if verdict.argv[0] == "cd":
                error = change_directory(verdict.argv[1:], workdir)
                return outcome_of_builtin(request.run_id, error, _ms(clock() - started_at))
            launch = _launch(policy, verdict, workdir)
            if launch is None:
                message = f"the command {verdict.argv[0][: limits.RUNNER_NAME_CHARS_SHOWN]!r} was not found"
                return not_run(Cause.SPAWN_FAILED, Reason.SPAWN_FAILED, message, _EXIT_NOT_FOUND)
            run = _Run(policy, min(request.timeout_ms, policy.timeout_ms_max), clock)
            await run.perform(launch if wrap is None else wrap(launch), workdir.fd, stop)
    except RefusedError as refusal:
        return not_run(Cause.REFUSED, refusal.reason, refusal.message, _EXIT_REFUSED)
    if run.spawn_error:
        code = _EXIT_NOT_FOUND if run.spawn_error == errno.ENOENT else _EXIT_REFUSED
        message = f"the command could not be started: {os.strerror(run.spawn_error)}"
        return not_run(Cause.SPAWN_FAILED, Reason.SPAWN_FAILED, message, code)
    output = await trio.to_thread.run_sync(run.capture.finish)
    return outcome_of_run(request.run_id, output, run.ending(), _ms(clock() - started_at))


def _launch(policy: RunnerPolicy, accepted: Accepted, workdir: Workdir) -> Launch | None:
    executable = find_executable(policy, accepted.argv[0], workdir.path)
    if executable is None:
        return None
    return Launch(executable, accepted.argv, environment(policy, workdir.path), workdir.path)


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


class _Run:
    """One command from its launch to the last of its processes."""

    def __init__(self, policy: RunnerPolicy, timeout_ms: int, clock: Callable[[], float]) -> None:
        self._timeout_ms = timeout_ms
        self._kill_wait_ms = policy.kill_wait_ms
        self._clock = clock
        self.capture = OutputCapture(policy.output_bytes_max, policy.output_total_bytes_max)
        self.spawn_error = 0
        self._cause: Cause | None = None
        self._pid = 0
        self._wait_status: int | None = None
        self._escalated = False
        self._cpu_ms = 0
        self._started_at = self._exited_at = 0.0
        self._grace_s = 0.0
        self._answered = trio.Event()
        self._ending = trio.Event()
        self._gone = trio.Event()
        self._collected = {stream: trio.Event() for stream in Stream}

    def ending(self) -> Ending:
        """How the run ended. Only after ``perform``, and without a ``spawn_error``."""
        return Ending(
            cause=self._cause if self._cause is not None else Cause.SIGNALED,
            wait_status=self._wait_status,
            escalated=self._escalated,
            wall_ms=_ms(self._exited_at - self._started_at),
            cpu_ms=self._cpu_ms,
            grace_ms=_ms(self._grace_s),
        )

    async def perform(self, launch: Launch, workdir_fd: int, stop: trio.Event | None) -> None:
        """Run it. Sets ``spawn_error`` to an errno when it could not be started."""
        with ExitStack() as ours:
            try:
                process, control, pipes = await self._spawn_supervisor(launch, workdir_fd, ours)
            except OSError as error:
                self.spawn_error = error.errno or errno.EIO
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, control)
                    for stream, fd in pipes.items():
                        nursery.start_soon(self._collect, stream, fd)
                    if stop is not None:
                        nursery.start_soon(self._obey, stop)
                    await self._conduct(control, launch, workdir_fd)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _end_supervisor(process, control)

    @staticmethod
    async def _spawn_supervisor(
        launch: Launch, workdir_fd: int, ours: ExitStack
    ) -> tuple[trio.Process, trio.SocketStream, dict[Stream, int]]:
        if not sys.executable:
            raise FileNotFoundError(errno.ENOENT, "this program does not know its Python interpreter")
        with ExitStack() as theirs:
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
            interpreter = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_SUPERVISOR)]
            process = await trio.lowlevel.open_process(
                [*interpreter, *(str(fd) for fd in fds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*fds, workdir_fd, *launch.pass_fds),
                start_new_session=True,
                cwd="/",
                env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
            )
        return process, control, read_ends

    async def _conduct(self, control: trio.SocketStream, launch: Launch, workdir_fd: int) -> None:
        order = {
            "executable": str(launch.executable),
            "argv": launch.argv,
            "env": launch.env,
            "workdir_fd": workdir_fd,
        }
        with trio.move_on_after(limits.RUNNER_SPAWN_WAIT_MS / 1000):
            await _order(control, msgspec.json.encode(order) + b"\n")
            await self._answered.wait()
        if not self._pid:
            self.spawn_error = self.spawn_error or errno.EIO
            return
        with trio.move_on_after(self._timeout_ms / 1000):
            await self._ending.wait()
        self._end(Cause.TIMEOUT)
        if self._wait_status is None and not self._gone.is_set():
            await self._terminate(control)
        with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000):
            await self._gone.wait()
        if self._wait_status is None:
            self._exited_at = self._clock()
        with trio.move_on_after(limits.RUNNER_DRAIN_WAIT_MS / 1000):
            for collected in self._collected.values():
                await collected.wait()

    async def _terminate(self, control: trio.SocketStream) -> None:
        asked_at = self._clock()
        await _order(control, b"T")
        with trio.move_on_after(self._kill_wait_ms / 1000):
            await self._gone.wait()
        if not self._gone.is_set():
            self._escalated = True
            await _order(control, b"K")
            with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000):
                await self._gone.wait()
        self._grace_s = self._clock() - asked_at

    def _end(self, cause: Cause) -> None:
        """The first cause counts."""
        if self._cause is None:
            self._cause = cause
            self._ending.set()

    async def _obey(self, stop: trio.Event) -> None:
        await stop.wait()
        self._end(Cause.CANCELLED)

    async def _collect(self, stream: Stream, fd: int) -> None:
        os.set_blocking(fd, False)
        while True:
            await trio.lowlevel.wait_readable(fd)
            chunk = os.read(fd, _READ_BYTES)
            if not chunk:
                break
            if not self.capture.feed(stream, chunk):
                self._end(Cause.OUTPUT_LIMIT)
        self._collected[stream].set()

    async def _listen(self, control: trio.SocketStream) -> None:
        """Follow the supervisor's events until it ends."""
        rest = b""
        with suppress(trio.BrokenResourceError, msgspec.DecodeError):
            while chunk := await control.receive_some(_READ_BYTES):
                *lines, rest = (rest + bytes(chunk)).split(b"\n")
                for line in lines:
                    self._take(_EVENT_DECODER.decode(line))
        if self._pid and not self._gone.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self._answered.set()
        self._end(Cause.SIGNALED)
        self._gone.set()

    def _take(self, event: _Event) -> None:
        match event.event:
            case "started":
                self._pid = event.pid
                self._started_at = self._clock()
                self._answered.set()
            case "failed":
                self.spawn_error = event.errno
                self._answered.set()
            case "exited":
                self._wait_status = event.status
                self._exited_at = self._clock()
                self._end(Cause.SIGNALED if os.WIFSIGNALED(event.status) else Cause.EXITED)
            case "gone":
                self._cpu_ms = event.cpu_ms
                self._gone.set()


async def _order(control: trio.SocketStream, data: bytes) -> None:
    """Tell the supervisor something. That it is gone shows in ``_listen``."""
    with suppress(trio.BrokenResourceError):
        await control.send_all(data)


async def _end_supervisor(process: trio.Process, control: trio.SocketStream) -> None:
    """Make sure that the supervisor, and with it the run, has ended. A closed socket makes it kill everything."""
    await control.aclose()
    with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
