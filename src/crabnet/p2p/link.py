"""The end of the lifeline in the libp2p process: orders of the node come in, reports go out."""

from __future__ import annotations

import socket
from collections import deque
from typing import Final

import trio

from crabnet import limits
from crabnet.transport.p2p_wire import Frames, Order, Report, frame, order_of

_READ_BYTES: Final = 256 * 1024


class Link:
    """A stream of frames to and from the node. The process ends when the node closes it (``crabnet.child``)."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._filled = trio.Event()
        self._emptied = trio.Event()
        self._frames = Frames()

    @property
    def is_full(self) -> bool:
        """True while the node does not keep up."""
        return self._waiting_bytes >= limits.P2P_LINK_BYTES_MAX

    def tell(self, report: Report) -> None:
        """Queue a report, however full the queue is. Use it for small reports whose number is bounded otherwise."""
        framed = frame(report)
        self._waiting.append(framed)
        self._waiting_bytes += len(framed)
        self._filled.set()

    async def tell_when_there_is_room(self, report: Report) -> None:
        """Queue a report once the node has taken enough of those before it."""
        while self.is_full:
            await self._emptied.wait()
        self.tell(report)

    async def write(self) -> None:
        """Send queued reports until cancelled."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            while self._waiting:
                taken = b"".join(self._waiting)
                self._waiting.clear()
                await self._stream.send_all(taken)
                self._waiting_bytes -= len(taken)
                emptied, self._emptied = self._emptied, trio.Event()
                emptied.set()

    async def orders(self) -> list[Order]:
        """The next orders; none once the node has closed the lifeline. Raises ValueError and msgspec.MsgspecError."""
        while True:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                return []
            found = self._frames.add(data)
            if found:
                return [order_of(each) for each in found]
