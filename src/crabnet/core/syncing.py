"""Healing: which parts of feeds are missing, whom to ask for them, and when to ask again."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from crabnet import limits
from crabnet.core.parking import Parking
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Want

_STEP_BACK: int = 8


class _Missing(Struct):
    """The feed is known to reach ``upto``; ``sources`` said so."""

    upto: int
    sources: list[str]
    since_ms: int
    next_ms: int
    from_seq: int = 0
    to_seq: int = 0
    attempts: int = 0
    head_then: int = 0


class SyncPlanner:
    """What this node lacks of others' feeds. Reads feeds and parking place, changes neither."""

    def __init__(self, feeds: Feeds, parking: Parking) -> None:
        self._feeds = feeds
        self._parking = parking
        self._missing: OrderedDict[str, _Missing] = OrderedDict()
        self._announced: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._missing)

    def note(self, author: str, upto: int, source: str, now_ms: int) -> bool:
        """``source`` has the author's feed up to ``upto``, and we lack some of it. True if that is news."""
        missing = self._missing.get(author)
        if missing is None:
            if len(self._missing) >= limits.SYNC_MISSING_FEEDS_MAX:
                return False
            self._missing[author] = _Missing(upto, [source], now_ms, now_ms, head_then=self._feeds.get(author).head_seq)
            return True
        missing.upto = max(missing.upto, upto)
        if source in missing.sources:
            missing.sources.remove(source)
        missing.sources.insert(0, source)
        del missing.sources[limits.SYNC_SOURCES_PER_FEED_MAX :]
        return False

    def hear(self, head: Head, source: str, now_ms: int) -> bool:
        """Compare a neighbour's head with ours; True if something new is found missing."""
        feed = self._feeds.get(head.author)
        if head.seq <= feed.head_seq:
            held = feed.entry(head.seq)
            if held is None or held.id <= head.id:
                return False
        return self.note(head.author, head.seq, source, now_ms)

    def wanted(self, author: str, seq: int) -> bool:
        """True if this envelope was asked for."""
        missing = self._missing.get(author)
        return missing is not None and missing.from_seq <= seq <= missing.to_seq

    def progressed(self, author: str, now_ms: int) -> tuple[int, int, int] | None:
        """The feed moved. (first seq, last seq, ms) of a gap that is now closed; a longer one is asked on at once."""
        missing = self._missing.get(author)
        if missing is None:
            return None
        head = self._feeds.get(author).head_seq
        if head >= missing.upto:
            del self._missing[author]
            return missing.head_then + 1, head, now_ms - missing.since_ms
        if head >= missing.to_seq:
            missing.attempts = 0
            missing.next_ms = now_ms
        return None

    def requests(self, now_ms: int) -> list[tuple[str, list[Want]]]:
        """(source, wants) due now."""
        by_source: dict[str, list[Want]] = {}
        for author in list(self._missing):
            missing = self._missing[author]
            if now_ms < missing.next_ms:
                continue
            if now_ms - missing.since_ms > limits.SYNC_MISSING_TTL_MS and missing.attempts > 0:
                del self._missing[author]
                continue
            source = missing.sources[missing.attempts % len(missing.sources)]
            wants = by_source.setdefault(source, [])
            if len(wants) >= limits.SYNC_WANTS_PER_MESSAGE_MAX:
                continue
            missing.from_seq, missing.to_seq = self._range(author, missing.upto)
            wants.append(Want(author, missing.from_seq, missing.to_seq))
            missing.next_ms = now_ms + min(
                limits.SYNC_REQUEST_RETRY_MS << missing.attempts, limits.SYNC_REQUEST_RETRY_MS_MAX
            )
            missing.attempts += 1
        return [(source, wants) for source, wants in by_source.items() if wants]

    def _range(self, author: str, upto: int) -> tuple[int, int]:
        head = self._feeds.get(author).head_seq
        waiting = self._parking.lowest_seq(author, head)
        if upto <= head or waiting == head + 1:
            return max(1, min(upto, head) - _STEP_BACK + 1), max(1, min(upto, head + 1))
        last = upto if waiting is None else min(upto, waiting - 1)
        return head + 1, min(last, head + limits.SYNC_WANT_ENTRIES_MAX)

    def changed(self, author: str) -> None:
        """A feed has a new head that neighbours should hear of."""
        self._announced.pop(author, None)

    def heads(self, own: str, heads_max: int) -> list[Head]:
        """The next part of the version vector to announce: our own head, then those announced longest ago."""
        authors = [author for author in self._feeds.authors() if author not in self._announced and author != own]
        authors += [author for author in self._announced if author != own]
        chosen = [own, *authors[: heads_max - 1]]
        heads = []
        for author in chosen:
            feed = self._feeds.get(author)
            if feed.head_seq:
                self._announced[author] = None
                self._announced.move_to_end(author)
                heads.append(Head(author, feed.head_seq, feed.head_id))
        return heads
