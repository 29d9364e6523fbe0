"""The bounded table against a naive one, and what an insertion costs."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crabnet.bounded import BoundedTable

KEYS = st.sampled_from("abcdefgh")
WEIGHTS = st.integers(1, 4)


class Naive:
    """A list of [key, value, weight, held], least recently used first, looked through for everything."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[tuple[str, int, int, bool]] = []

    def row(self, key: str) -> tuple[str, int, int, bool] | None:
        return next((row for row in self.rows if row[0] == key), None)

    def weight(self) -> int:
        return sum(row[2] for row in self.rows)

    def remove(self, key: str) -> None:
        self.rows = [row for row in self.rows if row[0] != key]

    def order(self) -> list[tuple[str, int, int, bool]]:
        return [row for row in self.rows if not row[3]] + [row for row in self.rows if row[3]]

    def make_room(self, key: str) -> list[tuple[str, int]]:
        row = self.row(key)
        if row is None:
            return []
        if row[2] > self.capacity:
            self.remove(key)
            return [row[:2]]
        gone = []
        while self.weight() > self.capacity:
            victim = next(each for each in self.order() if each[0] != key)
            self.remove(victim[0])
            gone.append(victim[:2])
        return gone


class Machine(RuleBasedStateMachine):
    """Every operation on both tables; every answer and the whole order are compared."""

    @initialize(capacity=st.integers(0, 6))
    def begin(self, capacity: int) -> None:
        self.table: BoundedTable[str, int] = BoundedTable(capacity)
        self.naive = Naive(capacity)
        self.values = 0

    def value(self) -> int:
        self.values += 1
        return self.values

    @rule(key=KEYS, weight=WEIGHTS)
    def put(self, key: str, weight: int) -> None:
        value = self.value()
        old = self.naive.row(key)
        self.naive.remove(key)
        self.naive.rows.append((key, value, weight, old is not None and old[3]))
        gone = self.naive.make_room(key)
        assert list(self.table.put(key, value, weight)) == gone
        assert (key in self.table) == (weight <= self.naive.capacity)

    @rule(key=KEYS)
    def put_one(self, key: str) -> None:
        self.put(key, 1)

    @rule(key=KEYS, weight=WEIGHTS)
    def offer(self, key: str, weight: int) -> None:
        value = self.value()
        old = self.naive.row(key)
        fits = self.naive.weight() - (0 if old is None else old[2]) + weight <= self.naive.capacity
        if fits and old is None:
            self.naive.rows.append((key, value, weight, False))
        elif fits and old is not None:
            self.naive.rows[self.naive.rows.index(old)] = (key, value, weight, old[3])
        assert self.table.offer(key, value, weight) is fits

    @rule(key=KEYS, weight=WEIGHTS)
    def reweigh(self, key: str, weight: int) -> None:
        old = self.naive.row(key)
        if old is not None:
            self.naive.rows[self.naive.rows.index(old)] = (*old[:2], weight, old[3])
        assert list(self.table.reweigh(key, weight)) == self.naive.make_room(key)

    @rule(key=KEYS)
    def touch(self, key: str) -> None:
        old = self.naive.row(key)
        if old is not None:
            self.naive.remove(key)
            self.naive.rows.append(old)
        self.table.touch(key)

    @rule(key=KEYS, held=st.booleans())
    def hold_or_release(self, key: str, held: bool) -> None:
        old = self.naive.row(key)
        if old is not None and old[3] != held:
            self.naive.remove(key)
            self.naive.rows.append((*old[:3], held))
        if held:
            self.table.hold(key)
        else:
            self.table.release(key)

    @rule(key=KEYS)
    def pop(self, key: str) -> None:
        old = self.naive.row(key)
        self.naive.remove(key)
        assert self.table.pop(key) == (None if old is None else old[1])

    @rule()
    def pop_first(self) -> None:
        first = next(iter(self.naive.order()), None)
        if first is not None:
            self.naive.remove(first[0])
        assert self.table.first() == self.table.pop_first() == (None if first is None else first[:2])

    @rule()
    def clear(self) -> None:
        self.naive.rows.clear()
        self.table.clear()

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "table"):
            return
        order = self.naive.order()
        assert list(self.table.items()) == [row[:2] for row in order]
        assert list(self.table) == [row[0] for row in order]
        assert list(self.table.values()) == [row[1] for row in order]
        assert len(self.table) == len(order)
        assert self.table.weight == self.naive.weight() <= self.naive.capacity
        for key in "abcdefgh":
            row = self.naive.row(key)
            assert self.table.get(key) == (None if row is None else row[1])
            assert (key in self.table) is (row is not None)


TestAgainstNaive = Machine.TestCase


class Key:
    """A key that counts how often keys are hashed or compared: what an operation does, whatever the machine."""

    looks = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        Key.looks += 1
        return self.number

    def __eq__(self, other: object) -> bool:
        Key.looks += 1
        return isinstance(other, Key) and self.number == other.number


@pytest.mark.parametrize("held_of_four", [0, 3, 4])
def test_an_insertion_looks_at_as_many_keys_in_a_large_table_as_in_a_small_one(held_of_four: int) -> None:
    looks = []
    for capacity in (16, 4_096):
        table: BoundedTable[Key, int] = BoundedTable(capacity)
        for number in range(capacity):
            table.put(Key(number), number)
            if number % 4 < held_of_four:
                table.hold(Key(number))
        Key.looks = 0
        for number in range(16):
            newcomer = Key(capacity + number)
            assert len(table.put(newcomer, number)) == 1
            table.hold(newcomer)
        looks.append(Key.looks)
    assert looks[1] <= looks[0]
