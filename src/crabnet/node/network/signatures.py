"""Has another process check signatures while the event loop handles earlier messages.

Threads cannot do that: a thread needs the interpreter between two signatures, and a busy loop releases it only every
5 ms. The node starts the process when many signatures arrive, and ends it when few do. Without the process, or if it
fails, the node checks the signatures itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.node.children.spec import ChildSpec
from crabnet.node.children.supervision import Child
from crabnet.node.network.verify_process import decode_answer, encode_batch
from crabnet.protocol.identity import SignedBytes, VerifyAll, verify_each


def verifier_spec() -> ChildSpec:
    """The process that checks signatures."""
    return ChildSpec(
        name="signatures",
        entry="crabnet.node.network.verify_process:main",
        without="the node checks them itself for now",
        restart_ms=limits.VERIFY_RESTART_MS,
    )


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

    def __init__(self, verify_all: VerifyAll, child: Child, *, processors: int) -> None:
        """``child`` is a ``verifier_spec``, which only this object uses. ``processors`` is the number of usable
        processors. With only one a second process would gain nothing.
        """
        self._verify_all = verify_all
        self._child = child
        self._possible = processors > 1
        self._batches = 0
        self._under_way = 0

    @property
    def pid(self) -> int | None:
        """The id of the process that takes batches; None without one."""
        return None if self._child.stream is None else self._child.health().pid

    async def begin(self, signed: Sequence[SignedBytes]) -> Batch:
        """Send signatures to the process, if it runs and there are at least VERIFY_BATCH_MIN of them."""
        if len(signed) < limits.VERIFY_BATCH_MIN or not self._possible:
            return Batch(signed, None, [])
        self._batches += 1
        stream = self._child.stream
        if stream is None:
            self._child.want()
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
            if stream is self._child.stream:
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
        if stream is self._child.stream:
            self._child.give_up(Reason.TIMEOUT, "it did not answer")

    async def run(self) -> None:
        """Start the process when it is wanted and end it when it is idle, until cancelled."""
        if not self._possible:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._child.run)
            while True:
                await self._child.running()
                self._batches = 0
                await trio.sleep(limits.VERIFY_IDLE_MS / 1000)
                if not self._batches and not self._under_way:
                    self._child.release()
