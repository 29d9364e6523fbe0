"""Passes received datagrams to the core, and answers requests for lost fragments."""

from __future__ import annotations

from collections.abc import Callable

import trio

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import Reason
from crabnet.node.network.intake import Intake
from crabnet.node.network.outbox import Outbox, steady_ms
from crabnet.protocol.fragment_wire import Shape, classify, parse_request
from crabnet.protocol.fragments import Complete, Dropped, Reassembler
from crabnet.transport.base import Address, Transport, address_of

Notify = Callable[[str, dict[str, FieldValue]], None]


class Network:
    """The receiving side of a transport. A bad datagram costs no more than its parsing, and none ends the node."""

    def __init__(
        self,
        core: Core,
        transport: Transport,
        outbox: Outbox,
        intake: Intake,
        notify: Notify,
        clock_ms: Callable[[], int],
    ) -> None:
        self._core = core
        self._intake = intake
        self._transport = transport
        self._outbox = outbox
        self._notify = notify
        self._clock_ms = clock_ms
        self._reassembler = Reassembler()
        self._answers: list[tuple[list[bytes], Address]] = []
        self._wake = trio.Event()

    async def receive(self) -> None:
        """Receive until cancelled."""
        handling = self._core.mending.handling
        fragments = self._core.mending.separately("fragments", self._renew, by_message=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_all)
            while True:
                datagrams = await self._transport.receive()
                crowded = _crowded(datagrams)
                for at in range(0, len(datagrams), limits.RECEIVE_SLICE):
                    effects = Effects()
                    now_ms = self._clock_ms()
                    messages = []
                    for data, address in datagrams[at : at + limits.RECEIVE_SLICE]:
                        message = None
                        handling(data, address.source)
                        with fragments:
                            message = self._take(data, address, now_ms, effects, crowded=crowded)
                        if message is not None:
                            messages.append(message)
                    await self._intake.put(messages, effects, now_ms)

    def _take(self, data: bytes, address: Address, now_ms: int, effects: Effects, *, crowded: bool) -> Received | None:
        """The message that a datagram holds or completes; None without one."""
        source = address.source
        if not self._core.allows(source, now_ms, effects, len(data), crowded=crowded):
            return None
        shape = classify(data)
        if shape is Shape.WHOLE:
            return Received(source, data)
        if shape is Shape.FRAGMENT:
            taken = self._reassembler.add(source, data, steady_ms())
            if isinstance(taken, Complete):
                return Received(source, taken.message)
            if isinstance(taken, Dropped) and taken.reason is not Reason.DUPLICATE:
                if taken.reason is Reason.MALFORMED_FRAGMENT:
                    if self._core.trifle(source, len(data), now_ms, effects):
                        return None
                    self._core.blame(source, now_ms, effects)
                fields: dict[str, FieldValue] = {
                    "address": source,
                    "bytes": len(data),
                    "reason": taken.reason.value,
                    "count": 1,
                }
                self._notify("fragment_dropped", fields)
        elif shape is Shape.REQUEST and parse_request(data) is not None:
            answer = self._outbox.sent.answer(source, data, steady_ms())
            if answer and len(self._answers) < limits.PEERS_MAX:
                self._answers.append((answer, address))
                self._wake.set()
        elif not self._core.trifle(source, len(data), now_ms, effects):
            self._core.blame(source, now_ms, effects)
            reason = Reason.MALFORMED_FRAGMENT if shape is Shape.REQUEST else shape
            self._notify(
                "datagram_received_bad",
                {"transport": "udp", "address": source, "bytes": len(data), "reason": reason.value},
            )
        return None

    def tick(self) -> None:
        """Request lost fragments again, and drop incomplete messages that are too old."""
        now_ms = steady_ms()
        with self._core.mending.separately("fragments", self._renew):
            for source, request in self._reassembler.requests(now_ms):
                if len(self._answers) < limits.PEERS_MAX:
                    self._answers.append(([request], address_of(source)))
            if self._answers:
                self._wake.set()
            for source, _ in self._reassembler.expire(now_ms):
                self._notify("fragment_dropped", {"address": source, "reason": Reason.EXPIRED.value, "count": 1})

    def _renew(self) -> None:
        self._reassembler = Reassembler()

    async def _answer_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            answers, self._answers = self._answers, []
            for datagrams, address in answers:
                await self._outbox.send_raw(datagrams, address)


def _crowded(datagrams: list[tuple[bytes, Address]]) -> bool:
    """True if so much data was waiting in the socket that its buffer may be full."""
    if len(datagrams) >= limits.UDP_DRAIN_DATAGRAMS_MAX:
        return True
    return sum(len(data) for data, _ in datagrams) >= limits.UDP_CROWDED_BYTES
