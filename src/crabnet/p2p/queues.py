"""The messages of gossip that are kept: those that peers may ask for, and those that wait for one peer."""

from __future__ import annotations

import hashlib

from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from crabnet import limits


def message_id(message: rpc_pb2.Message) -> bytes:
    """SHA-256 of the data, so that one envelope is one message, whoever publishes it."""
    return hashlib.sha256(message.data).digest()


class Cache(MessageCache):
    """The recent messages, by ``message_id`` and bounded in bytes."""

    def __init__(self) -> None:
        super().__init__(window_size=3, history_size=5)
        self._bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keep a message for some heartbeats, if there is room."""
        mid = message_id(msg)
        size = len(msg.data)
        if mid in self.msgs or self._bytes + size > limits.GOSSIP_CACHE_BYTES_MAX:
            return
        self._bytes += size
        self.msgs[mid] = msg
        self.history[0].append(CacheEntry(mid, msg.topicIDs))

    def shift(self) -> None:
        """Forget the oldest messages."""
        for entry in self.history[-1]:
            message = self.msgs.get(entry.mid)
            if message is not None:
                self._bytes -= len(message.data)
        super().shift()


class Outgoing(RpcQueue):
    """What waits for one peer, bounded in messages and bytes."""

    def __init__(self) -> None:
        super().__init__(max_size=limits.GOSSIP_QUEUE_MESSAGES_MAX)
        self._waiting_bytes = 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """Queue one RPC. False if there is no room."""
        size = rpc.ByteSize()
        if self._waiting_bytes + size > limits.GOSSIP_QUEUE_BYTES_MAX or not super().push(rpc, priority):
            return False
        self._waiting_bytes += size
        return True

    async def pop(self) -> rpc_pb2.RPC | None:
        """The next RPC. None once the queue is closed."""
        return self._left(await super().pop())

    async def pop_some(self) -> list[rpc_pb2.RPC]:
        """The next RPCs, as many as one write should hold. None at all once the queue is closed."""
        found: list[rpc_pb2.RPC] = []
        room = limits.GOSSIP_WRITE_BYTES
        rpc = await self.pop()
        while rpc is not None:
            found.append(rpc)
            room -= rpc.ByteSize()
            rpc = self._left(self._queue.pop()) if room > 0 else None
        return found

    def _left(self, rpc: rpc_pb2.RPC | None) -> rpc_pb2.RPC | None:
        if rpc is not None:
            self._waiting_bytes -= rpc.ByteSize()
        return rpc
