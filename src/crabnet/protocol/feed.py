"""Feeds: the signed, append-only sequence of one author's envelopes in one namespace.

``seq`` counts from 1 without gaps, ``prev`` chains. Of two validly signed envelopes with the same ``seq`` and the same
predecessor the one with the lower id stands, in every node, whichever came first; the other is kept as proof (design
section 4).
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

from msgspec import Struct, field

from crabnet import limits
from crabnet.domain.accumulator import Accumulator

FEED_WINDOW_ENTRIES: Final = 4_096
"""How far back in a feed a fork can still change what stands. Beyond it the first envelope seen is final."""


class Place(Enum):
    """Where an envelope stands relative to what is held of its feed."""

    NEXT = auto()
    DUPLICATE = auto()
    GAP = auto()
    BROKEN_CHAIN = auto()
    FORK_WINS = auto()
    FORK_LOSES = auto()


class FeedEntry(Struct, frozen=True, gc=False):
    """One envelope held of a feed, by id, and the seed it touched."""

    id: str
    seed_id: str


class ForkProof(Struct, frozen=True, gc=False):
    """Two signed envelopes of one author for the same place: the id that stands and the one that does not."""

    seq: int
    id: str
    loser: str


class Feed(Struct):
    """What is held of one author's feed: its head, and the last entries for telling duplicates from forks."""

    author: str
    head_seq: int = 0
    head_id: str = ""
    window: deque[FeedEntry] = field(default_factory=deque)
    forks: list[ForkProof] = []

    @property
    def window_start(self) -> int:
        """The seq of the oldest entry in the window."""
        return self.head_seq - len(self.window) + 1

    def entry(self, seq: int) -> FeedEntry | None:
        """The entry at ``seq`` if it is in the window."""
        start = self.window_start
        return self.window[seq - start] if start <= seq <= self.head_seq else None

    def place(self, seq: int, envelope_id: str, prev: str) -> Place:
        """Where a verified envelope belongs."""
        if seq == self.head_seq + 1:
            return Place.NEXT if prev == self.head_id else Place.BROKEN_CHAIN
        if seq > self.head_seq:
            return Place.GAP
        held = self.entry(seq)
        if held is None or held.id == envelope_id:
            return Place.DUPLICATE
        before = self.entry(seq - 1)
        if seq > 1 and before is None:
            return Place.DUPLICATE
        if prev != ("" if before is None else before.id):
            return Place.BROKEN_CHAIN
        return Place.FORK_WINS if envelope_id < held.id else Place.FORK_LOSES


class Feeds:
    """All feeds of one namespace: the version vector, and its hash."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._accumulator = Accumulator()
        self._dirty: dict[str, tuple[int, str]] = {}
        self._forked: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def get(self, author: str) -> Feed:
        """The feed of an author; an empty one, not kept, for an unknown author."""
        return self._feeds.get(author) or Feed(author)

    def authors(self) -> list[str]:
        """Everybody who has a feed here."""
        return list(self._feeds)

    def heads(self) -> dict[str, tuple[int, str]]:
        """The version vector: author -> (seq, id) of the last envelope held."""
        return {author: (feed.head_seq, feed.head_id) for author, feed in self._feeds.items()}

    def advance(self, author: str, seq: int, envelope_id: str, seed_id: str) -> None:
        """Append an envelope. Total: a seq that does not follow restarts the window there."""
        feed = self._feeds.get(author)
        if feed is None:
            feed = self._feeds[author] = Feed(author, window=deque(maxlen=FEED_WINDOW_ENTRIES))
        self._dirty.setdefault(author, (feed.head_seq, feed.head_id))
        if seq != feed.head_seq + 1:
            feed.window.clear()
        feed.window.append(FeedEntry(envelope_id, seed_id))
        feed.head_seq = seq
        feed.head_id = envelope_id

    def touched_from(self, author: str, seq: int) -> frozenset[str]:
        """The seeds that the author's envelopes from ``seq`` on are about."""
        feed = self.get(author)
        return frozenset(entry.seed_id for at, entry in enumerate(feed.window, feed.window_start) if at >= seq)

    def cut(self, author: str, seq: int, proof: ForkProof) -> None:
        """Drop the entries from ``seq`` on, because another envelope stands there."""
        feed = self._feeds.get(author)
        if feed is None or not feed.window_start <= seq <= feed.head_seq:
            return
        self._dirty.setdefault(author, (feed.head_seq, feed.head_id))
        while feed.window and feed.head_seq >= seq:
            feed.window.pop()
            feed.head_seq -= 1
        feed.head_id = feed.window[-1].id if feed.window else ""
        self.prove(author, proof)

    def prove(self, author: str, proof: ForkProof) -> bool:
        """Keep the proof of a fork, within a bound; True if it is new."""
        feed = self._feeds.get(author)
        if feed is None or proof in feed.forks or len(feed.forks) >= limits.FORK_PROOFS_PER_FEED_MAX:
            return False
        feed.forks.append(proof)
        self._forked[author] = None
        return True

    def equivocators(self) -> list[str]:
        """Authors of whom a fork is proved, in the order in which that became known."""
        return list(self._forked)

    def is_equivocator(self, author: str) -> bool:
        """True if it is proved that this author signed two envelopes for one place."""
        return author in self._forked

    def lacks_fork(self, author: str, seq: int) -> bool:
        """True if no fork is known at this place, and there is room for one more proof."""
        forks = self.get(author).forks
        return len(forks) < limits.FORK_PROOFS_PER_FEED_MAX and all(fork.seq != seq for fork in forks)

    def load(self, feeds: list[Feed], accumulated: int | None = None) -> None:
        """Take the feeds of a checkpoint."""
        self._feeds = {
            feed.author: Feed(
                feed.author, feed.head_seq, feed.head_id, deque(feed.window, FEED_WINDOW_ENTRIES), feed.forks
            )
            for feed in feeds
        }
        self._forked = {feed.author: None for feed in feeds if feed.forks}
        self._accumulator = Accumulator(1 if accumulated is None else accumulated)
        self._dirty = dict.fromkeys(self._feeds, (0, "")) if accumulated is None else {}

    def all(self) -> list[Feed]:
        """Every feed, for a checkpoint."""
        return list(self._feeds.values())

    def accumulated(self) -> int:
        """The accumulator's number over all heads."""
        for author, before in self._dirty.items():
            rehash(self._accumulator, self._feeds[author], before)
        self._dirty.clear()
        return self._accumulator.value()

    def unhashed(self) -> tuple[Accumulator, dict[str, tuple[int, str]]]:
        """Copies of the accumulator and of the heads in it that are not the present ones: for ``rehash``."""
        return self._accumulator.copy(), self._dirty.copy()

    def digest(self) -> bytes:
        """SHA-256 over all heads, 32 bytes."""
        self.accumulated()
        return self._accumulator.digest()


def rehash(accumulator: Accumulator, feed: Feed, before: tuple[int, str]) -> None:
    """Put the head of a feed in the place of the (seq, id) that was hashed before; seq 0 stands for none."""
    seq, head_id = before
    if seq:
        accumulator.remove(_leaf(feed.author, seq, head_id))
    if feed.head_seq:
        accumulator.add(_leaf(feed.author, feed.head_seq, feed.head_id))


def _leaf(author: str, seq: int, head_id: str) -> bytes:
    return f"feed\0{author}\0{seq}\0{head_id}".encode()
