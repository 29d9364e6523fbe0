"""Passes received datagrams to the core, and answers requests for lost fragments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import Reason
from crabnet.node.durable.committer import Committer
from crabnet.node.network.outbox import Outbox, steady_ms
from crabnet.node.network.signatures import Batch, Signatures
from crabnet.protocol.admission import Ahead
from crabnet.protocol.fragment_wire import Shape, classify, parse_request
from crabnet.protocol.fragments import Complete, Dropped, Reassembler
from crabnet.transport.base import Address, Transport, parse_address

Notify = Callable[[str, dict[str, FieldValue]], None]


class _Slice(NamedTuple):
    """Messages to handle together, the effects of reading them, and the check of their signatures."""

    messages: list[Received]
    effects: Effects
    ahead: Ahead
    batch: Batch


class Network:
    """The receiving side of a transport. A bad datagram costs no more than its parsing, and none ends the node."""

    def __init__(
        self,
        core: Core,
        transport: Transport,
        outbox: Outbox,
        committer: Committer,
        notify: Notify,
        clock_ms: Callable[[], int],
        signatures: Signatures,
    ) -> None:
        self._core = core
        self._signatures = signatures
        self._transport = transport
        self._outbox = outbox
        self._committer = committer
        self._notify = notify
        self._clock_ms = clock_ms
        self._observe = committer.meters.message_handling.observe
        self._reassembler = Reassembler()
        self._answers: list[tuple[list[bytes], Address]] = []
        self._wake = trio.Event()

    async def receive(self) -> None:
        """Receive until cancelled. While the node handles one slice, the signatures of the next slices are checked."""
        slices, to_handle = trio.open_memory_channel[_Slice](limits.SLICES_AHEAD)
        handling = self._core.mending.handling
        fragments = self._core.mending.separately("fragments", self._renew, by_message=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signatures.run)
            nursery.start_soon(self._answer_all)
            nursery.start_soon(self._handle_all, to_handle)
            while True:
                datagrams = await self._transport.receive()
                crowded = _crowded(datagrams)
                for at in range(0, len(datagrams), limits.RECEIVE_SLICE):
                    effects = Effects()
                    now_ms = self._clock_ms()
                    messages = []
                    for data, address in datagrams[at : at + limits.RECEIVE_SLICE]:
                        message = None
                        handling(data, str(address))
                        with fragments:
                            message = self._take(data, address, now_ms, effects, crowded=crowded)
                        if message is not None:
                            messages.append(message)
                    ahead = self._core.collect(messages, now_ms)
                    batch = await self._signatures.begin(ahead.signed)
                    await slices.send(_Slice(messages, effects, ahead, batch))

    async def _handle_all(self, slices: trio.MemoryReceiveChannel[_Slice]) -> None:
        """Handle slices in the order in which they arrived."""
        async for each in slices:
            genuine: list[bool] | None = None
            with self._core.mending.separately("signatures"):
                genuine = await self._signatures.answers(each.batch)
            now_ms = self._clock_ms()
            self._core.answered(each.ahead, genuine)
            effects = each.effects
            began_s = time.perf_counter()
            for message in each.messages:
                if self._core.mending.is_suspect(message.data):
                    self._committer.enqueue(effects)
                    alone, effects = Effects(alone=True), Effects()
                    self._core.handle(message, now_ms, alone)
                    self._committer.enqueue(alone)
                else:
                    self._core.handle(message, now_ms, effects)
                ended_s = time.perf_counter()
                self._observe(ended_s - began_s)
                began_s = ended_s
            self._core.rest(now_ms, effects)
            self._committer.enqueue(effects)
            await trio.lowlevel.checkpoint()
            await self._committer.room()

    def _take(self, data: bytes, address: Address, now_ms: int, effects: Effects, *, crowded: bool) -> Received | None:
        """The message that a datagram holds or completes; None without one."""
        source = str(address)
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
                    self._answers.append(([request], parse_address(source)))
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
