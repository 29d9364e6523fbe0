"""Sends over libp2p: envelopes to topics, and to the peers whom they concern; stored messages to single peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import trio

from crabnet import limits
from crabnet.buckets import TokenBucket
from crabnet.core.effects import FieldValue, Send
from crabnet.errors import Reason
from crabnet.node.network.deliveries import Deliveries, Delivery
from crabnet.node.network.outbox import steady_ms
from crabnet.protocol.envelope import BASELINE_KINDS, FEED_KINDS
from crabnet.protocol.topics import BASELINE_TOPIC, channel_in, channel_of
from crabnet.source import GOSSIP, bare
from crabnet.transport.base import Topics
from crabnet.transport.dht import DhtTransport
from crabnet.transport.p2p_wire import BATCH_BYTES, Path

Notify = Callable[[str, dict[str, FieldValue]], None]


def ways_of(send: Send, connected: Collection[str]) -> list[tuple[str, Path]]:
    """The peers to which an envelope or message goes, and how; for ``Path.GOSSIP`` the peer is "".

    Envelopes of feeds are published. Whom they concern gets them by a stream too, if it is ``connected``. Messages
    between neighbours go by streams only, and so do large envelopes: gossip brings each node several
    copies, and not all implementations take messages of more than 64 KiB.
    """
    if send.to is not None and send.to != GOSSIP:
        return [(bare(send.to), Path.SYNC)]
    if send.to is None and send.kind not in FEED_KINDS:
        return [(peer, Path.SYNC) for peer in connected]
    if len(send.data) > limits.GOSSIP_LARGE_BYTES:
        return [(peer, Path.DIRECT if peer in send.concerns else Path.SYNC) for peer in connected]
    return [("", Path.GOSSIP), *((peer, Path.DIRECT) for peer in send.concerns if peer in connected)]


class _Line:
    """What goes to one peer by streams, in order, and how much of it the peer has not taken yet."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Path, list[bytes]]] = deque()
        self.bytes = 0
        self.is_busy = False
        self._last_bytes = 0
        """Those of the last batch that waits."""

    def add(self, path: Path, message: bytes) -> None:
        """Let a message wait, in the last batch if there is room."""
        if not self.waiting or self.waiting[-1][0] is not path or self._last_bytes >= BATCH_BYTES:
            self.waiting.append((path, []))
            self._last_bytes = 0
        self.waiting[-1][1].append(message)
        self._last_bytes += len(message)
        self.bytes += len(message)


class DhtOutbox:
    """Queues of what is to be sent. Without the process, or without a peer, envelopes are left to sync."""

    def __init__(
        self,
        topics: Sequence[str],
        per_s: int,
        deliveries: Deliveries,
        notify: Notify,
        fall_back: Callable[[Send], None] | None,
    ) -> None:
        """``topics`` are those to publish to, at most ``per_s`` messages a second; 0 means no limit."""
        self._topics = topics
        self._rate = TokenBucket(per_s)
        self._deliveries = deliveries
        self._notify = notify
        self._fall_back = fall_back
        self._queue: deque[Send] = deque()
        self._lines: dict[str, _Line] = {}
        self._transport: DhtTransport | None = None
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self.published = 0
        self.unpublished = 0
        self.sent = 0
        self.dropped = 0

    @property
    def queued(self) -> int:
        """The number of envelopes that wait to be published."""
        return len(self._queue)

    # --- peers -----------------------------------------------------------------------------------------

    def joined(self, peer: str) -> None:
        """A peer is connected."""
        self._lines.setdefault(peer, _Line())
        self._wake.set()

    def left(self, peer: str) -> bool:
        """A peer is gone. False if it was not known."""
        return self._lines.pop(peer, None) is not None

    def peers(self) -> list[str]:
        """The connected peers."""
        return list(self._lines)

    @property
    def _line_bytes_max(self) -> int:
        return min(limits.P2P_LINE_BYTES_MAX, limits.P2P_LINES_BYTES_MAX // max(1, len(self._lines)))

    # --- what is to be sent ----------------------------------------------------------------------------

    def put(self, send: Send) -> None:
        """Queue an envelope or a message."""
        ways = ways_of(send, self._lines)
        is_for_all = send.to == GOSSIP or (send.to is None and send.kind in FEED_KINDS)
        if is_for_all and not self._topics_for(send):
            ways = []  # what is not to be published is left to sync
        if is_for_all and send.kind in FEED_KINDS and ("", Path.GOSSIP) not in ways and not send.relayed:
            self._deliveries.note(send.envelope_id, Delivery(len(ways)))
        for peer, path in ways:
            if path is Path.GOSSIP:
                self._put_topic(send)
            else:
                self._put_stream(peer, path, [send.data])

    def _put_topic(self, send: Send) -> None:
        if send.relayed and len(self._queue) >= limits.OUTBOX_MESSAGES_MAX // 2:
            self.dropped += 1
            return
        self._queue.append(send)
        if len(self._queue) > limits.OUTBOX_MESSAGES_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._wake.set()

    def _put_stream(self, peer: str, path: Path, messages: list[bytes]) -> int:
        """Queue messages for a peer. Returns how many of them had room."""
        line = self._lines.get(peer)
        if line is None:
            self.dropped += len(messages)
            return 0
        taken, bytes_max = 0, self._line_bytes_max
        for message in messages:
            if line.bytes + len(message) > bytes_max:
                break
            line.add(path, message)
            taken += 1
        if taken and not line.is_busy and self._nursery is not None:
            line.is_busy = True
            self._nursery.start_soon(self._empty, peer, line)
        self.dropped += len(messages) - taken
        return taken

    def has_room(self, to: str) -> bool:
        """See ``Carrier``."""
        line = self._lines.get(bare(to))
        return line is None or line.bytes < self._line_bytes_max // 2

    async def deliver(self, messages: list[bytes], to: str) -> int:
        """See ``Carrier``. The peer's stream holds back what it cannot take."""
        await trio.lowlevel.checkpoint()
        return self._put_stream(bare(to), Path.SYNC, messages)

    def block(self, peer: str, duration_ms: int) -> None:
        """Have a peer refused for a while."""
        if self._transport is not None and self._nursery is not None:
            self._nursery.start_soon(self._block, self._transport, peer, duration_ms)

    async def _block(self, transport: DhtTransport, peer: str, duration_ms: int) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await transport.block(peer, duration_ms)

    # --- sending ---------------------------------------------------------------------------------------

    def begin(self, transport: DhtTransport) -> None:
        """A life of the process begins."""
        self._transport = transport
        self._wake.set()

    def end(self) -> None:
        """The process is gone."""
        if self._transport is not None:
            self._transport.end()
        self._transport = None
        self._lines.clear()

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    await self._pace()
                    await self._publish(self._queue.popleft())

    async def _pace(self) -> None:
        if wait_ms := self._rate.wait_ms(steady_ms()):
            await trio.sleep(wait_ms / 1000)
        self._rate.take(steady_ms())

    async def _publish(self, send: Send) -> None:
        """Publish one envelope. What no peer could be given is left to sync, and to the fallback if there is one."""
        topics = self._topics_for(send)
        transport: Topics | None = self._transport
        reason, peers = Reason.UNAVAILABLE.value, 0
        if transport is not None:
            try:
                answer = await transport.publish(send.data, topics)
                reason, peers = answer.reason, answer.peers
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                reason = Reason.UNAVAILABLE.value
        if send.kind in FEED_KINDS and not send.relayed:
            self._deliveries.note(send.envelope_id, Delivery(peers))
        if peers:
            self.published += 1
            return
        if send.kind not in FEED_KINDS:
            return  # it is said again, and sync does not bring it
        self.unpublished += 1
        fields: dict[str, FieldValue] = {
            "envelope_id": send.envelope_id,
            "kind": send.kind,
            "reason": reason or Reason.NO_PEERS.value,
            "outcome": "sync" if self._fall_back is None else "udp",
        }
        self._notify("gossip_unpublished", fields)
        if self._fall_back is not None:
            self._fall_back(send)

    def _topics_for(self, send: Send) -> list[str]:
        channel = channel_of(send.kind)
        return [
            topic
            for topic in self._topics
            if channel_in(topic) == channel or (topic == BASELINE_TOPIC and send.kind in BASELINE_KINDS)
        ]

    async def _empty(self, peer: str, line: _Line) -> None:
        """Send what waits for one peer, a batch at a time."""
        while line.waiting and self._lines.get(peer) is line:
            transport = self._transport
            path, messages = line.waiting.popleft()
            reason: str = Reason.UNAVAILABLE
            if transport is not None:
                try:
                    reason = (await transport.send(messages, peer, path)).reason
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    reason = Reason.UNAVAILABLE
            line.bytes -= sum(map(len, messages))
            if reason:
                self.dropped += len(messages)
            else:
                self.sent += len(messages)
        line.is_busy = False
