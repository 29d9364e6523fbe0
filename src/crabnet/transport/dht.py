"""The node's end of its libp2p process: whole messages to topics and peers, over the lifeline (ADR 43)."""

from __future__ import annotations

from typing import Final

import trio

from crabnet.errors import Reason
from crabnet.transport.p2p_wire import (
    Block,
    Frames,
    Order,
    Path,
    Publish,
    Published,
    Report,
    Send,
    Sent,
    frame,
    report_of,
)

_READ_BYTES: Final = 256 * 1024


class DhtTransport:
    """One life of the process. Every method raises trio.BrokenResourceError once the process is gone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frames = Frames()
        self._writing = trio.Lock()
        self._number = 0
        self._asked: dict[int, trio.Event] = {}
        self._answers: dict[int, Published | Sent] = {}
        self._is_over = False

    def end(self) -> None:
        """The process is gone, or given up: whoever waits for an answer is told so."""
        self._is_over = True
        for answered in self._asked.values():
            answered.set()

    async def receive(self) -> list[Report]:
        """Wait for reports. Returns all that have come, without the answers to ``publish`` and ``send``.

        Raises ValueError and msgspec.MsgspecError for bytes that are no reports.
        """
        while True:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                raise trio.BrokenResourceError("the libp2p process has closed its end")
            found = [report_of(each) for each in self._frames.add(data)]
            reports: list[Report] = [each for each in found if not isinstance(each, Published | Sent)]
            for answer in found:
                if isinstance(answer, Published | Sent) and answer.number in self._asked:
                    self._answers[answer.number] = answer
                    self._asked[answer.number].set()
            if reports:
                return reports

    async def publish(self, data: bytes, topics: list[str]) -> Published:
        """Publish a message. Returns to how many peers it goes; the network may bring it to further ones."""
        number = self._next()
        answer = await self._ask(number, Publish(number, topics, data))
        return answer if isinstance(answer, Published) else Published(number, 0, Reason.INTERNAL)

    async def send(self, messages: list[bytes], peer: str, path: Path) -> Sent:
        """Send messages to a connected peer. Returns once its stream has taken them, or why it has not."""
        number = self._next()
        answer = await self._ask(number, Send(number, peer, path, messages))
        return answer if isinstance(answer, Sent) else Sent(number, Reason.INTERNAL)

    async def block(self, peer: str, duration_ms: int) -> None:
        """Disconnect a peer, and refuse it for a while."""
        await self._write(Block(peer, duration_ms))

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _ask(self, number: int, order: Order) -> Published | Sent:
        if self._is_over:
            raise trio.BrokenResourceError("the libp2p process is gone")
        self._asked[number] = answered = trio.Event()
        try:
            await self._write(order)
            await answered.wait()
            answer = self._answers.pop(number, None)
            if answer is None:
                raise trio.BrokenResourceError("the libp2p process has ended without an answer")
            return answer
        finally:
            self._asked.pop(number, None)
            self._answers.pop(number, None)

    async def _write(self, order: Order) -> None:
        async with self._writing:
            await self._stream.send_all(frame(order))
