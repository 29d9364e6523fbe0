"""The announcements of a node's holdings: which heads, to which neighbours, and the answers about buckets."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.protocol.digests import DigestTree
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Bucket, Head, Heads


class Announcer:
    """Takes turns over the neighbours, and over the feeds for peers that know no digests."""

    def __init__(self, feeds: Feeds, own: str) -> None:
        self._feeds = feeds
        self._own = own
        self._announced: dict[str, None] = {}
        self._recent: BoundedTable[str, None] = BoundedTable(limits.SYNC_RECENT_HEADS_MAX)
        self._turns: dict[str, int] = {}
        self._turn = 0

    def changed(self, author: str) -> None:
        """Record that a feed has a new head to announce."""
        self._announced.pop(author, None)
        self._recent.put(author, None)

    def choose(self, known: list[str], count: int, entropy: Callable[[], int]) -> list[str]:
        """The neighbours to announce to: those with the oldest announcement, in random order among equals."""
        self._turn += 1
        drawn = {address: (self._turns.get(address, 0), entropy()) for address in known}
        chosen = heapq.nsmallest(count, known, key=drawn.__getitem__)
        self._turns = {address: self._turns.get(address, 0) for address in known}
        self._turns.update(dict.fromkeys(chosen, self._turn))
        return chosen

    def recent(self) -> list[Head]:
        """A few of the heads that have changed since the last call."""
        authors = list(self._recent)
        self._recent.clear()
        return self._heads(authors)

    def heads(self, heads_max: int) -> list[Head]:
        """The next part of the version vector: this node's own head, then the heads announced longest ago."""
        authors = [author for author in self._feeds.authors() if author not in self._announced and author != self._own]
        authors += [author for author in self._announced if author != self._own]
        chosen = [self._own, *authors[: heads_max - 1]]
        for author in chosen:
            if self._feeds.get(author).head_seq:
                self._announced.pop(author, None)
                self._announced[author] = None
        return self._heads(chosen)

    def _heads(self, authors: list[str]) -> list[Head]:
        feeds = [self._feeds.get(author) for author in authors]
        return [Head(feed.author, feed.head_seq, feed.head_id, feed.end) for feed in feeds if feed.head_seq or feed.end]

    def buckets(self, tree: DigestTree, prefixes: list[str]) -> Iterator[Heads]:
        """The answers about buckets, in messages of bounded size."""
        buckets: list[Bucket] = []
        heads: list[Head] = []
        for prefix in dict.fromkeys(prefixes):
            bucket = tree.bucket(prefix)
            held = [] if bucket.digests else tree.heads(prefix)[: limits.SYNC_HEADS_PER_MESSAGE_MAX]
            if len(heads) + len(held) > limits.SYNC_HEADS_PER_MESSAGE_MAX:
                yield Heads(heads, buckets=buckets)
                buckets, heads = [], []
            buckets.append(bucket)
            heads += held
        if buckets:
            yield Heads(heads, buckets=buckets)
