"""Has another process check signatures while the event loop handles earlier messages.

Threads cannot do that: a thread needs the interpreter between two signatures, and a busy loop releases it only every
5 ms. The node starts the process when many signatures arrive, and ends it when few do. Without the process, or if it
fails, the node checks the signatures itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.node.network.verify_process import decode_answer, encode_batch
from crabnet.protocol.identity import SignedBytes, VerifyAll, verify_each

_LOADER: Final = (
    f"import sys; sys.path[:] = sys.argv.pop(1).split({os.pathsep!r});"
    " from crabnet.node.network.verify_process import main; main()"
)
"""The process's program. It looks for modules only on the module search path of this process."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Signatures to check. ``stream`` is the stream on which they were sent, None if the node checks them itself.

    ``known`` holds the answers to the last signatures, which were not sent.
    """

    signed: Sequence[SignedBytes]
    stream: trio.SocketStream | None
    known: list[bool]


class Signatures:
    """Checks batches of signatures. Call ``begin`` early for each batch, and ``answers`` later in the same order."""

    def __init__(
        self, verify_all: VerifyAll, notify: Callable[[str, dict[str, FieldValue]], None], *, processors: int
    ) -> None:
        """``processors`` is the number of usable processors. With only one a second process would gain nothing."""
        self._verify_all = verify_all
        self._notify = notify
        self._possible = processors > 1
        self._stream: trio.SocketStream | None = None
        self.pid: int | None = None
        """The id of the process that takes batches; None without one."""
        self._wanted = trio.Event()
        self._over = trio.Event()
        self._batches = 0
        self._under_way = 0

    async def begin(self, signed: Sequence[SignedBytes]) -> Batch:
        """Send signatures to the process, if it runs and there are at least VERIFY_BATCH_MIN of them."""
        if len(signed) < limits.VERIFY_BATCH_MIN or not self._possible:
            return Batch(signed, None, [])
        self._batches += 1
        stream = self._stream
        if stream is None:
            self._wanted.set()
            return Batch(signed, None, [])
        # Without another batch under way the loop would only wait for this one, so it checks half of it.
        share = len(signed) if self._under_way else len(signed) // 2
        try:
            with trio.fail_after(limits.VERIFY_ANSWER_MS / 1000):
                await stream.send_all(encode_batch(signed[:share]))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._lose(stream)
            return Batch(signed, None, [])
        self._under_way += 1
        return Batch(signed, stream, verify_each(signed[share:]))

    async def answers(self, batch: Batch) -> list[bool]:
        """Whether each signature of a batch is genuine. Call this once for each batch, in the order of ``begin``."""
        stream = batch.stream
        if stream is not None:
            self._under_way -= 1
            if stream is self._stream:
                answers = await self._receive(stream, len(batch.signed) - len(batch.known))
                if answers is not None:
                    return answers + batch.known
                self._lose(stream)
        return self._verify_all(batch.signed)

    async def _receive(self, stream: trio.SocketStream, count: int) -> list[bool] | None:
        answer = b""
        try:
            with trio.fail_after(limits.VERIFY_ANSWER_MS / 1000):
                while len(answer) < count:
                    more = await stream.receive_some(count - len(answer))
                    if not more:
                        return None
                    answer += more
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return None
        return decode_answer(answer, count)

    def _lose(self, stream: trio.SocketStream) -> None:
        """Give up a process that does not answer, with all batches that were sent to it."""
        if stream is self._stream:
            self._stream = None
            self._over.set()

    async def run(self) -> None:
        """Start the process when it is wanted and end it when it is idle, until cancelled."""
        while self._possible:
            await self._wanted.wait()
            try:
                async with _process() as (process, stream):
                    self._over = trio.Event()
                    self._stream, self.pid = stream, process.pid
                    try:
                        lost = await self._until_idle()
                    finally:
                        self._stream = self.pid = None
                    detail = "" if not lost else f"it did not answer (exit status {process.poll()})"
            except OSError as error:
                detail = f"it cannot be started: {error.strerror}"
            if detail:
                fields: dict[str, FieldValue] = {
                    "job": "signatures",
                    "reason": "internal",
                    "detail": f"the process that checks signatures: {detail}; the node checks them itself for now",
                }
                self._notify("job_failed", fields)
                await trio.sleep(limits.VERIFY_RESTART_MS / 1000)
            self._wanted = trio.Event()

    async def _until_idle(self) -> bool:
        """Wait until the process is lost (True) or no batch has come for VERIFY_IDLE_MS (False)."""
        while True:
            self._batches = 0
            with trio.move_on_after(limits.VERIFY_IDLE_MS / 1000):
                await self._over.wait()
                return True
            if not self._batches:
                return False


@asynccontextmanager
async def _process() -> AsyncIterator[tuple[trio.Process, trio.SocketStream]]:
    """Run a process that takes batches while the block runs. Raises OSError."""
    if not sys.executable:
        raise FileNotFoundError(0, "this program does not know its Python interpreter")
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        stack.callback(stream.socket.close)
        stack.callback(theirs.close)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-X", "utf8", "-c", _LOADER, os.pathsep.join(filter(None, sys.path))],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
        )
        theirs.close()
        try:
            yield process, stream
        finally:
            stream.socket.close()
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
