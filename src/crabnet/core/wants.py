"""What neighbours have told of and this node lacks, to be asked for by name: fork proofs, and what others rest on.

Bounded. Each teller has its share, so that nobody who makes things up keeps others from being heard.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from crabnet import limits

K = TypeVar("K", bound=Hashable)


class _Wanted(Struct):
    teller: str
    sources: dict[str, None]
    next_ms: int
    attempts: int = 0


class Wants(Generic[K]):
    """At most ``most`` names, each asked for at most ``attempts_max`` times, each time after twice as long."""

    def __init__(self, most: int, attempts_max: int) -> None:
        self._most = most
        self._attempts_max = attempts_max
        self._wanted: dict[K, _Wanted] = {}
        self._told_by: dict[str, dict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, name: K) -> bool:
        return name in self._wanted

    def note(self, name: K, source: str, ask_ms: int) -> bool:
        """``source`` has this; it is to be asked for at ``ask_ms``. False if there is no room for it."""
        wanted = self._wanted.get(name)
        if wanted is not None:
            if len(wanted.sources) < limits.SYNC_SOURCES_PER_FEED_MAX:
                wanted.sources[source] = None
            return True
        if len(self._wanted) >= self._most and not self._make_room(source):
            return False
        self._wanted[name] = _Wanted(source, {source: None}, ask_ms)
        self._told_by.setdefault(source, {})[name] = None
        return True

    def _make_room(self, source: str) -> bool:
        """Who has told of most gives up its latest, if that is more than the newcomer would have."""
        greedy = max(self._told_by.values(), key=len)
        if len(greedy) <= len(self._told_by.get(source, ())) + 1:
            return False
        self.drop(next(reversed(greedy)))
        return True

    def drop(self, name: K) -> None:
        """It is not wanted any more."""
        wanted = self._wanted.pop(name, None)
        if wanted is not None:
            told = self._told_by[wanted.teller]
            del told[name]
            if not told:
                del self._told_by[wanted.teller]

    def requests(
        self, now_ms: int, lacks: Callable[[K], bool], may_ask: Callable[[str], bool], per_message: int
    ) -> list[tuple[str, list[K]]]:
        """(source, names) due now, to sources that ``may_ask`` allows; each attempt turns to the next source."""
        by_source: dict[str, list[K]] = {}
        for name, wanted in list(self._wanted.items()):
            if not lacks(name):
                self.drop(name)
                continue
            if now_ms < wanted.next_ms:
                continue
            if wanted.attempts >= self._attempts_max:
                self.drop(name)
                continue
            sources = list(wanted.sources)
            source = sources[wanted.attempts % len(sources)]
            names = by_source.setdefault(source, [])
            if len(names) >= per_message or not (names or may_ask(source)):
                continue
            wait_ms = limits.SYNC_REQUEST_RETRY_MS << wanted.attempts
            wanted.attempts += 1
            wanted.next_ms = now_ms + min(wait_ms, limits.SYNC_REQUEST_RETRY_MS_MAX)
            names.append(name)
        return [(source, names) for source, names in by_source.items() if names]
