"""Gossip of forks: who of the authors signed two envelopes for one place, told to those who do not know it yet.

Only places are announced, a few bytes each. Who lacks the proof asks for it, gets the document of
``protocol.fork_proof``, and believes nothing but the two signatures in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from crabnet import limits
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import ForkHeads, ForkMark, ForkRequest


class _Wanted(Struct):
    sources: list[str]
    next_ms: int
    attempts: int = 0


class ForkGossip:
    """Which forks neighbours should hear of, and which proofs this node asks for. Reads ``feeds``, changes nothing."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._wanted: OrderedDict[ForkMark, _Wanted] = OrderedDict()
        self._fresh: OrderedDict[ForkMark, None] = OrderedDict()
        self._told: OrderedDict[ForkMark, None] = OrderedDict()
        self._tell_at_ms = 0

    def learned(self, author: str, seq: int) -> None:
        """A fork was proved here: neighbours hear of it with the next tick."""
        mark = ForkMark(author, seq)
        self._wanted.pop(mark, None)
        self._fresh[mark] = None

    def wanted(self, author: str, seq: int) -> bool:
        """True if this proof was asked for."""
        return ForkMark(author, seq) in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def hear(self, heads: ForkHeads, source: str, now_ms: int) -> None:
        """A neighbour with a proven address has these proofs."""
        for mark in heads.forks:
            wanted = self._wanted.get(mark)
            if wanted is not None:
                if source not in wanted.sources and len(wanted.sources) < limits.SYNC_SOURCES_PER_FEED_MAX:
                    wanted.sources.append(source)
            elif len(self._wanted) < limits.FORK_WANTS_MAX and self._feeds.lacks_fork(mark.author, mark.seq):
                self._wanted[mark] = _Wanted([source], now_ms)

    def requests(self, now_ms: int, may_ask: Callable[[str], bool]) -> list[tuple[str, ForkRequest]]:
        """(source, request) due now, to sources that ``may_ask`` allows; each attempt turns to the next source."""
        by_source: dict[str, list[ForkMark]] = {}
        for mark in list(self._wanted):
            wanted = self._wanted[mark]
            if now_ms < wanted.next_ms:
                continue
            if wanted.attempts >= limits.FORK_WANT_ATTEMPTS_MAX or not self._feeds.lacks_fork(mark.author, mark.seq):
                del self._wanted[mark]
                continue
            source = wanted.sources[wanted.attempts % len(wanted.sources)]
            wait_ms = limits.SYNC_REQUEST_RETRY_MS << wanted.attempts
            wanted.attempts += 1
            wanted.next_ms = now_ms + min(wait_ms, limits.SYNC_REQUEST_RETRY_MS_MAX)
            marks = by_source.setdefault(source, [])
            if len(marks) < limits.SYNC_WANTS_PER_MESSAGE_MAX and may_ask(source):
                marks.append(mark)
        return [(source, ForkRequest(marks)) for source, marks in by_source.items() if marks]

    def news(self, now_ms: int, interval_ms: int) -> ForkHeads | None:
        """What to announce to everybody now: what was just learned, and from time to time the others in turn."""
        marks = [self._fresh.popitem(last=False)[0] for _ in range(min(len(self._fresh), limits.FORKS_PER_DATAGRAM))]
        if not marks and now_ms >= self._tell_at_ms:
            self._tell_at_ms = now_ms + limits.FORKS_ANNOUNCE_INTERVALS * interval_ms
            marks = self._all()[: limits.FORKS_PER_DATAGRAM]
        for mark in marks:
            self._told[mark] = None
            self._told.move_to_end(mark)
        return ForkHeads(marks) if marks else None

    def page(self) -> ForkHeads | None:
        """For a neighbour who has just proved its address: as much as one message takes."""
        marks = self._all()[: limits.FORKS_PER_MESSAGE_MAX]
        return ForkHeads(marks) if marks else None

    def _all(self) -> list[ForkMark]:
        """Every known fork, those told longest ago first."""
        known = {
            ForkMark(author, fork.seq): None
            for author in self._feeds.equivocators()
            for fork in self._feeds.get(author).forks
        }
        untold = [mark for mark in known if mark not in self._told]
        return untold + [mark for mark in self._told if mark in known]
