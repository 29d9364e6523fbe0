"""How many control messages of gossipsub a peer may send, and whether it keeps its promises. Pure.

The rules are those of gossipsub 1.1 ("Spam Protection Measures"). The library has a few of them. Without the others a
peer can make it use more memory than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket

Peer = TypeVar("Peer", bound=Hashable)


class ControlBudget:
    """What one peer may still send. Times are steady, in milliseconds."""

    def __init__(self) -> None:
        self.controls = TokenBucket(limits.GOSSIP_CONTROLS_PER_S)
        self.subscriptions = TokenBucket(limits.GOSSIP_SUBSCRIPTION_CHANGES_PER_S)
        self._ids = TokenBucket(limits.GOSSIP_IDS_PER_S)
        self._served: BoundedTable[bytes, int] = BoundedTable(limits.GOSSIP_SERVED_IDS_MAX)

    def looked_at(self, ids: Iterable[bytes], now_ms: int) -> list[bytes]:
        """Those of these message ids for which there is room, without repetitions."""
        found: list[bytes] = []
        room = int(self._ids.room(now_ms))
        for each in ids:
            if not room:
                break
            room -= 1
            if len(each) <= limits.TOPIC_CHARS_MAX:
                found.append(each)
        self._ids.take(now_ms, len(found))
        return list(dict.fromkeys(found))

    def serve(self, message_id: bytes) -> bool:
        """True if this peer may get this message once more."""
        times = self._served.get(message_id) or 0
        if times >= limits.GOSSIP_SERVED_MAX:
            return False
        self._served.put(message_id, times + 1)
        return True


class ControlBudgets(Generic[Peer]):
    """The budgets of all peers, and the messages that they have promised."""

    def __init__(self) -> None:
        self._budgets: BoundedTable[Peer, ControlBudget] = BoundedTable(limits.GOSSIP_PEERS_RATED_MAX)
        self._promises: BoundedTable[bytes, tuple[Peer, int]] = BoundedTable(limits.GOSSIP_PROMISES_MAX)
        """Who has offered a message, and until when (ms) it is to come."""

    def of(self, peer: Peer) -> ControlBudget:
        """The budget of one peer. It stays when the peer is away, so that it gains nothing by coming again."""
        budget = self._budgets.get(peer) or ControlBudget()
        self._budgets.put(peer, budget)
        return budget

    def promise(self, peer: Peer, message_id: bytes, now_ms: int) -> None:
        """A peer was asked for a message that it has offered."""
        self._promises.offer(message_id, (peer, now_ms + limits.GOSSIP_PROMISE_S * 1000))

    def arrived(self, message_id: bytes) -> None:
        """A message has come, from whomever."""
        self._promises.pop(message_id)

    def broken(self, now_ms: int) -> Counter[Peer]:
        """How many messages have not come in time since the last call, by the peers that had offered them."""
        late = [(key, peer) for key, (peer, until_ms) in self._promises.items() if until_ms <= now_ms]
        for key, _ in late:
            self._promises.pop(key)
        return Counter(peer for _, peer in late)


class Seen:
    """Message ids that have come, for a while. The library's has no bound, and a thread."""

    def __init__(self, ttl_s: int, capacity: int, clock_ms: Callable[[], int]) -> None:
        self._ttl_ms = ttl_s * 1000
        self._clock_ms = clock_ms
        self._until_ms: BoundedTable[bytes, int] = BoundedTable(capacity)

    def has(self, message_id: bytes) -> bool:
        """True if this id has come lately."""
        until_ms = self._until_ms.get(message_id)
        return until_ms is not None and self._clock_ms() < until_ms

    def add(self, message_id: bytes) -> bool:
        """Note an id. False if it was there already."""
        if self.has(message_id):
            return False
        self._until_ms.put(message_id, self._clock_ms() + self._ttl_ms)
        return True
