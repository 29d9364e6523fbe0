"""May this node write into its own feed? Not while others may hold more of it than we do (docs/adr/0006-feed-risk.md).

Whoever lost the end of its feed and goes on writing signs a second envelope for a place it has used: a fork, and the
loss of one of the two. So after a repair, or when others show that our feed is longer than we know, nothing is written
until a peer has told how far the feed goes and we hold it up to there, or the operator says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

from crabnet import limits
from crabnet.protocol.feed import Feed, Feeds
from crabnet.protocol.sync import Head


class Cleared(NamedTuple):
    """The risk is over: ``first_seq`` to the head came from ``adopted_from`` (0 and "" if nothing was missing)."""

    confirmed_by: str
    first_seq: int
    adopted_from: str


class _Claim(NamedTuple):
    """A peer's word, not yet proved by an envelope, that our feed is longer or other than we know."""

    seq: int
    forks: bool
    until_ms: int


class FeedGuard:
    """Whether a node's own feed is known to its end. Addresses given to it have proved themselves or are configured.

    ``accepted`` is the operator's word: then nothing is ever forbidden.
    """

    def __init__(self, node_id: str, feeds: Feeds, *, accepted: bool = False) -> None:
        self.at_risk = False
        self._accepted = accepted
        self._node_id = node_id
        self._feeds = feeds
        self._claim: _Claim | None = None
        self._claims_after_ms = 0
        self._confirmed_by = ""
        self._confirmed_ms = 0
        self._adopted_first = 0
        self._adopted_from = ""

    def blocks(self, now_ms: int) -> bool:
        """True while nothing may be written into the feed."""
        return not self._accepted and (self.at_risk or self._claimed(now_ms))

    def _claimed(self, now_ms: int) -> bool:
        claim = self._claim
        if claim is None:
            return False
        return now_ms < claim.until_ms and (claim.forks or self._feed.head_seq < claim.seq)

    @property
    def _feed(self) -> Feed:
        return self._feeds.get(self._node_id)

    def told(self, head: Head, source: str, now_ms: int) -> bool:
        """A peer says how far it holds our feed. True if that is news that forbids writing.

        A claim is not proof: it forbids writing for a bounded time only, and then not again for a while, or any
        stranger could silence us. An envelope of ours that we lack is proof.
        """
        if self._accepted:
            return False
        feed = self._feed
        held = self._feeds.id_at(self._node_id, head.seq)
        if held is not None and held == head.id:
            if self.at_risk and not self._confirmed_by:
                self._confirmed_by, self._confirmed_ms = source, now_ms
            return False
        if (head.seq <= feed.head_seq and held is None) or now_ms < self._claims_after_ms:
            return False
        until_ms = now_ms + limits.FEED_CLAIM_WAIT_MS
        self._claim = _Claim(head.seq, held is not None, until_ms)
        self._claims_after_ms = until_ms + limits.FEED_CLAIM_PAUSE_MS
        return not self.at_risk

    def proved(self, seq: int, source: str, now_ms: int, *, adopted: bool) -> bool:
        """An envelope of ours that we lacked came back. True if nothing was known of a risk before."""
        if self._accepted:
            return False
        news = not self.at_risk
        self.at_risk = True
        self._confirmed_by = ""
        if adopted:
            self._adopted_first = min(self._adopted_first or seq, seq)
            self._adopted_from = source
        if self._claim is not None:
            self._claim = self._claim._replace(until_ms=now_ms + limits.FEED_CLAIM_WAIT_MS)
        return news

    def tick(self, now_ms: int) -> Cleared | None:
        """Says so when the risk is over: a peer has confirmed our head, and nobody has claimed more for a while."""
        if not self.at_risk or not self._confirmed_by or self._claimed(now_ms):
            return None
        if now_ms < self._confirmed_ms + limits.FEED_QUIET_MS:
            return None
        cleared = Cleared(self._confirmed_by, self._adopted_first, self._adopted_from)
        self.at_risk = False
        self._claim = None
        self._confirmed_by = self._adopted_from = ""
        self._adopted_first = 0
        return cleared
