"""Verified envelopes that are ahead of what is held of their feed: bounded, fair between authors, with a time to live.

Known authors and newcomers have a shelf each, so that fresh identities displace one another only. When a shelf is full,
the author that takes most of it gives up its last envelope for one that takes less. Whatever is given up is counted,
and sync brings it again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.protocol.admission import Admitted

_Place = tuple[int, str]
"""``seq`` and ``prev``: where an envelope wants to stand. Two envelopes with the same place are a fork."""
_BYTES_PER_LEVEL: Final = limits.PARKED_BYTES_PER_FEED_MAX // limits.PARKED_ENVELOPES_PER_FEED_MAX


class Parked(NamedTuple):
    """An envelope that waits, since when, where it came from, and whether its author was known then."""

    admitted: Admitted
    parked_at_s: int
    source: str
    known: bool = True


class _Held:
    """What one author has on a shelf."""

    __slots__ = ("bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0

    def level(self, count: int = 0, size: int = 0) -> int:
        """How much of what one author may take is taken, in steps of one envelope's share."""
        return max(self.count + count, -(-(self.bytes + size) // _BYTES_PER_LEVEL))


class _Shelf:
    """How much of its half of the room each author takes. ``_levels[n]`` are the authors at level n."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._held: dict[str, _Held] = {}
        self._levels: list[dict[str, None]] = [{} for _ in range(limits.PARKED_ENVELOPES_PER_FEED_MAX + 2)]

    def fits_author(self, author: str, size: int) -> bool:
        """True if the author's own share has room for one more."""
        return (self._held.get(author) or _Held()).level(1, size) <= limits.PARKED_ENVELOPES_PER_FEED_MAX

    def has_room(self, size: int) -> bool:
        """True if one more of ``size`` bytes fits beside all others."""
        return self.count < limits.PARKED_ENVELOPES_MAX // 2 and self.bytes + size <= limits.PARKED_BYTES_MAX // 2

    def greedier_than(self, author: str, size: int) -> str | None:
        """Who takes most, if that is more than the author would take with one more."""
        own = (self._held.get(author) or _Held()).level(1, size)
        for level in range(len(self._levels) - 1, own, -1):
            for other in self._levels[level]:
                return other
        return None

    def add(self, author: str, count: int, size: int) -> None:
        """Count envelopes in, or with negative numbers out."""
        held = self._held.get(author)
        if held is None:
            held = self._held[author] = _Held()
        else:
            self._levels[self._level(held)].pop(author, None)
        held.count += count
        held.bytes += size
        self.count += count
        self.bytes += size
        if held.count:
            self._levels[self._level(held)][author] = None
        else:
            del self._held[author]

    def _level(self, held: _Held) -> int:
        return min(held.level(), len(self._levels) - 1)


class Parking:
    """Parked envelopes by author and place."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._by_author: dict[str, dict[_Place, list[Parked]]] = {}
        self._waiting: OrderedDict[str, Parked] = OrderedDict()
        self._shelves = {True: _Shelf(), False: _Shelf()}
        self._evicted: list[Parked] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Bytes of all envelopes that wait."""
        return sum(shelf.bytes for shelf in self._shelves.values())

    def holds(self, envelope_id: str) -> bool:
        """True if this very envelope waits here."""
        return envelope_id in self._waiting

    def put(self, admitted: Admitted, now_s: int, source: str, *, known: bool = True) -> bool:
        """Park an envelope; False if there is no room. ``take_evicted`` tells what had to go for it."""
        meta = admitted.envelope.meta
        size = len(admitted.envelope.raw)
        shelf = self._shelves[known]
        while not shelf.fits_author(meta.from_, size):
            if not self._evict_after(meta.from_, meta.seq, known=known):
                return False
        while not shelf.has_room(size):
            greedy = shelf.greedier_than(meta.from_, size)
            if not self._evict_after(greedy or meta.from_, 0 if greedy else meta.seq, known=known):
                return False
        parked = Parked(admitted, now_s, source, known)
        self._by_author.setdefault(meta.from_, {}).setdefault((meta.seq, meta.prev), []).append(parked)
        self._waiting[meta.id] = parked
        shelf.add(meta.from_, 1, size)
        return True

    def _evict_after(self, author: str, seq: int, *, known: bool) -> bool:
        """Give up what would be needed last of an author's; False if nothing of it comes after ``seq``."""
        parkeds = (parked for parkeds in self._by_author.get(author, {}).values() for parked in parkeds)
        last = max((parked for parked in parkeds if parked.known is known), key=_seq_of, default=None)
        if last is None or _seq_of(last) <= seq:
            return False
        self._remove(last)
        self._evicted.append(last)
        return True

    def take_evicted(self) -> list[Parked]:
        """What was given up for others since the last call."""
        if not self._evicted:
            return []
        evicted, self._evicted = self._evicted, []
        return evicted

    def take(self, author: str, seq: int, prev: str) -> list[Parked]:
        """Take out what wants to stand at ``seq`` behind ``prev``: one envelope, or the branches of a fork by id."""
        places = self._by_author.get(author, {})
        taken = places.pop((seq, prev), [])
        for parked in taken:
            self._forget(parked)
        if not places:
            self._by_author.pop(author, None)
        return sorted(taken, key=lambda parked: parked.admitted.envelope.meta.id)

    def drop_branch(self, author: str, seq: int, prev: str) -> None:
        """Take out everything that waits behind ``prev``, which will never stand."""
        behind = [(seq, prev)]
        while behind:
            at, before = behind.pop()
            behind.extend((at + 1, parked.admitted.envelope.meta.id) for parked in self.take(author, at, before))

    def _forget(self, parked: Parked) -> None:
        envelope = parked.admitted.envelope
        del self._waiting[envelope.meta.id]
        self._shelves[parked.known].add(envelope.meta.from_, -1, -len(envelope.raw))

    def _remove(self, parked: Parked) -> None:
        meta = parked.admitted.envelope.meta
        places = self._by_author[meta.from_]
        places[(meta.seq, meta.prev)].remove(parked)
        if not places[(meta.seq, meta.prev)]:
            del places[(meta.seq, meta.prev)]
        if not places:
            del self._by_author[meta.from_]
        self._forget(parked)

    def seqs(self, author: str) -> set[int]:
        """The places that envelopes wait for."""
        return {seq for seq, _ in self._by_author.get(author, ())}

    def lowest_seq(self, author: str, above: int) -> int | None:
        """The lowest seq above ``above`` that waits."""
        return min((seq for seq, _ in self._by_author.get(author, {}) if seq > above), default=None)

    def expire(self, now_s: int) -> list[Parked]:
        """Take out what has waited longer than the time to live."""
        expired = []
        while self._waiting:
            parked = next(iter(self._waiting.values()))
            if parked.parked_at_s >= now_s - self._ttl_s:
                break
            self._remove(parked)
            expired.append(parked)
        return expired


def _seq_of(parked: Parked) -> int:
    return parked.admitted.envelope.meta.seq
