"""The node's side of one run, opposite its supervisor (``supervisor`` explains why there is one).

The node decides when a run must end, and reads its output. The supervisor does the rest.
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import msgspec
import trio

from crabnet import limits
from crabnet.runner import scratch
from crabnet.runner.outcome import Cause, Ending
from crabnet.runner.output import OutputCapture, Stream
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox.bwrap import WORK
from crabnet.runner.sandbox.model import Mode
from crabnet.runner.supervisor.order import Order
from crabnet.runner.supervisor_client import Supervisors

_READ_BYTES = 64 * 1024
_DETAIL_CHARS = 300
_KILLED_AT_ONCE = frozenset({Cause.MEMORY, Cause.CPU, Cause.DISK})
"""For these causes the supervisor kills the run itself, before it uses more."""


class _Event(msgspec.Struct, frozen=True):
    event: str
    pid: int = 0
    root_pid: int = 0
    errno: int = 0
    sandbox: bool = False
    detail: str = ""
    status: int = 0
    lost: bool = False
    cpu_ms: int = 0
    memory_peak_bytes: int = 0
    limits_hit: tuple[str, ...] = ()


_EVENT_DECODER = msgspec.json.Decoder(_Event)


class RunProcess:
    """One command from its launch to the last of its processes."""

    def __init__(self, policy: RunnerPolicy, timeout_ms: int, clock: Callable[[], float]) -> None:
        self._timeout_ms = timeout_ms
        self._kill_wait_ms = policy.kill_wait_ms
        self._clock = clock
        self.capture = OutputCapture(policy.output_bytes_max, policy.output_total_bytes_max, _spool_file)
        self.spawn_error = 0
        """The errno with which the command could not be started."""
        self.supervisor_error = 0
        """The errno with which this worker could not start anything."""
        self.sandbox_error: str | None = None
        self._left_nothing = False
        self.work_fd = -1
        """The work dir that a sandbox made. It stays open until ``close``, even after the end of the sandbox."""
        self._root_pid = 0
        self._memory_peak_bytes = 0
        self._limits_hit: dict[str, None] = {}
        self._cause: Cause | None = None
        self._pid = 0
        self._wait_status: int | None = None
        self._escalated = False
        self._cpu_ms = 0
        self._started_at = self._exited_at = 0.0
        self._grace_s = 0.0
        self._ready = trio.Event()
        self._answered = trio.Event()
        self._ending = trio.Event()
        self._gone = trio.Event()
        self._collected = {stream: trio.Event() for stream in Stream}

    def close(self) -> None:
        """Close the work dir and the captured output."""
        self.capture.close()
        if self.work_fd >= 0:
            os.close(self.work_fd)
            self.work_fd = -1

    @property
    def orderly(self) -> bool:
        """True if the supervisor reported that it left no process and no control group."""
        return self._left_nothing

    def ending(self) -> Ending:
        """Return how the run ended. Call it only after ``perform``, and only if that has set no error."""
        return Ending(
            cause=self._cause if self._cause is not None else Cause.SIGNALED,
            wait_status=self._wait_status,
            escalated=self._escalated,
            wall_ms=_ms(self._exited_at - self._started_at),
            cpu_ms=self._cpu_ms,
            grace_ms=_ms(self._grace_s),
            memory_peak_bytes=self._memory_peak_bytes,
            limits_hit=tuple(self._limits_hit),
        )

    async def perform(
        self, order: Order, workdir_fd: int, stop: trio.Event | None, supervisors: Supervisors, stdin: bytes = b""
    ) -> None:
        """Run the command of ``order``. If it cannot be started, set ``spawn_error``, ``supervisor_error`` or
        ``sandbox_error``.

        ``workdir_fd`` is an open directory of the host, or -1. The command reads ``stdin``.
        """
        try:
            link = await supervisors.start(workdir_fd, stdin)
        except OSError as error:
            self.supervisor_error = error.errno or errno.EIO
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, link.control)
                for stream, fd in link.pipes.items():
                    nursery.start_soon(self._collect, stream, fd)
                if stop is not None:
                    nursery.start_soon(self._obey, stop)
                await self._conduct(link.control, order)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await link.end()

    async def _conduct(self, control: trio.SocketStream, order: Order) -> None:
        with trio.move_on_after(limits.RUNNER_SPAWN_WAIT_MS / 1000):
            await _send(control, encode(order))
            if order.fence == Mode.BWRAP:
                await self._ready.wait()
                await _send(control, b"G")
            await self._answered.wait()
        if self.sandbox_error is not None:
            return
        if self.spawn_error or not self._pid:
            self.supervisor_error = 0 if self.spawn_error else errno.EIO
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
        if self._cause not in _KILLED_AT_ONCE:
            await _send(control, b"T")
            with trio.move_on_after(self._kill_wait_ms / 1000):
                await self._gone.wait()
        if not self._gone.is_set():
            self._escalated = self._cause not in _KILLED_AT_ONCE
            await _send(control, b"K")
            with trio.move_on_after(limits.RUNNER_REAP_WAIT_MS / 1000):
                await self._gone.wait()
        self._grace_s = self._clock() - asked_at

    def _sandbox_failure(self, event: _Event) -> str:
        said = bytes(self.capture.head(Stream.STDERR)).decode(errors="replace").strip()[:_DETAIL_CHARS]
        why = event.detail or os.strerror(event.errno)
        return f"the worker's sandbox could not be made: {why}{': ' if said else ''}{said}"

    def _end(self, cause: Cause) -> None:
        """End the run for ``cause``. Only the first cause counts."""
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
            if stream is Stream.STDERR and self.capture.overfull:
                await trio.to_thread.run_sync(self.capture.spill)
        self._collected[stream].set()

    async def _listen(self, control: trio.SocketStream) -> None:
        """Follow the supervisor's events until it ends."""
        rest = b""
        with suppress(trio.BrokenResourceError, msgspec.DecodeError):
            while chunk := await control.receive_some(_READ_BYTES):
                *lines, rest = (rest + bytes(chunk)).split(b"\n")
                for line in lines:
                    self._take(_EVENT_DECODER.decode(line))
        if not self._gone.is_set():
            for pid in (self._root_pid, self._pid):
                with suppress(ProcessLookupError, PermissionError):
                    if pid:
                        os.killpg(pid, signal.SIGKILL)
        self._ready.set()
        self._answered.set()
        self._end(Cause.LOST)
        self._gone.set()

    def _take(self, event: _Event) -> None:
        match event.event:
            case "ready":
                self._root_pid = event.root_pid
                with suppress(OSError):
                    place = f"/proc/{event.root_pid}/root{WORK}"
                    self.work_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._ready.set()
            case "forked":
                self._pid = event.pid
                self._started_at = self._clock()
            case "started":
                self._pid = event.pid
                self._started_at = self._clock()
                self._answered.set()
            case "failed":
                self._left_nothing = True
                if event.sandbox:
                    self.sandbox_error = self._sandbox_failure(event)
                self.spawn_error = event.errno
                self._ready.set()
                self._answered.set()
            case "limit":
                self._limits_hit.update(dict.fromkeys(event.limits_hit))
                self._end(Cause(event.limits_hit[0]))
            case "exited":
                self._wait_status = event.status
                self._exited_at = self._clock()
                by_signal = Cause.LOST if event.lost else Cause.SIGNALED
                self._end(by_signal if os.WIFSIGNALED(event.status) else Cause.EXITED)
            case "gone":
                self._left_nothing = True
                self._cpu_ms = event.cpu_ms
                self._memory_peak_bytes = event.memory_peak_bytes
                self._limits_hit.update(dict.fromkeys(event.limits_hit))
                self._gone.set()


def encode(order: Order) -> bytes:
    """Return the line that ``supervisor.order.decode`` reads."""
    return msgspec.json.encode(_as_objects(order)) + b"\n"


def _as_objects(order: Order) -> dict[str, object]:
    fields: dict[str, object] = order._asdict()
    fields["bounds"] = order.bounds._asdict()
    fields["cgroup"] = order.cgroup._asdict() if order.cgroup is not None else None
    return fields


async def _send(control: trio.SocketStream, data: bytes) -> None:
    """Send bytes to the supervisor. ``_listen`` notices if the supervisor has ended."""
    with suppress(trio.BrokenResourceError):
        await control.send_all(data)


def _spool_file() -> IO[bytes]:
    """Make a file without a name, so that a killed node leaves no file. Raises OSError."""
    return tempfile.TemporaryFile(buffering=0, dir=scratch.temporary())


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
