"""Signatures checked with several threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crabnet.node.network.verifier import ParallelVerifier
from crabnet.protocol.identity import SignedBytes
from tests.support.envelopes import signer

ALICE, BOB = signer("alice"), signer("bob")
GENUINE = [SignedBytes(each.public_key, b"%d" % at, each.sign(b"%d" % at)) for each in (ALICE, BOB) for at in range(9)]
FORGED = [each._replace(content=each.content + b"!") for each in GENUINE]


@pytest.fixture(scope="module")
def verifier() -> Iterator[ParallelVerifier]:
    made = ParallelVerifier()
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signed=st.lists(st.sampled_from([*GENUINE, *FORGED]), max_size=40))
def test_answers_are_in_the_order_of_the_questions(verifier: ParallelVerifier, signed: list[SignedBytes]) -> None:
    assert verifier(signed) == [each in GENUINE for each in signed]
