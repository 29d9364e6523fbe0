"""Verified envelopes that wait: for those before them in their feed, or for what they rest on. Bounded, fair between
authors, with a time to live.

Known authors and newcomers have a shelf each, so that fresh identities displace one another only. When a shelf is full,
the author that takes most of it gives up its last envelope for one that takes less. Whatever is given up is counted,
and sync brings it again.
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
    """An envelope that waits, since when, where it came from, and whether its author was known then.

    ``lacks`` is what it waits for if that is an envelope that it names.
    """

    admitted: Admitted
    parked_at_s: int
    source: str
    known: bool = True
    lacks: Named | None = None


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

    @property
    def crowded(self) -> bool:
        """True if more than half of the room is taken."""
        return self.count > limits.PARKED_ENVELOPES_MAX // 4 or self.bytes > limits.PARKED_BYTES_MAX // 4

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
    """Parked envelopes by author and place, and by what they rest on."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._by_author: dict[str, dict[int, list[Parked]]] = {}
        self._waiting: OrderedDict[str, Parked] = OrderedDict()
        self._lacking: dict[str, dict[str, dict[str, Parked]]] = {}
        """What waits, by the envelope that it rests on and the seed that it says that to be about. Who names one about
        another seed than it is about waits in vain, alone.
        """
        self._shelves = {True: _Shelf(), False: _Shelf()}
        self._evicted: list[Parked] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Bytes of all envelopes that wait."""
        return sum(shelf.bytes for shelf in self._shelves.values())

    @property
    def crowded(self) -> bool:
        """True if room is short, for known authors or for newcomers."""
        return any(shelf.crowded for shelf in self._shelves.values())

    def holds(self, envelope_id: str) -> bool:
        """True if this very envelope waits here."""
        return envelope_id in self._waiting

    @property
    def any_lacking(self) -> bool:
        """True if anything waits for what it rests on."""
        return bool(self._lacking)

    def names(self, envelope_id: str) -> bool:
        """True if something that waits rests on this envelope, whatever that is about."""
        return envelope_id in self._lacking

    def lacks_named(self, named: Named) -> bool:
        """True if something that waits rests on this envelope about this seed."""
        return named.seed_id in self._lacking.get(named.envelope_id, {})

    def lacks(self, envelope_id: str) -> Named | None:
        """What an envelope that waits here rests on, if that is what it lacks."""
        parked = self._waiting.get(envelope_id)
        return None if parked is None else parked.lacks

    def lacks_of(self, author: str) -> list[tuple[int, Named]]:
        """(seq, what it rests on) of an author's envelopes that lack that."""
        parkeds = (parked for parkeds in self._by_author.get(author, {}).values() for parked in parkeds)
        return [(_seq_of(parked), parked.lacks) for parked in parkeds if parked.lacks is not None]

    def last_named(self, author: str) -> int:
        """The last place of an author's feed at which something waits that others rest on, 0 if there is none."""
        places = self._by_author.get(author, {})
        named = [at for at, parkeds in places.items() if any(_id_of(parked) in self._lacking for parked in parkeds)]
        return max(named, default=0)

    def voucher(self, author: str, seq: int, envelope_id: str, knows: Callable[[str], bool]) -> str | None:
        """An author that is known and waits, in the end, for this envelope or for one that comes after it.

        Looks at a bounded number of those that wait; at none while no author waits that was known when it began to.
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
        """What others rest on and is not held, and where those came from."""
        return [
            (Named(seed_id, envelope_id), list(dict.fromkeys(parked.source for parked in parkeds.values())))
            for envelope_id, by_seed in self._lacking.items()
            for seed_id, parkeds in by_seed.items()
        ]

    def put(
        self, admitted: Admitted, now_s: int, source: str, *, known: bool = True, lacks: Named | None = None
    ) -> bool:
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
        parked = Parked(admitted, now_s, source, known, lacks)
        self._by_author.setdefault(meta.from_, {}).setdefault(meta.seq, []).append(parked)
        self._waiting[meta.id] = parked
        if lacks is not None:
            self._lacking.setdefault(lacks.envelope_id, {}).setdefault(lacks.seed_id, {})[meta.id] = parked
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

    def rival(self, author: str, seq: int, envelope_id: str) -> Parked | None:
        """Another envelope for the same place: the two prove a fork."""
        parkeds = self._by_author.get(author, {}).get(seq, ())
        return next((parked for parked in parkeds if parked.admitted.envelope.meta.id != envelope_id), None)

    def take_next(self, author: str, seq: int) -> list[Parked]:
        """Take out what wants to stand at ``seq`` and lacks nothing else."""
        return self._take(parked for parked in self._by_author.get(author, {}).get(seq, ()) if parked.lacks is None)

    def take_lacking(self, named: Named) -> list[Parked]:
        """Take out what waited for this envelope about this seed."""
        return self._take(self._lacking.get(named.envelope_id, {}).get(named.seed_id, {}).values())

    def take_behind(self, author: str, seq: int) -> list[Parked]:
        """Take out all of an author's from ``seq`` on."""
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
        """The places that envelopes wait for."""
        return self._by_author.get(author, {}).keys()

    def lacks_parent(self, author: str, seq: int) -> bool:
        """True if what waits for this place lacks only what it rests on."""
        return any(parked.lacks is not None for parked in self._by_author.get(author, {}).get(seq, ()))

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


def _id_of(parked: Parked) -> str:
    return parked.admitted.envelope.meta.id


def _seq_of(parked: Parked) -> int:
    return parked.admitted.envelope.meta.seq
