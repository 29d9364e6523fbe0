"""Bounded tables: what a node remembers about others, and may forget when a table is full.

Every table that strangers can fill is a ``BoundedTable``. Otherwise it reserves shares for classes of entries, and its
docstring says so. Uses only the standard library.
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
    """Entries by key, whose total weight is at most ``capacity``. An entry weighs 1 unless ``put`` says otherwise.

    One rule decides which entry is evicted if there is no room: the entry that was put or touched longest ago. Held
    entries (in use) are evicted only after all others, and the entry that needs the room is never evicted. So an entry
    that was just put is always in the table, and new entries never evict a held one while any other is left. The only
    exception is an entry that alone weighs more than ``capacity``: it is not kept.

    No operation raises for a missing key. Each costs the same, however many entries the table has or holds, so nobody
    can make an insertion expensive. The evicted entries are in the return value, for callers that must clean up.

    Iteration is in the order of eviction. The table must not change during iteration.
    """

    __slots__ = ("_free", "_held", "_overweight", "_weights", "capacity", "get")

    get: Callable[[K], V | None]
    """The value of a key, or None. It does not count as a use: the order stays the same."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: OrderedDict[K, V] = OrderedDict()
        self.get = self._free.get  # until an entry is held: most tables never hold one, and are read all the time
        self._held: OrderedDict[K, V] = OrderedDict()
        self._weights: dict[K, int] = {}
        """Weights of the entries that do not weigh 1."""
        self._overweight = 0
        """The sum of what these weigh beyond 1."""

    def __len__(self) -> int:
        return len(self._free) + len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._free or key in self._held

    def __iter__(self) -> Iterator[K]:
        return chain(self._free, self._held)

    @property
    def weight(self) -> int:
        """The total weight of all entries."""
        return len(self._free) + len(self._held) + self._overweight

    def items(self) -> Iterator[tuple[K, V]]:
        """All pairs (key, value)."""
        return chain(self._free.items(), self._held.items())

    def values(self) -> Iterator[V]:
        """All values."""
        return chain(self._free.values(), self._held.values())

    def put(self, key: K, value: V, weight: int = 1) -> Sequence[tuple[K, V]]:
        """Put an entry last. It replaces the value of its key, and it stays held if it was held.

        Returns the evicted entries, or the new entry itself if it is too heavy.
        """
        free, held = self._free, self._held
        table = held if key in held else free
        table[key] = value
        table.move_to_end(key)
        if weight == 1 and not self._weights:  # most tables: at most one entry is evicted, and the new one is the last
            if len(free) + len(held) <= self.capacity:
                return _NOTHING
            if table is free and len(free) > 1:
                return (free.popitem(last=False),)
        return self.reweigh(key, weight)

    def offer(self, key: K, value: V, weight: int = 1) -> bool:
        """Put an entry last only if there is room besides all others. An existing entry gets the value, and keeps its
        place.

        Returns False, and changes nothing, if there is no room.
        """
        more = weight - (self._weights.get(key, 1) if key in self else 0)
        if self.weight + more > self.capacity:
            return False
        (self._held if key in self._held else self._free)[key] = value
        self._weigh(key, weight)
        return True

    def reweigh(self, key: K, weight: int) -> Sequence[tuple[K, V]]:
        """Change the weight of an entry. Returns the evicted entries, or the entry itself if it is too heavy."""
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
        """An entry was used. It becomes the last to be evicted among the held or among the other entries."""
        if key in self._free:
            self._free.move_to_end(key)
        elif key in self._held:
            self._held.move_to_end(key)

    def hold(self, key: K) -> None:
        """An entry is in use from now on. It is evicted only after all that are not held."""
        if key in self._free:
            self._held[key] = self._free.pop(key)
            self.get = self._get_either

    def _get_either(self, key: K) -> V | None:
        return self._held[key] if key in self._held else self._free.get(key)

    def release(self, key: K) -> None:
        """An entry is no longer in use."""
        if key in self._held:
            self._free[key] = self._held.pop(key)

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value; None if there is none."""
        return self._take(key)[0][1] if key in self else None

    def first(self) -> tuple[K, V] | None:
        """The entry that would be evicted first; None if there is none."""
        return next(self.items(), None)

    def pop_first(self) -> tuple[K, V] | None:
        """Remove and return the entry that would be evicted first."""
        first = self.first()
        if first is not None:
            self._take(first[0])
        return first

    def clear(self) -> None:
        """Remove all entries."""
        for table in (self._free, self._held, self._weights):
            table.clear()
        self._overweight = 0
