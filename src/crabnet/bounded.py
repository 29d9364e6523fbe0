"""Bounded tables: what a node remembers of others, and may forget when there is too much of it.

Every table that strangers can fill is one of these, or keeps shares for classes of them and says so. Standard library
only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_NOTHING: Final = ()


class BoundedTable(Generic[K, V]):
    """Entries by key, of a weight of at most ``capacity`` together. An entry weighs 1 unless ``put`` says otherwise.

    One rule says what goes when there is no room: whatever was put or touched longest ago, entries that are held (in
    use) only after all others, and never the entry that the room is for. So what was put is there, whatever else is,
    and no number of new entries displaces a held one while any other is left. Only an entry that weighs more than
    ``capacity`` by itself is not kept.

    No operation raises for a key that is not there, and each costs the same however many entries there are or are held:
    nobody can make an insertion dear. Whoever has to settle something for what went finds it in the return value.

    Iteration is in the order in which entries would go. The table must not change meanwhile.
    """

    __slots__ = ("_free", "_held", "_overweight", "_weights", "capacity", "get")

    get: Callable[[K], V | None]
    """The value of a key, None if it is not there. Looking is no use: the order stays."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: OrderedDict[K, V] = OrderedDict()
        self.get = self._free.get  # until something is held: most tables hold nothing, and are asked all the time
        self._held: OrderedDict[K, V] = OrderedDict()
        self._weights: dict[K, int] = {}
        """Of entries that do not weigh 1."""
        self._overweight = 0
        """What these weigh beyond 1, together."""

    def __len__(self) -> int:
        return len(self._free) + len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._free or key in self._held

    def __iter__(self) -> Iterator[K]:
        return chain(self._free, self._held)

    @property
    def weight(self) -> int:
        """Of all entries together."""
        return len(self._free) + len(self._held) + self._overweight

    def items(self) -> Iterator[tuple[K, V]]:
        """(key, value)."""
        return chain(self._free.items(), self._held.items())

    def values(self) -> Iterator[V]:
        """All values."""
        return chain(self._free.values(), self._held.values())

    def put(self, key: K, value: V, weight: int = 1) -> Sequence[tuple[K, V]]:
        """Put an entry last, in place of what its key had; it stays held if it was.

        Returns what is not in the table for it: what had to go, or, if it is too heavy, itself.
        """
        free, held = self._free, self._held
        table = held if key in held else free
        table[key] = value
        table.move_to_end(key)
        if weight == 1 and not self._weights:  # most tables: one entry at most has to go, and this one is the last
            if len(free) + len(held) <= self.capacity:
                return _NOTHING
            if table is free and len(free) > 1:
                return (free.popitem(last=False),)
        return self.reweigh(key, weight)

    def offer(self, key: K, value: V, weight: int = 1) -> bool:
        """Put an entry last only if there is room beside all others; one that is there takes the value in its place.

        False if there is no room: then nothing has changed.
        """
        more = weight - (self._weights.get(key, 1) if key in self else 0)
        if self.weight + more > self.capacity:
            return False
        (self._held if key in self._held else self._free)[key] = value
        self._weigh(key, weight)
        return True

    def reweigh(self, key: K, weight: int) -> Sequence[tuple[K, V]]:
        """An entry has another weight now. Returns what had to go for it, or, if it is too heavy, itself."""
        if key not in self:
            return _NOTHING
        if weight > self.capacity:
            return self._take(key)
        self._weigh(key, weight)
        gone: list[tuple[K, V]] = []
        while self.weight > self.capacity:
            gone += self._take(next(each for each in self if each != key))
        return gone

    def _weigh(self, key: K, weight: int) -> None:
        self._overweight += weight - self._weights.pop(key, 1)
        if weight != 1:
            self._weights[key] = weight

    def _take(self, key: K) -> list[tuple[K, V]]:
        self._weigh(key, 1)
        return [(key, (self._free if key in self._free else self._held).pop(key))]

    def touch(self, key: K) -> None:
        """An entry was used: it is the last to go of those that are held, or of those that are not."""
        if key in self._free:
            self._free.move_to_end(key)
        elif key in self._held:
            self._held.move_to_end(key)

    def hold(self, key: K) -> None:
        """An entry is in use from now on: it goes after all that are not."""
        if key in self._free:
            self._held[key] = self._free.pop(key)
            self.get = self._get_either

    def _get_either(self, key: K) -> V | None:
        return self._held[key] if key in self._held else self._free.get(key)

    def release(self, key: K) -> None:
        """An entry was in use until now."""
        if key in self._held:
            self._free[key] = self._held.pop(key)

    def pop(self, key: K) -> V | None:
        """Take an entry out; None if it is not there."""
        return self._take(key)[0][1] if key in self else None

    def first(self) -> tuple[K, V] | None:
        """The entry that would go first, None if there is none."""
        return next(self.items(), None)

    def pop_first(self) -> tuple[K, V] | None:
        """Take out the entry that would go first."""
        first = self.first()
        if first is not None:
            self._take(first[0])
        return first

    def clear(self) -> None:
        """Take out all entries."""
        for table in (self._free, self._held, self._weights):
            table.clear()
        self._overweight = 0
