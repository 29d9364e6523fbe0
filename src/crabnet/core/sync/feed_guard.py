"""Decides whether this node may write into its own feed. It may not while peers may hold more of the feed than it does.

See docs/adr/0006-feed-risk.md. A node that lost the end of its feed and goes on writing signs a second envelope for a
place: a fork, which ends the feed. So the node writes nothing after a repair, or when peers show that its feed is
longer than it knows. It writes again when a peer has said how far the feed goes and the node holds it up to there, or
when the operator permits it. A restored data dir may look like any other. So a node with peers asks them at each start
and waits a while for the first answer.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.protocol.feed import Feed, Feeds
from crabnet.protocol.sync import Head
from crabnet.source import group_of


class Cleared(NamedTuple):
    """The risk is over. The entries from ``first_seq`` to the head came from ``adopted_from``.

    They are 0 and "" if nothing was missing.
    """

    confirmed_by: str
    first_seq: int
    adopted_from: str


class FeedWait(NamedTuple):
    """How long to wait for a peer's answer at the start, and whether to write if none has arrived by then."""

    wait_ms: int
    then_writes: bool


class _Wait(Struct):
    until_ms: int
    then_writes: bool
    told: bool = False
    """True once the node has reported that no answer arrived."""


class _Word(Struct):
    """A peer's claim, not yet proved by an envelope, that this node's feed is longer than, or differs from, its own."""

    source: str
    seq: int
    forks: bool
    until_ms: int
    backed: bool = False
    """True if an envelope of this node that it did not hold has arrived since."""


class _Liar(NamedTuple):
    times: int
    until_ms: int


class FeedGuard:
    """Knows whether a node holds its own feed to the end. Sources given to it must be proven or configured.

    ``accepted``: the operator accepts the risk, so the guard never forbids writing.
    """

    def __init__(self, node_id: str, feeds: Feeds, *, accepted: bool = False) -> None:
        self.at_risk = False
        self.why = ""
        """The reason for the doubt that the node holds its feed to the end."""
        self.floor_seq = 0
        """The feed certainly reached this place. The risk lasts at least until the node holds it up to there."""
        self.patience_until_ms = 0
        """Until when operations wait for the answer of a peer."""
        self._wait: _Wait | None = None
        self._accepted = accepted
        self._node_id = node_id
        self._feeds = feeds
        self._word: _Word | None = None
        self._deaf_until_ms = 0
        self._liars: BoundedTable[str, _Liar] = BoundedTable(limits.FEED_LIARS_MAX)
        self._confirmed_by = ""
        self._confirmed_ms = 0
        self._adopted_first = 0
        self._adopted_from = ""

    def blocks(self, now_ms: int) -> bool:
        """True while the node may not write into its feed."""
        self._settle(now_ms)
        if self._accepted:
            return False
        if self.at_risk or self._word is not None:
            return True
        wait = self._wait
        return wait is not None and (now_ms < wait.until_ms or not wait.then_writes)

    def endanger(self, why: str, floor_seq: int = 0) -> None:
        """Put the feed at risk: it may be longer than this node knows. It certainly reached ``floor_seq``."""
        self.at_risk = True
        self.why, self.floor_seq = why, floor_seq

    @property
    def doubt(self) -> str:
        """A description of why the node may not write."""
        if self.why:
            return self.why
        if self._word is not None:
            return f"{self._word.source} says that it holds envelope {self._word.seq} of this node"
        return "no peer has said how far the feed of this node goes (see the setting feed_unanswered)"

    def wait_for_word(self, now_ms: int, wait: FeedWait) -> None:
        """Forbid writing until a peer has said how far the feed goes, or the wait is over."""
        self.patience_until_ms = now_ms + wait.wait_ms
        if not self._accepted:
            self._wait = _Wait(self.patience_until_ms, wait.then_writes)

    @property
    def waits(self) -> bool:
        """True until a peer has answered, or the node writes without an answer."""
        return self._wait is not None

    def wait_left_ms(self, now_ms: int) -> int:
        """For how many milliseconds an answer may still allow the node to write."""
        if self._wait is None or self._accepted or self.at_risk or self._word is not None:
            return 0
        return max(0, self._wait.until_ms - now_ms)

    def waited_in_vain(self, now_ms: int) -> bool:
        """True once, when the wait is over without an answer. A node that may not write then goes on asking."""
        wait = self._wait
        if wait is None or now_ms < wait.until_ms or wait.told:
            return False
        wait.told = True
        if wait.then_writes:
            self._wait = None
        return True

    def inherit(self, other: FeedGuard) -> None:
        """Copy the state that this guard cannot learn anew from a guard that failed."""
        self.at_risk, self.why, self.floor_seq = other.at_risk, other.why, other.floor_seq
        self._wait, self.patience_until_ms = other._wait, other.patience_until_ms

    @property
    def _feed(self) -> Feed:
        return self._feeds.get(self._node_id)

    def told(self, head: Head, source: str, now_ms: int) -> bool:
        """Handle a peer's claim about how far it holds this node's feed.

        Returns True if the claim newly forbids writing. The caller must then ask the peer for the envelopes. A claim is
        not proof, so it forbids writing only for a bounded time. If no envelope proves it, the guard ignores all claims
        for a while, and those of this source for longer. Otherwise strangers could keep the node from writing. An
        envelope of this node that it lacks is proof, whichever peer sends it.
        """
        if self._accepted:
            return False
        self._settle(now_ms)
        feed = self._feed
        if not head.seq:
            self._wait = None
            return False
        held = self._feeds.id_at(self._node_id, head.seq)
        if held is not None and held == head.id:
            self._wait = None
            if self.at_risk and not self._confirmed_by:
                self._confirmed_by, self._confirmed_ms = source, now_ms
            return False
        if (head.seq <= feed.head_seq and held is None) or self._word is not None or now_ms < self._deaf_until_ms:
            return False
        liar = self._liars.get(group_of(source))
        if liar is not None and now_ms < liar.until_ms:
            return False
        self._word = _Word(source, head.seq, held is not None, now_ms + limits.FEED_CLAIM_WAIT_MS)
        return not self.at_risk

    def proved(self, seq: int, source: str, now_ms: int, *, adopted: bool) -> bool:
        """Record that a missing envelope of this node arrived. True if the feed was not at risk before."""
        if self._accepted:
            return False
        news = not self.at_risk
        if news:
            self.endanger(f"{source} holds envelope {seq} of this node, which this data dir lacked")
        self._wait = None
        self._confirmed_by = ""
        self._liars.pop(group_of(source))
        if adopted:
            self._adopted_first = min(self._adopted_first or seq, seq)
            self._adopted_from = source
        if self._word is not None:
            self._word.backed = True
            self._word.until_ms = now_ms + limits.FEED_CLAIM_WAIT_MS
        return news

    def _settle(self, now_ms: int) -> None:
        """End the claim that forbids writing, if it came true or timed out."""
        word = self._word
        if word is None:
            return
        came_true = not word.forks and self._feed.head_seq >= word.seq
        if not came_true and now_ms < word.until_ms:
            return
        self._word = None
        if came_true:
            return
        self._deaf_until_ms = word.until_ms + limits.FEED_CLAIM_PAUSE_MS
        if not word.backed:
            self._disbelieve(group_of(word.source), word.until_ms)

    def _disbelieve(self, group: str, now_ms: int) -> None:
        liar = self._liars.get(group)
        times = 0 if liar is None else liar.times
        pause_ms = limits.FEED_LIAR_MS << min(times, limits.FEED_LIAR_DOUBLINGS_MAX)
        self._liars.put(group, _Liar(times + 1, now_ms + pause_ms))

    def tick(self, now_ms: int) -> Cleared | None:
        """Return ``Cleared`` when the risk is over: a peer confirmed the head, and no peer claimed more for a while."""
        self._settle(now_ms)
        if not self.at_risk or not self._confirmed_by or self._word is not None or self._feed.head_seq < self.floor_seq:
            return None
        if now_ms < self._confirmed_ms + limits.FEED_QUIET_MS:
            return None
        cleared = Cleared(self._confirmed_by, self._adopted_first, self._adopted_from)
        self.at_risk = False
        self.floor_seq = 0
        self.why = self._confirmed_by = self._adopted_from = ""
        self._adopted_first = 0
        return cleared
