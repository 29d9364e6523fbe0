"""The hash of a set does not depend on the order or the way in which the set was made."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.accumulator import Accumulator

ELEMENTS = st.lists(st.binary(max_size=8), max_size=8)


def over(elements: list[bytes]) -> Accumulator:
    """An accumulator with these elements."""
    accumulator = Accumulator()
    for element in elements:
        accumulator.add(element)
    return accumulator


@given(ELEMENTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(elements: list[bytes], random: object) -> None:
    shuffled = list(elements)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert over(shuffled).digest() == over(elements).digest()


@given(ELEMENTS, ELEMENTS)
def test_what_is_added_and_removed_leaves_no_trace(kept: list[bytes], gone: list[bytes]) -> None:
    accumulator = Accumulator()
    for element in gone[:1] + kept + gone[1:]:
        accumulator.add(element)
    for element in reversed(gone):
        accumulator.remove(element)
    assert accumulator.value() == over(kept).value()
    assert accumulator.digest() == over(kept).digest()


@given(ELEMENTS, ELEMENTS)
def test_it_goes_on_from_its_number(first: list[bytes], second: list[bytes]) -> None:
    resumed = Accumulator(over(first).value())
    for element in second:
        resumed.add(element)
    assert resumed.digest() == over(first + second).digest()


@given(ELEMENTS, ELEMENTS)
def test_other_sets_have_other_hashes(one: list[bytes], other: list[bytes]) -> None:
    assert (over(one).digest() == over(other).digest()) == (sorted(one) == sorted(other))


def test_the_formula_is_that_of_the_document() -> None:
    prime = 2**3072 - 1103717
    product = 1
    for element in (b"a", b"", b"a"):
        product = product * int.from_bytes(hashlib.shake_256(element).digest(384), "big") % prime
    assert over([b"a", b"", b"a"]).value() == product
    assert over([b"a", b"", b"a"]).digest() == hashlib.sha256(product.to_bytes(384, "big")).digest()
    assert Accumulator().digest() == hashlib.sha256((1).to_bytes(384, "big")).digest()


def test_an_element_counts_as_often_as_it_is_added() -> None:
    assert len({over([b"a"] * times).digest() for times in range(4)}) == 4
