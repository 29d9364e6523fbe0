"""Why workers do not bid: what this node says about seeds of others, and what others say about its own (ADR 44).

Anybody can invent workers. So what others say is bounded, and it is shown as what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.domain.model import FINAL, SeedStatus
from crabnet.domain.record import Record
from crabnet.errors import Reason
from crabnet.market.heard import HeardDecline
from crabnet.market.policies import Declined
from crabnet.protocol.sync import DECLINES, BidDeclined

_EXPLAINED: Final = FINAL - {SeedStatus.EXPIRED}
"""The final statuses in which nobody asks any more why there were no bids."""


class _Key(NamedTuple):
    seed_id: str
    reason: str


class _Waiting(NamedTuple):
    said: BidDeclined
    due_ms: int


class _OfSeed:
    """What workers say about one seed."""

    def __init__(self) -> None:
        self.by_author: BoundedTable[str, HeardDecline] = BoundedTable(limits.DECLINES_PER_SEED_MAX)


class Declines:
    """Declines to state and declines heard. ``entropy`` returns random integers up to 2^53-1."""

    def __init__(self, entropy: Callable[[], int]) -> None:
        self._entropy = entropy
        self._waiting: BoundedTable[str, _Waiting] = BoundedTable(limits.DECLINES_WAITING_MAX)
        self._told: BoundedTable[_Key, None] = BoundedTable(limits.DECLINES_TOLD_MAX)
        self._heard: BoundedTable[str, _OfSeed] = BoundedTable(limits.DECLINES_HEARD_MAX)
        self._rates: BoundedTable[str, TokenBucket] = BoundedTable(limits.DECLINE_AUTHORS_MAX)
        self._own_rate = TokenBucket(limits.DECLINES_PER_S, limits.DECLINES_BURST)
        self._passed_on = TokenBucket(limits.DECLINES_PASSED_ON_PER_S)

    # --- about seeds of others -------------------------------------------------------------------------

    def decline(self, seed_id: str, declined: Declined, nodes: int, now_ms: int) -> None:
        """State soon that this node does not bid, once for each seed and reason. ``nodes`` are known to this node.

        A random pause that grows with their number keeps a network of workers from answering all at once.
        """
        if declined.reason not in DECLINES or _Key(seed_id, declined.reason) in self._told:
            return
        price = declined.price if declined.reason is Reason.PRICE else None
        wait_ms = min(limits.DECLINE_WAIT_MS + nodes * limits.DECLINE_WAIT_PER_NODE_MS, limits.DECLINE_WAIT_MS_MAX)
        waiting = self._waiting.get(seed_id)
        due_ms = now_ms + self._entropy() % wait_ms if waiting is None else waiting.due_ms
        self._waiting.put(seed_id, _Waiting(BidDeclined(seed_id, declined.reason.value, price), due_ms))

    @property
    def waits(self) -> bool:
        """True if a decline waits for its time."""
        return len(self._waiting) > 0

    def due(self, now_ms: int) -> list[BidDeclined]:
        """The declines whose time has come, as many as the rate allows."""
        due = []
        for seed_id, waiting in list(self._waiting.items()):
            if waiting.due_ms > now_ms:
                continue
            if not self._own_rate.take(now_ms):
                break
            self._waiting.pop(seed_id)
            self._told.put(_Key(seed_id, waiting.said.reason), None)
            due.append(waiting.said)
        return due

    def may_pass_on(self, author: str, now_ms: int) -> bool:
        """Charge a decline that is to be passed on. False if its author, or all together, had too many of them."""
        return self._pays(author, now_ms) and self._passed_on.take(now_ms)

    # --- about own seeds -------------------------------------------------------------------------------

    def hear(self, seed_id: str, heard: HeardDecline) -> bool:
        """Remember what a worker says about an own seed. False if it says too much, or has said this before."""
        said = self._heard.get(seed_id)
        before = None if said is None else said.by_author.get(heard.author)
        if not self._pays(heard.author, heard.at_ms) or (before is not None and before.says(heard)):
            return False
        if said is None:
            said = _OfSeed()
        said.by_author.put(heard.author, heard)
        self._heard.put(seed_id, said, len(said.by_author))
        return True

    def of(self, seed_id: str, record: Record) -> tuple[HeardDecline, ...]:
        """What workers say about an own seed. Who has bid for it declines no more."""
        said = self._heard.get(seed_id)
        if said is None:
            return ()
        bidders = {bid.author for bid in record.bids}
        return tuple(each for each in said.by_author.values() if each.author not in bidders)

    def watch(self, seed_id: str, record: Record) -> None:
        """A seed has changed. What was said of one that is over is forgotten; it explains one that has expired."""
        if record.progress.status in _EXPLAINED:
            self._heard.pop(seed_id)

    def _pays(self, author: str, now_ms: int) -> bool:
        rate = self._rates.get(author) or TokenBucket(limits.DECLINES_PER_S, limits.DECLINES_BURST)
        self._rates.put(author, rate)
        return rate.take(now_ms)
