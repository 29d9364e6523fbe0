"""Parked envelopes: verified ones that wait for earlier ones of their feed, or for the envelope that they rest on.

Parking is bounded, fair between authors, and has a time to live. Known authors and newcomers have a shelf each, so that
new identities evict only one another. When a shelf is full, the author with the most on it loses its last envelope to
an author with less. Evicted envelopes are reported, and sync brings them again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, KeysView
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.protocol.admission import Admitted
from crabnet.protocol.sync import Named

_BYTES_PER_LEVEL: Final = limits.PARKED_BYTES_PER_FEED_MAX // limits.PARKED_ENVELOPES_PER_FEED_MAX


class Parked(NamedTuple):
    """A parked envelope, since when it waits, its source, and whether its author was known then.

    ``lacks`` is the envelope that it rests on, if it waits for that.
    """

    admitted: Admitted
    parked_at_s: int
    source: str
    known: bool = True
    lacks: Named | None = None


class _Held:
    """The number and bytes of the envelopes of one author on a shelf."""

    __slots__ = ("bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0

    def level(self, count: int = 0, size: int = 0) -> int:
        """How much of an author's share is used, in units of one envelope's share."""
        return max(self.count + count, -(-(self.bytes + size) // _BYTES_PER_LEVEL))


class _Shelf:
    """The use of one half of the room, by author. ``_levels[n]`` are the authors at level n."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._held: dict[str, _Held] = {}
        self._levels: list[dict[str, None]] = [{} for _ in range(limits.PARKED_ENVELOPES_PER_FEED_MAX + 2)]

    def fits_author(self, author: str, size: int) -> bool:
        """True if the author's own share has room for one more envelope."""
        return (self._held.get(author) or _Held()).level(1, size) <= limits.PARKED_ENVELOPES_PER_FEED_MAX

    def has_room(self, size: int) -> bool:
        """True if the shelf has room for one more envelope of ``size`` bytes."""
        return self.count < limits.PARKED_ENVELOPES_MAX // 2 and self.bytes + size <= limits.PARKED_BYTES_MAX // 2

    @property
    def crowded(self) -> bool:
        """True if more than half of the room is used."""
        return self.count > limits.PARKED_ENVELOPES_MAX // 4 or self.bytes > limits.PARKED_BYTES_MAX // 4

    def greedier_than(self, author: str, size: int) -> str | None:
        """The author that uses most, if that is more than this author would use with one more envelope. Else None."""
        own = (self._held.get(author) or _Held()).level(1, size)
        for level in range(len(self._levels) - 1, own, -1):
            for other in self._levels[level]:
                return other
        return None

    def add(self, author: str, count: int, size: int) -> None:
        """Add envelopes to the counts. Negative numbers remove them."""
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
    """Parked envelopes by author and place, and by the envelope that they rest on."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._by_author: dict[str, dict[int, list[Parked]]] = {}
        self._waiting: OrderedDict[str, Parked] = OrderedDict()
        self._lacking: dict[str, dict[str, dict[str, Parked]]] = {}
        """Parked envelopes by the envelope that they rest on and by their seed.

        An envelope that names one about another seed waits until it expires. It delays no other.
        """
        self._shelves = {True: _Shelf(), False: _Shelf()}
        self._evicted: list[Parked] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Bytes of all parked envelopes."""
        return sum(shelf.bytes for shelf in self._shelves.values())

    @property
    def crowded(self) -> bool:
        """True if room is short, for known authors or for newcomers."""
        return any(shelf.crowded for shelf in self._shelves.values())

    def holds(self, envelope_id: str) -> bool:
        """True if this envelope is parked."""
        return envelope_id in self._waiting

    @property
    def any_lacking(self) -> bool:
        """True if any envelope waits for the one that it rests on."""
        return bool(self._lacking)

    def names(self, envelope_id: str) -> bool:
        """True if a parked envelope rests on this envelope, about any seed."""
        return envelope_id in self._lacking

    def lacks_named(self, named: Named) -> bool:
        """True if a parked envelope rests on this envelope about this seed."""
        return named.seed_id in self._lacking.get(named.envelope_id, {})

    def lacks(self, envelope_id: str) -> Named | None:
        """The envelope for which a parked envelope waits because it rests on it, or None."""
        parked = self._waiting.get(envelope_id)
        return None if parked is None else parked.lacks

    def lacks_of(self, author: str) -> list[tuple[int, Named]]:
        """(seq, envelope that it rests on) for the author's envelopes that wait for that envelope."""
        parkeds = (parked for parkeds in self._by_author.get(author, {}).values() for parked in parkeds)
        return [(_seq_of(parked), parked.lacks) for parked in parkeds if parked.lacks is not None]

    def last_named(self, author: str) -> int:
        """The last place of an author's feed with a parked envelope on which others rest, 0 if there is none."""
        places = self._by_author.get(author, {})
        named = [at for at, parkeds in places.items() if any(_id_of(parked) in self._lacking for parked in parkeds)]
        return max(named, default=0)

    def voucher(self, author: str, seq: int, envelope_id: str, knows: Callable[[str], bool]) -> str | None:
        """A known author with a parked envelope that waits, directly or not, for this one or a later one of its feed.

        This reads a bounded number of parked envelopes. It reads none if no parked envelope is of an author that was
        known when it was parked.
        """
        if not self._lacking or not self._shelves[True].count:
            return None
        left = limits.PARKED_VOUCHERS_LOOKED_AT_MAX
        seen: set[str] = set()
        waiting = [(author, seq, envelope_id)]
        while waiting and left > 0:
            author, seq, envelope_id = waiting.pop()
            later = [parkeds for at, parkeds in self._by_author.get(author, {}).items() if at > seq]
            ids = [envelope_id, *(_id_of(parked) for parkeds in later for parked in parkeds)]
            left -= len(ids)
            for child in (child for each in ids for child in self._children(each)):
                meta = child.admitted.envelope.meta
                if knows(meta.from_):
                    return meta.from_
                if meta.id not in seen:
                    seen.add(meta.id)
                    waiting.append((meta.from_, meta.seq, meta.id))
        return None

    def _children(self, envelope_id: str) -> Iterator[Parked]:
        for parkeds in self._lacking.get(envelope_id, {}).values():
            yield from parkeds.values()

    def lacking(self) -> list[tuple[Named, list[str]]]:
        """The envelopes that parked ones rest on and that are not held, with the sources of the parked ones."""
        return [
            (Named(seed_id, envelope_id), list(dict.fromkeys(parked.source for parked in parkeds.values())))
            for envelope_id, by_seed in self._lacking.items()
            for seed_id, parkeds in by_seed.items()
        ]

    def put(
        self, admitted: Admitted, now_s: int, source: str, *, known: bool = True, lacks: Named | None = None
    ) -> bool:
        """Park an envelope. Returns False if there is no room. ``take_evicted`` returns the evicted envelopes."""
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
        parked = Parked(admitted, now_s, source, known, lacks)
        self._by_author.setdefault(meta.from_, {}).setdefault(meta.seq, []).append(parked)
        self._waiting[meta.id] = parked
        if lacks is not None:
            self._lacking.setdefault(lacks.envelope_id, {}).setdefault(lacks.seed_id, {})[meta.id] = parked
        shelf.add(meta.from_, 1, size)
        return True

    def _evict_after(self, author: str, seq: int, *, known: bool) -> bool:
        """Evict the last envelope of an author. Returns False if it has none after ``seq``."""
        parkeds = (parked for parkeds in self._by_author.get(author, {}).values() for parked in parkeds)
        last = max((parked for parked in parkeds if parked.known is known), key=_seq_of, default=None)
        if last is None or _seq_of(last) <= seq:
            return False
        self._remove(last)
        self._evicted.append(last)
        return True

    def take_evicted(self) -> list[Parked]:
        """The envelopes that were evicted since the last call."""
        if not self._evicted:
            return []
        evicted, self._evicted = self._evicted, []
        return evicted

    def rival(self, author: str, seq: int, envelope_id: str) -> Parked | None:
        """Another parked envelope for the same place, or None. The two prove a fork."""
        parkeds = self._by_author.get(author, {}).get(seq, ())
        return next((parked for parked in parkeds if parked.admitted.envelope.meta.id != envelope_id), None)

    def take_next(self, author: str, seq: int) -> list[Parked]:
        """Remove and return the envelopes for place ``seq`` that wait for nothing else."""
        return self._take(parked for parked in self._by_author.get(author, {}).get(seq, ()) if parked.lacks is None)

    def take_lacking(self, named: Named) -> list[Parked]:
        """Remove and return the envelopes that rest on this envelope about this seed."""
        return self._take(self._lacking.get(named.envelope_id, {}).get(named.seed_id, {}).values())

    def take_behind(self, author: str, seq: int) -> list[Parked]:
        """Remove and return all envelopes of an author from ``seq`` on."""
        places = self._by_author.get(author, {})
        return self._take(parked for at in sorted(places) if at >= seq for parked in places[at])

    def _take(self, parkeds: Iterable[Parked]) -> list[Parked]:
        taken = list(parkeds)
        for parked in taken:
            self._remove(parked)
        return taken

    def _remove(self, parked: Parked) -> None:
        envelope = parked.admitted.envelope
        meta = envelope.meta
        places = self._by_author[meta.from_]
        places[meta.seq].remove(parked)
        if not places[meta.seq]:
            del places[meta.seq]
        if not places:
            del self._by_author[meta.from_]
        if parked.lacks is not None:
            by_seed = self._lacking[parked.lacks.envelope_id]
            same = by_seed[parked.lacks.seed_id]
            del same[meta.id]
            if not same:
                del by_seed[parked.lacks.seed_id]
            if not by_seed:
                del self._lacking[parked.lacks.envelope_id]
        del self._waiting[meta.id]
        self._shelves[parked.known].add(meta.from_, -1, -len(envelope.raw))

    def seqs(self, author: str) -> KeysView[int]:
        """The places of an author's parked envelopes."""
        return self._by_author.get(author, {}).keys()

    def lacks_parent(self, author: str, seq: int) -> bool:
        """True if a parked envelope for this place waits for the envelope that it rests on."""
        return any(parked.lacks is not None for parked in self._by_author.get(author, {}).get(seq, ()))

    def expire(self, now_s: int) -> list[Parked]:
        """Remove and return the envelopes that have waited longer than the time to live."""
        expired = []
        while self._waiting:
            parked = next(iter(self._waiting.values()))
            if parked.parked_at_s >= now_s - self._ttl_s:
                break
            self._remove(parked)
            expired.append(parked)
        return expired


def _id_of(parked: Parked) -> str:
    return parked.admitted.envelope.meta.id


def _seq_of(parked: Parked) -> int:
    return parked.admitted.envelope.meta.seq
