"""Sends envelopes: it chooses the targets, splits into datagrams, limits the rate, and retries after a failure. Only
durable envelopes get here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import trio
from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.core.effects import FieldValue, Send
from crabnet.errors import NetworkError, Reason
from crabnet.node.network.deliveries import Deliveries, Delivery
from crabnet.protocol.envelope import BASELINE_KINDS, FEED_KINDS
from crabnet.protocol.fragments import SentCache
from crabnet.source import for_everybody
from crabnet.transport.base import Address, Transport, address_of

Notify = Callable[[str, dict[str, FieldValue]], None]


def steady_ms() -> int:
    """Milliseconds of trio's clock, which never goes back."""
    return int(trio.current_time() * 1000)


async def _pace(bucket: TokenBucket) -> None:
    """Wait until one more datagram may be sent."""
    while not bucket.take(steady_ms()):
        wait_ms = bucket.wait_ms(steady_ms())
        await trio.sleep(wait_ms / 1000)


class _Unsent(NamedTuple):
    """An envelope that waits for a target, and since when, in milliseconds of trio's clock."""

    data: bytes
    since_ms: int


def _new_waiting() -> BoundedTable[str, _Unsent]:
    return BoundedTable(limits.UNSENT_BYTES_PER_TARGET_MAX)


@dataclass(slots=True)
class _Trouble:
    """A target to which a send has failed: the waiting envelopes, weighed in bytes, and the time of the next try."""

    since_ms: int
    next_ms: int
    failures: int = 0
    detail: str = ""
    waiting: BoundedTable[str, _Unsent] = field(default_factory=_new_waiting)


class SendingGauges(Struct, frozen=True, kw_only=True):
    """What this node has not sent yet. Times are in milliseconds.

    ``queued`` messages wait for their turn, the first of them for ``oldest_queued_ms``. ``unsent`` envelopes of this
    node wait for ``targets_failing`` addresses to which a send has failed, the oldest for ``oldest_unsent_ms``. An
    envelope for two addresses counts twice. ``dropped`` messages were given up since the start, for lack of room, or
    because an answer could not be sent.
    """

    queued: int
    oldest_queued_ms: int
    unsent: int
    oldest_unsent_ms: int
    targets_failing: int
    dropped: int


class Outbox:
    """Queue of envelopes to send. A failed send is kept, retried with backoff, and reported by events."""

    def __init__(
        self,
        transport: Transport,
        targets: Callable[[], list[Address]],
        *,
        neighbours: Callable[[], list[str]],
        is_present: Callable[[str], bool],
        legacy: bool,
        datagrams_per_s: int,
        deliveries: Deliveries,
        notify: Notify,
    ) -> None:
        self._transport = transport
        self._targets = targets
        self._neighbours = neighbours
        self._is_present = is_present
        self._legacy = legacy
        self._notify = notify
        self._queue: deque[tuple[Send, int]] = deque()
        """Messages, and when they were queued, in milliseconds of trio's clock."""
        self._deliveries = deliveries
        self._wake = trio.Event()
        self._trouble: dict[Address, _Trouble] = {}
        self._broadcasts = TokenBucket(datagrams_per_s)
        self._answers = TokenBucket(datagrams_per_s)
        self.sent = SentCache()
        self.datagrams_sent = 0
        self.dropped = 0

    @property
    def unsent(self) -> int:
        """The number of envelopes that wait for a target to which a send has failed."""
        return sum(len(trouble.waiting) for trouble in self._trouble.values())

    def gauges(self) -> SendingGauges:
        """What waits at the moment."""
        now_ms = steady_ms()
        failing = [trouble.waiting for trouble in self._trouble.values()]
        since_ms = [first[1].since_ms for waiting in failing if (first := waiting.first()) is not None]
        return SendingGauges(
            queued=len(self._queue),
            oldest_queued_ms=now_ms - self._queue[0][1] if self._queue else 0,
            unsent=self.unsent,
            oldest_unsent_ms=now_ms - min(since_ms) if since_ms else 0,
            targets_failing=len(failing),
            dropped=self.dropped,
        )

    def put(self, send: Send) -> None:
        """Queue an envelope. If the queue is full, the oldest one is dropped; sync delivers it later. A relayed
        envelope is dropped once the queue is half full.
        """
        if self._legacy and send.kind not in BASELINE_KINDS:
            return
        if send.relayed and len(self._queue) >= limits.OUTBOX_MESSAGES_MAX // 2:
            self.dropped += 1
            return
        self._queue.append((send, steady_ms()))
        if len(self._queue) > limits.OUTBOX_MESSAGES_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            with trio.move_on_after(limits.SEND_RETRY_MS / 1000):
                await self._wake.wait()
            self._wake = trio.Event()
            await self.drain()
            await self._retry()

    async def drain(self) -> None:
        """Send all queued envelopes. An envelope whose sending is cancelled stays queued."""
        while self._queue:
            first = self._queue[0]
            await self._send_out(first[0])
            if self._queue and self._queue[0] is first:
                self._queue.popleft()

    async def _send_out(self, send: Send) -> None:
        """Send an envelope to all its targets. Sending it twice to the same target does no harm."""
        if send.to is not None:
            await self._send(send, address_of(send.to))
            return
        targets = list(dict.fromkeys([*self._targets(), *map(address_of, self._neighbours())]))
        failed = [target for target in targets if not await self._send(send, target)]
        if send.kind in FEED_KINDS:
            self._note_delivery(send.envelope_id, targets, failed)
            fields: dict[str, FieldValue] = {
                "envelope_id": send.envelope_id,
                "kind": send.kind,
                "bytes": len(send.data),
                "targets": len(targets) - len(failed),
            }
            self._notify("announce_sent", fields)

    def _note_delivery(self, envelope_id: str, targets: list[Address], failed: list[Address]) -> None:
        sent = [target.source for target in targets if target not in failed]
        particular = [address for address in sent if not for_everybody(address)]
        heard = sum(map(self._is_present, particular))
        trouble = self._trouble.get(failed[0]) if failed else None
        detail = "" if trouble is None else trouble.detail
        delivery = Delivery(heard, len(particular) - heard, len(particular) < len(sent), len(failed), detail)
        self._deliveries.note(envelope_id, delivery)

    async def _send(self, send: Send, target: Address) -> bool:
        trouble = self._trouble.get(target)
        keep = send.kind in FEED_KINDS and not send.relayed
        if trouble is not None and steady_ms() < trouble.next_ms:
            if keep:
                self._wait(trouble, send.envelope_id, _Unsent(send.data, steady_ms()))
            return False
        try:
            await self._transmit(send.data, target)
        except NetworkError as error:
            self._failed(target, error, send.envelope_id, _Unsent(send.data, steady_ms()) if keep else None)
            return False
        if trouble is not None:
            await self._recovered(target, trouble)
        return True

    async def _transmit(self, data: bytes, target: Address) -> None:
        if self._legacy and len(data) > limits.DATAGRAM_RECEIVE_BYTES_MAX:
            raise NetworkError(
                f"{len(data)} bytes do not fit in the one datagram that a baseline peer reads", Reason.TOO_LARGE
            )
        datagrams = [data] if self._legacy else self.sent.split(data, steady_ms())
        for datagram in datagrams:
            await _pace(self._broadcasts)
            await self._transport.send(datagram, target)
            self.datagrams_sent += 1

    async def send_raw(self, datagrams: list[bytes], to: Address) -> None:
        """Send datagrams that are answers. After a failure they are dropped, because the other side requests them
        again.

        Answers have their own rate limit, so that many requests do not delay this node's own envelopes.
        """
        for datagram in datagrams:
            await _pace(self._answers)
            try:
                await self._transport.send(datagram, to)
            except NetworkError:
                self.dropped += 1
                return
            self.datagrams_sent += 1

    def _wait(self, trouble: _Trouble, envelope_id: str, unsent: _Unsent) -> None:
        share = limits.UNSENT_BYTES_PER_TARGET_MAX // limits.UNSENT_PER_TARGET_MAX
        if envelope_id not in trouble.waiting:  # one that waits already keeps its place and its time
            self.dropped += len(trouble.waiting.put(envelope_id, unsent, max(share, len(unsent.data))))

    def _failed(self, target: Address, error: NetworkError, envelope_id: str, unsent: _Unsent | None) -> None:
        now_ms = steady_ms()
        trouble = self._trouble.get(target)
        if trouble is None:
            if len(self._trouble) >= limits.PEERS_MAX:
                self.dropped += unsent is not None
                return
            trouble = self._trouble[target] = _Trouble(now_ms, now_ms)
        trouble.failures += 1
        trouble.detail = error.message
        backoff = min(limits.SEND_RETRY_MS << min(trouble.failures - 1, 10), limits.SEND_RETRY_MS_MAX)
        trouble.next_ms = now_ms + backoff
        if unsent is not None and error.reason is not Reason.TOO_LARGE:
            self._wait(trouble, envelope_id, unsent)
        self._notify(
            "send_failed",
            {
                "address": target.source,
                "envelope_id": envelope_id,
                "reason": error.reason.value,
                "detail": error.message[: limits.EVENT_DETAIL_CHARS],
                "failures": trouble.failures,
            },
        )

    async def _recovered(self, target: Address, trouble: _Trouble) -> None:
        del self._trouble[target]
        fields: dict[str, FieldValue] = {
            "address": target.source,
            "failures": trouble.failures,
            "duration_ms": steady_ms() - trouble.since_ms,
        }
        self._notify("send_recovered", fields)
        for envelope_id, unsent in trouble.waiting.items():
            try:
                await self._transmit(unsent.data, target)
            except NetworkError as error:
                self._failed(target, error, envelope_id, unsent)

    async def _retry(self) -> None:
        now_ms = steady_ms()
        for target, trouble in list(self._trouble.items()):
            if now_ms < trouble.next_ms:
                continue
            oldest = trouble.waiting.first()
            if oldest is None:
                del self._trouble[target]
                continue
            envelope_id, unsent = oldest
            try:
                await self._transmit(unsent.data, target)
            except NetworkError as error:
                self._failed(target, error, envelope_id, unsent)
            else:
                trouble.waiting.pop(envelope_id)
                await self._recovered(target, trouble)
