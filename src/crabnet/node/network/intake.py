"""Passes messages of all transports to the core, slice by slice, with their signatures checked meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.core.commands import Misbehaved, PeerJoined, PeerLeft, Received
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.node.durable.committer import Committer
from crabnet.node.network.signatures import Batch, Signatures
from crabnet.node.part import Job, Part
from crabnet.protocol.admission import Ahead


class _Slice(NamedTuple):
    """Messages to handle together, the effects of reading them, and the check of their signatures."""

    messages: list[Received]
    effects: Effects
    ahead: Ahead
    batch: Batch


class Intake(Part):
    """Handles slices in the order in which they came. While one is handled, the signatures of the next are checked."""

    def __init__(self, core: Core, committer: Committer, signatures: Signatures, clock_ms: Callable[[], int]) -> None:
        self._core = core
        self._committer = committer
        self._signatures = signatures
        self._clock_ms = clock_ms
        self._observe = committer.meters.message_handling.observe
        self._slices, self._to_handle = trio.open_memory_channel[_Slice](limits.SLICES_AHEAD)
        self._turn = trio.Lock()
        """The signatures of slices are answered in the order in which they were begun."""

    def jobs(self) -> Sequence[Job]:
        """The jobs that check signatures and handle slices."""
        return [Job(self._signatures.run), Job(self._handle_all)]

    async def put(self, messages: list[Received], effects: Effects, now_ms: int) -> None:
        """Take a slice; ``effects`` are those of reading it. Waits while the node has slices enough."""
        async with self._turn:
            ahead = self._core.collect(messages, now_ms)
            batch = await self._signatures.begin(ahead.signed)
            await self._slices.send(_Slice(messages, effects, ahead, batch))

    async def room(self) -> None:
        """Wait while more records are queued for the journal than a frame should hold."""
        await self._committer.room()

    def enter(self, given: PeerJoined | PeerLeft | Misbehaved) -> None:
        """Have the core handle what a transport says of a peer."""
        effects = Effects()
        self._core.handle(given, self._clock_ms(), effects)
        self._committer.enqueue(effects)

    async def _handle_all(self) -> None:
        async for each in self._to_handle:
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
