"""Signatures checked by another process while the loop handles what came before.

Threads cannot do that: each needs the interpreter between two signatures, and gets it from a busy loop every 5 ms. The
process is started when much comes, and ends when little does; without it, and whatever happens to it, the node checks
the signatures itself.
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
"""It finds its modules where this process finds them, and nowhere else."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Signatures to be checked, and the stream by which they were sent; None if the node checks them itself.

    ``known`` are the answers to those at the end that were not sent.
    """

    signed: Sequence[SignedBytes]
    stream: trio.SocketStream | None
    known: list[bool]


class Signatures:
    """Batches of signatures: ``begin`` them early, ``answers`` gives the answers in the order of the batches."""

    def __init__(
        self, verify_all: VerifyAll, notify: Callable[[str, dict[str, FieldValue]], None], *, processors: int
    ) -> None:
        """``processors`` that there are: with one alone a process would gain nothing."""
        self._verify_all = verify_all
        self._notify = notify
        self._possible = processors > 1
        self._stream: trio.SocketStream | None = None
        self.pid: int | None = None
        """The process that takes batches, if there is one."""
        self._wanted = trio.Event()
        self._over = trio.Event()
        self._batches = 0
        self._under_way = 0

    async def begin(self, signed: Sequence[SignedBytes]) -> Batch:
        """Have signatures checked by the process, if it runs and they are worth the trouble."""
        if len(signed) < limits.VERIFY_BATCH_MIN or not self._possible:
            return Batch(signed, None, [])
        self._batches += 1
        stream = self._stream
        if stream is None:
            self._wanted.set()
            return Batch(signed, None, [])
        # When nothing is under way, the loop would only wait for this: it takes its half.
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
        """Whether each of a batch is genuine. To be called once for each batch, in their order."""
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
        """The process does not answer: it is given up, with all that it was asked."""
        if stream is self._stream:
            self._stream = None
            self._over.set()

    async def run(self) -> None:
        """Start the process when it is wanted, and end it; until cancelled."""
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
                    "detail": f"the process that checks signatures: {detail}; the node checks them itself meanwhile",
                }
                self._notify("job_failed", fields)
                await trio.sleep(limits.VERIFY_RESTART_MS / 1000)
            self._wanted = trio.Event()

    async def _until_idle(self) -> bool:
        """True if the process was lost, False if little came for a while."""
        while True:
            self._batches = 0
            with trio.move_on_after(limits.VERIFY_IDLE_MS / 1000):
                await self._over.wait()
                return True
            if not self._batches:
                return False


@asynccontextmanager
async def _process() -> AsyncIterator[tuple[trio.Process, trio.SocketStream]]:
    """A process that takes batches, as long as the block lasts. Raises OSError."""
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
