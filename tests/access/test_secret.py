"""Secrets of tokens: their form, their check digits, and which ones a person may choose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.access.secret import SECRET_BYTES, demand_secret, digest_of, is_mistyped, make_secret
from crabnet.errors import UsageError

FORM = re.compile(r"crab_[0-9A-Za-z]{49}")
RANDOM = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


@given(RANDOM, RANDOM)
def test_a_secret_has_one_form_and_holds_all_its_bits(one: bytes, other: bytes) -> None:
    secret = make_secret(lambda size: one[:size])
    assert FORM.fullmatch(secret)
    assert not is_mistyped(secret)
    assert demand_secret(secret) == secret
    assert (make_secret(lambda size: other[:size]) == secret) == (one == other)


def test_the_extremes_fit() -> None:
    assert FORM.fullmatch(make_secret(lambda size: b"\x00" * size))
    assert FORM.fullmatch(make_secret(lambda size: b"\xff" * size))


def test_secrets_differ() -> None:
    assert len({make_secret() for _ in range(100)}) == 100


@given(RANDOM, st.integers(5, 53), st.sampled_from("0aZ"))
def test_a_changed_character_is_recognised(random: bytes, at: int, character: str) -> None:
    secret = make_secret(lambda _: random)
    changed = secret[:at] + character + secret[at + 1 :]
    assert is_mistyped(changed) == (changed != secret)
    assert is_mistyped(secret[:at])
    assert is_mistyped(secret + character)


@pytest.mark.parametrize(
    "secret",
    ["", "x" * (limits.SECRET_CHARS_MIN - 1), "x" * (limits.SECRET_CHARS_MAX + 1), "ä" * 40, "x y" * 20, "\x00" * 40],
)
def test_what_no_secret_may_be(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        demand_secret(secret)
    assert not secret or secret not in caught.value.message


def test_a_mistyped_secret_is_refused_and_not_repeated() -> None:
    mistyped = make_secret()[:-1] + "-"
    with pytest.raises(UsageError, match="check digits") as caught:
        demand_secret(mistyped)
    assert mistyped not in caught.value.message


def test_texts_that_utf8_cannot_carry_have_a_digest() -> None:
    assert len(digest_of("\ud800")) == 64
