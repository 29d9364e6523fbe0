"""Healing: which parts of feeds are missing, whom to ask for them, and when to ask again.

What is missing lies ahead of the head, or, when a feed has been forked, behind it: then the entries before the first
one that does not link are asked for, further and further back, until the envelope at the place of the fork comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from crabnet import limits
from crabnet.core.parking import Parking
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Want

_NO_RANGE = (1, 0)


def _any_room(_author: str, _now_ms: int) -> int:
    return limits.SYNC_WANT_ENTRIES_MAX


class _Missing(Struct):
    """The feed is known to reach ``upto``; ``sources`` said so. ``forked_at`` is the lowest seq that does not link."""

    upto: int
    sources: list[str]
    since_ms: int
    next_ms: int
    ahead: tuple[int, int] = _NO_RANGE
    behind: tuple[int, int] = _NO_RANGE
    forked_at: int = 0
    fork_id: str = ""
    attempts: int = 0
    head_then: int = 0


class SyncPlanner:
    """What this node lacks of others' feeds. Reads feeds and parking place, changes neither."""

    def __init__(self, feeds: Feeds, parking: Parking) -> None:
        self._feeds = feeds
        self._parking = parking
        self._missing: OrderedDict[str, _Missing] = OrderedDict()
        self._lost_forks: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._announced: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._missing)

    def note(
        self, author: str, upto: int, source: str, now_ms: int, *, proven: bool = True, forked_at: int = 0
    ) -> bool:
        """``source`` has the author's feed up to ``upto``, and we lack some of it. True if that is news.

        ``forked_at`` is the seq of an envelope that does not link to what is held. Sources that have not ``proven``
        their address get no more than half of the room, and displace nobody.
        """
        missing = self._missing.get(author)
        news = missing is None
        if missing is None:
            if len(self._missing) >= limits.SYNC_MISSING_FEEDS_MAX // (1 if proven else 2):
                return False
            head_then = self._feeds.get(author).head_seq
            missing = self._missing[author] = _Missing(upto, [], now_ms, now_ms, head_then=head_then)
        missing.upto = max(missing.upto, upto)
        if forked_at and (not missing.forked_at or forked_at < missing.forked_at):
            missing.forked_at = forked_at
            missing.next_ms = now_ms
            missing.attempts = 0
        _put_first(missing.sources, source, proven=proven)
        return news

    def hear(self, head: Head, source: str, now_ms: int, *, proven: bool = True) -> bool:
        """Compare a neighbour's head with ours; True if something new is found missing."""
        feed = self._feeds.get(head.author)
        if head.seq > feed.head_seq:
            return self.note(head.author, head.seq, source, now_ms, proven=proven)
        held = feed.entry(head.seq)
        if held is None or held.id == head.id:
            return False
        lost_id, until_ms = self._lost_forks.get(head.author, ("", 0))
        if lost_id == head.id and now_ms < until_ms:
            return False
        news = self.note(head.author, head.seq, source, now_ms, proven=proven, forked_at=head.seq + 1)
        missing = self._missing.get(head.author)
        if missing is not None:
            missing.fork_id = head.id
        return news

    def wanted(self, author: str, seq: int) -> bool:
        """True if this envelope was asked for."""
        missing = self._missing.get(author)
        return missing is not None and any(first <= seq <= last for first, last in (missing.ahead, missing.behind))

    def progressed(self, author: str, now_ms: int, *, fork_won: bool = False) -> tuple[int, int, int] | None:
        """The feed moved. (first seq, last seq, ms) of a gap that is now closed; a longer one is asked on at once."""
        missing = self._missing.get(author)
        if missing is None:
            return None
        head = self._feeds.get(author).head_seq
        if fork_won:
            missing.forked_at = 0
            missing.head_then = min(missing.head_then, head - 1)
            missing.next_ms = now_ms
        if missing.forked_at:
            return None
        if head >= missing.upto:
            del self._missing[author]
            return missing.head_then + 1, head, now_ms - missing.since_ms
        # One answer rarely brings all that was asked for: what is still missing is asked for when the stream ends.
        missing.attempts = 0
        missing.next_ms = now_ms if head >= missing.ahead[1] else now_ms + limits.SYNC_QUIET_MS
        return None

    def fork_lost(self, author: str, now_ms: int) -> None:
        """The other branch of a fork does not stand: nothing more of it is asked for."""
        missing = self._missing.get(author)
        if missing is None or not missing.forked_at:
            return
        if missing.fork_id:
            self._lost_forks[author] = (missing.fork_id, now_ms + limits.SYNC_LOST_FORK_MS)
            self._lost_forks.move_to_end(author)
            if len(self._lost_forks) > limits.SYNC_MISSING_FEEDS_MAX:
                self._lost_forks.popitem(last=False)
        del self._missing[author]

    def requests(
        self, now_ms: int, may_ask: Callable[[str], bool], room: Callable[[str, int], int] = _any_room
    ) -> list[tuple[str, list[Want]]]:
        """(source, wants) due now, of sources that ``may_ask`` allows.

        ``room`` tells how many envelopes of an author may come now: what would be over its budget is not asked for.
        """
        by_source: dict[str, list[Want]] = {}
        for author in list(self._missing):
            missing = self._missing[author]
            if now_ms < missing.next_ms:
                continue
            if missing.attempts >= limits.SYNC_FORK_ATTEMPTS_MAX:
                missing.forked_at = 0
            behind, ahead = self._ranges(author, missing)
            over = now_ms - missing.since_ms > limits.SYNC_MISSING_TTL_MS and missing.attempts > 0
            if over or (behind == ahead == _NO_RANGE):
                del self._missing[author]
                continue
            entries_max = room(author, now_ms)
            if entries_max < 1:
                missing.next_ms = now_ms + limits.AUTHOR_PAUSE_MS
                continue
            source = _pick(missing, by_source, may_ask)
            if source is None:
                continue
            if behind != _NO_RANGE and (ahead == _NO_RANGE or missing.attempts % 2 == 0):
                missing.behind = wanted = behind
            else:
                missing.ahead = wanted = (ahead[0], min(ahead[1], ahead[0] + entries_max - 1))
            by_source.setdefault(source, []).append(Want(author, *wanted))
            wait_ms = limits.SYNC_REQUEST_RETRY_MS << min(missing.attempts, 16)
            missing.next_ms = now_ms + min(wait_ms, limits.SYNC_REQUEST_RETRY_MS_MAX)
            missing.attempts += 1
        return list(by_source.items())

    def _ranges(self, author: str, missing: _Missing) -> tuple[tuple[int, int], tuple[int, int]]:
        """What to ask for behind the head, because of a fork, and ahead of it."""
        head = self._feeds.get(author).head_seq
        behind = ahead = _NO_RANGE
        if missing.forked_at:
            last = max(1, min(missing.forked_at - 1, head))
            behind = (max(1, last - limits.SYNC_WANT_ENTRIES_MAX + 1), last)
        if missing.upto > head:
            waiting = self._parking.lowest_seq(author, head + 1)
            last = missing.upto if waiting is None else min(missing.upto, waiting - 1)
            ahead = (head + 1, min(last, head + limits.SYNC_WANT_ENTRIES_MAX))
        return behind, ahead

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


def _put_first(sources: list[str], source: str, *, proven: bool) -> None:
    if source in sources:
        if not proven:
            return
        sources.remove(source)
    elif not proven:
        if len(sources) < limits.SYNC_SOURCES_PER_FEED_MAX:
            sources.append(source)
        return
    sources.insert(0, source)
    del sources[limits.SYNC_SOURCES_PER_FEED_MAX :]


def _pick(missing: _Missing, by_source: dict[str, list[Want]], may_ask: Callable[[str], bool]) -> str | None:
    """The source to ask now: each attempt begins with the next one."""
    for step in range(len(missing.sources)):
        source = missing.sources[(missing.attempts + step) % len(missing.sources)]
        asked = by_source.get(source)
        if asked is not None:
            if len(asked) < limits.SYNC_WANTS_PER_MESSAGE_MAX:
                return source
        elif may_ask(source):
            return source
    return None
