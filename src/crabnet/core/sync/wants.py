"""Items that this node lacks and requests by name: fork proofs, and envelopes on which others rest.

Neighbours report them. The table is bounded, and each teller has its share. So a teller that invents items cannot keep
out those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from msgspec import Struct

from crabnet import limits

K = TypeVar("K", bound=Hashable)
STRANGERS: Final = ""
"""The common teller of all sources that have not proved their address."""
_DOUBLED_MAX: Final = 16


class _Wanted(Struct):
    """``sources`` are the sources that have it, and how often each was asked."""

    teller: str
    sources: dict[str, int]
    since_ms: int
    next_ms: int
    attempts: int = 0


class Wants(Generic[K]):
    """At most ``most`` names.

    The node asks each source of a name at most ``attempts_max`` times, or without limit if it is None. Each time that
    all sources were asked, the wait doubles.
    """

    def __init__(self, most: int, attempts_max: int | None = None) -> None:
        self._most = most
        self._attempts_max = attempts_max
        self._wanted: dict[K, _Wanted] = {}
        self._told_by: dict[str, dict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, name: K) -> bool:
        return name in self._wanted

    @property
    def oldest_ms(self) -> int | None:
        """Since when the name that is wanted for longest should have been requested. Strangers' names do not count."""
        return next((each.since_ms for each in self._wanted.values() if each.teller != STRANGERS), None)

    def note(self, name: K, source: str, ask_ms: int, *, teller: str) -> bool:
        """Note that ``source`` has this. It is requested at ``ask_ms``. False if there is no room for it.

        ``teller`` is the party behind the source. Strangers get at most half of the room and evict nothing. Among the
        others, a teller with fewer names evicts a name of the teller with most.
        """
        wanted = self._wanted.get(name)
        if wanted is not None:
            self._add_source(wanted, source, ask_ms)
            if wanted.teller == STRANGERS and teller != STRANGERS:
                self._untell(name, wanted)
                self._tell(name, wanted, teller)
            return True
        if len(self._wanted) >= self._most // (2 if teller == STRANGERS else 1) and not self._make_room(teller):
            return False
        wanted = self._wanted[name] = _Wanted(teller, {source: 0}, ask_ms, ask_ms)
        self._tell(name, wanted, teller)
        return True

    def _add_source(self, wanted: _Wanted, source: str, ask_ms: int) -> None:
        """Add a source. If there are many, it replaces the one that was asked most. It need not wait for the others."""
        sources = wanted.sources
        if source in sources:
            return
        if len(sources) >= limits.SYNC_SOURCES_PER_FEED_MAX:
            most = max(sources, key=sources.__getitem__)
            if not sources[most]:
                return
            del sources[most]
        sources[source] = 0
        if wanted.attempts:
            wanted.next_ms = min(wanted.next_ms, ask_ms)

    def sources(self, name: K) -> list[str]:
        """The sources that have this. Empty if it is not wanted."""
        wanted = self._wanted.get(name)
        return [] if wanted is None else list(wanted.sources)

    def _tell(self, name: K, wanted: _Wanted, teller: str) -> None:
        wanted.teller = teller
        self._told_by.setdefault(teller, {})[name] = None

    def _untell(self, name: K, wanted: _Wanted) -> None:
        told = self._told_by[wanted.teller]
        del told[name]
        if not told:
            del self._told_by[wanted.teller]

    def _make_room(self, teller: str) -> bool:
        """Evict the latest name of the teller with most, if that has more than the newcomer would. Strangers first."""
        if teller == STRANGERS:
            return False
        greedy = self._told_by.get(STRANGERS) or max(self._told_by.values(), key=len)
        if STRANGERS not in self._told_by and len(greedy) <= len(self._told_by.get(teller, ())) + 1:
            return False
        self.drop(next(reversed(greedy)))
        return True

    def drop(self, name: K) -> None:
        """Remove a name that is no longer wanted."""
        wanted = self._wanted.pop(name, None)
        if wanted is not None:
            self._untell(name, wanted)

    def requests(
        self, now_ms: int, lacks: Callable[[K], bool], may_ask: Callable[[str], bool], per_message: int
    ) -> list[tuple[str, list[K]]]:
        """The requests that are due, as (source, names).

        Of the sources that ``may_ask`` allows, the one that was asked least often is asked.
        """
        by_source: dict[str, list[K]] = {}
        for name, wanted in list(self._wanted.items()):
            if not lacks(name):
                self.drop(name)
                continue
            if now_ms < wanted.next_ms:
                continue
            if self._attempts_max is not None and min(wanted.sources.values()) >= self._attempts_max:
                self.drop(name)
                continue
            for source in sorted(wanted.sources, key=wanted.sources.__getitem__):
                names = by_source.get(source)
                if names is None and may_ask(source):
                    names = by_source[source] = []
                if names is not None and len(names) < per_message:
                    names.append(name)
                    _asked(wanted, source, now_ms)
                    break
        return list(by_source.items())


def _asked(wanted: _Wanted, source: str, now_ms: int) -> None:
    turns = min(wanted.attempts // len(wanted.sources), _DOUBLED_MAX)
    wanted.next_ms = now_ms + min(limits.SYNC_REQUEST_RETRY_MS << turns, limits.SYNC_REQUEST_RETRY_MS_MAX)
    wanted.attempts += 1
    wanted.sources[source] += 1
