"""Feeds. A feed is the signed, append-only sequence of one author's envelopes in one namespace.

``seq`` counts from 1 without gaps. ``prev`` is the id of the entry before. When two validly signed envelopes for one
place are known, the feed ends before the lowest such place, in every node, permanently (ADR 26).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from msgspec import Struct, field

from crabnet.domain.accumulator import Accumulator
from crabnet.errors import Reason, RefusedError

FEED_WINDOW_ENTRIES: Final = 256
"""How many ids of the last entries of each feed are in memory. Older ids are looked up: the window decides nothing."""


class Place(Enum):
    """The place of an envelope relative to the held entries of its feed."""

    NEXT = auto()
    DUPLICATE = auto()
    GAP = auto()
    BROKEN_CHAIN = auto()
    FORK = auto()
    BEHIND = auto()


class Feed(Struct):
    """The held part of one author's feed: its head, and the ids of its last entries.

    ``end`` is the lowest place that is known to be forked, 0 if there is none. The head never reaches it. ``settled``
    is the end whose consequences are all processed. ``open_seeds`` are the author's seeds that count towards its cap.
    """

    author: str
    head_seq: int = 0
    head_id: str = ""
    window: deque[str] = field(default_factory=deque)
    end: int = 0
    settled: int = 0
    open_seeds: dict[str, None] = field(default_factory=dict)

    def in_window(self, seq: int) -> str | None:
        """The id of the entry at ``seq``, or None if it is not in the window."""
        start = self.head_seq - len(self.window) + 1
        return self.window[seq - start] if start <= seq <= self.head_seq else None


Lookup = Callable[[str, int], str | None]
"""Returns the id of a held entry, however old, from its author and place."""


def _nothing_stored(_author: str, _seq: int) -> str | None:
    return None


class Feeds:
    """All feeds of one namespace: the version vector and its hash."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._accumulator = Accumulator()
        self._dirty: dict[str, tuple[int, str, int]] = {}
        self._forked: dict[str, None] = {}
        self.lookup: Lookup = _nothing_stored

    def __len__(self) -> int:
        return len(self._feeds)

    def __contains__(self, author: str) -> bool:
        return author in self._feeds

    @property
    def any_ended(self) -> bool:
        """False while no feed has ended. Every held entry then lies before the end of its feed."""
        return bool(self._forked)

    def get(self, author: str) -> Feed:
        """The feed of an author. For an unknown author it returns an empty feed and does not keep it."""
        return self._feeds.get(author) or Feed(author)

    def authors(self) -> list[str]:
        """All authors that have a feed here, including ended feeds without entries."""
        return list(self._feeds)

    def heads(self) -> dict[str, tuple[int, str]]:
        """The version vector: author -> (seq, id) of the last envelope held."""
        return {author: (feed.head_seq, feed.head_id) for author, feed in self._feeds.items()}

    def id_at(self, author: str, seq: int) -> str | None:
        """The id of the entry at a place, or None for a place beyond the head. Raises what the lookup raises."""
        feed = self.get(author)
        if not 1 <= seq <= feed.head_seq:
            return None
        return feed.in_window(seq) or self.lookup(author, seq)

    def place(self, author: str, seq: int, envelope_id: str, prev: str) -> Place:
        """Where a verified envelope belongs. Raises what the lookup raises."""
        feed = self.get(author)
        if feed.end and seq >= feed.end:
            return Place.BEHIND
        if seq <= feed.head_seq:
            held = self.id_at(author, seq)  # None if the node has lost it: a fork cannot be shown then
            return Place.DUPLICATE if held is None or held == envelope_id else Place.FORK
        if seq > feed.head_seq + 1:
            return Place.GAP
        return Place.NEXT if prev == feed.head_id else Place.BROKEN_CHAIN

    def is_front(self, author: str, seq: int) -> bool:
        """True if a place lies before the end of its feed."""
        if not self._forked:
            return True
        end = self.get(author).end
        return not end or seq < end

    def _known(self, author: str) -> Feed:
        feed = self._feeds.get(author)
        if feed is None:
            feed = self._feeds[author] = Feed(author, window=deque(maxlen=FEED_WINDOW_ENTRIES))
        self._dirty.setdefault(author, (feed.head_seq, feed.head_id, feed.end))
        return feed

    def advance(self, author: str, seq: int, envelope_id: str) -> Feed:
        """Append an envelope and return its feed. A seq that does not follow the head restarts the window there."""
        feed = self._known(author)
        if seq != feed.head_seq + 1:
            feed.window.clear()
        feed.window.append(envelope_id)
        feed.head_seq = seq
        feed.head_id = envelope_id
        return feed

    def end(self, author: str, seq: int) -> bool:
        """End the feed before ``seq``, because it is forked there. Returns False if it has that end or a lower one.

        Raises what ``last_before`` raises.
        """
        if 0 < self.get(author).end <= seq:
            return False
        self.end_at(author, seq, self.last_before(author, seq))
        return True

    def last_before(self, author: str, seq: int) -> str:
        """The id of the entry before a place, or "" if the feed is not held up to there.

        Raises what the lookup raises. Raises RefusedError if the node has lost that id.
        """
        entry_id = self.id_at(author, seq - 1)
        if entry_id is None and 1 < seq <= self.get(author).head_seq + 1:
            raise RefusedError(
                f"this node has lost the id of seq {seq - 1} of the feed of {author}", Reason.UNAVAILABLE
            )
        return entry_id or ""

    def end_at(self, author: str, seq: int, head_id: str) -> None:
        """End the feed before ``seq``. ``head_id`` is the id of the entry before, "" if the feed is not held so far."""
        feed = self._known(author)
        feed.end = seq
        self._forked[author] = None
        while feed.head_seq >= seq:
            feed.head_seq -= 1
            if feed.window:
                feed.window.pop()
            if feed.head_seq < seq:
                feed.head_id = feed.window[-1] if feed.window else head_id

    def settle(self, author: str, end: int) -> None:
        """Record that all consequences of this end are processed."""
        feed = self._feeds.get(author)
        if feed is not None:
            feed.settled = end

    def unsettled(self) -> list[Feed]:
        """Feeds whose end has unprocessed consequences."""
        return [feed for author in self._forked if (feed := self._feeds[author]).settled != feed.end]

    def equivocators(self) -> list[str]:
        """Authors with a proven fork, in the order in which that became known."""
        return list(self._forked)

    def is_equivocator(self, author: str) -> bool:
        """True if there is proof that this author signed two envelopes for one place."""
        return author in self._forked

    def load(self, feeds: list[Feed], accumulated: int | None) -> None:
        """Load the feeds of a checkpoint. ``accumulated`` is its accumulator; None has it computed anew."""
        for feed in feeds:
            feed.window = deque(feed.window, FEED_WINDOW_ENTRIES)
        self._feeds = {feed.author: feed for feed in feeds}
        self._forked = {feed.author: None for feed in feeds if feed.end}
        self._accumulator = Accumulator(1 if accumulated is None else accumulated)
        self._dirty = dict.fromkeys(self._feeds, (0, "", 0)) if accumulated is None else {}

    def all(self) -> list[Feed]:
        """Every feed, for a checkpoint."""
        return list(self._feeds.values())

    def accumulated(self) -> int:
        """The accumulator's number over all heads."""
        for author, before in self._dirty.items():
            rehash(self._accumulator, self._feeds[author], before)
        self._dirty.clear()
        return self._accumulator.value()

    def unhashed(self) -> tuple[Accumulator, dict[str, tuple[int, str, int]]]:
        """Copies of the accumulator and of the outdated heads in it, for ``rehash``."""
        return self._accumulator.copy(), self._dirty.copy()

    def digest(self) -> bytes:
        """SHA-256 over all heads, 32 bytes."""
        self.accumulated()
        return self._accumulator.digest()


def rehash(accumulator: Accumulator, feed: Feed, before: tuple[int, str, int]) -> None:
    """Replace the head that was hashed before with the present head of the feed. Empty heads are not hashed."""
    if before[0] or before[2]:
        accumulator.remove(_leaf(feed.author, *before))
    if feed.head_seq or feed.end:
        accumulator.add(_leaf(feed.author, feed.head_seq, feed.head_id, feed.end))


def _leaf(author: str, seq: int, head_id: str, end: int) -> bytes:
    mark = f"\0{end}" if end else ""
    return f"feed\0{author}\0{seq}\0{head_id}{mark}".encode()
