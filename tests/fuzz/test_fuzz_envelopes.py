"""Envelopes, changed in every way: admitted exactly when a second implementation admits them, refused by name."""

from __future__ import annotations

import json
from itertools import count
from random import Random

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import IGNORED, Admitted
from crabnet.protocol.canonical import JsonObject, JsonRefusedError, canonical_bytes, parse_object
from crabnet.protocol.envelope import FEED_KINDS, Kind, seal
from tests.fuzz import reference
from tests.fuzz.budget import Spent, fuzz, long_and_short
from tests.fuzz.mutation import mutate_bytes, mutate_tree, parts, spell
from tests.hostile.case import rehash, resign
from tests.support.branches import Branches
from tests.support.envelopes import NOW_S, Author, admission, signer

AUTHOR = Author("fuzzer")
DECLARED = frozenset(
    {
        *(Reason.EMPTY, Reason.TOO_LARGE, Reason.MALFORMED, Reason.MISSING_SIGNATURE, Reason.UNSUPPORTED_VERSION),
        *(Reason.WRONG_NAMESPACE, Reason.UNKNOWN_KIND, Reason.EXPIRED, Reason.FROM_THE_FUTURE, Reason.WRONG_ID),
        *(Reason.UNKNOWN_ALGORITHM, Reason.UNKNOWN_KEY, Reason.BAD_SIGNATURE),
    }
)
"""Steps 2 to 12 of the verification, without those that need a memory."""


def valid() -> list[bytes]:
    """Envelopes of every kind."""
    found = [envelope.raw for envelope in Branches(Random(1)).tell(40)]
    talk: dict[Kind, JsonObject] = {
        Kind.NODE_HELLO: {"identity": {"node_id": AUTHOR.id, "alias": "a"}, "challenge": "c", "echo": ""},
        Kind.FEED_HEADS: {"heads": [[AUTHOR.id, 5, "0" * 64], [AUTHOR.id, 0, "", 1]]},
        Kind.FEED_REQUEST: {"wants": [[AUTHOR.id, 1, 5]], "names": [["seed", "0" * 64]]},
    }
    for kind, payload in talk.items():
        found.append(seal(AUTHOR.signer, kind=kind, namespace="default", ts=NOW_S, nonce=1, payload=payload).raw)
    return found


VALID = valid()
KINDS = {json.loads(raw)["meta"]["kind"] for raw in VALID}
PARTS = [part for raw in VALID for part in parts(json.loads(raw))]


def hostile_envelope(rng: Random) -> bytes:
    """A valid envelope with a few changes, perhaps hashed or signed anew, in some spelling."""
    value = json.loads(rng.choice(VALID))
    for _ in range(rng.randrange(4)):
        value = mutate_tree(value, rng, PARTS)
    raw = spell(value, rng)
    choice = rng.randrange(4)
    if choice:
        try:
            again = json.dumps(value).encode()
            mine: JsonObject = {"from": AUTHOR.id, "key_id": AUTHOR.signer.key_id} if choice == 3 else {}
            again = rehash(again) if choice == 1 else resign(AUTHOR.signer, again, **mine)
            raw = spell(json.loads(again), rng)
        except (TypeError, KeyError, AttributeError, UnicodeError, ValueError):
            pass  # The changes have left nothing that could be signed.
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        raw = mutate_bytes(raw, rng)
    return raw


@long_and_short
def test_envelopes(seconds: float) -> None:
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def admits_what_the_reference_admits(rng: Random) -> None:
        raw = hostile_envelope(rng)
        try:
            reference.admit(raw, NOW_S)
            expected = True
        except reference.Refused:
            expected = False
        with spent.on(len(raw)):
            outcome = admission().admit(raw, NOW_S)
        assert isinstance(outcome, Admitted) is expected, (outcome, raw)
        if isinstance(outcome, Admitted):
            spent.outcomes["admitted"] += 1
        else:
            assert outcome.reason in DECLARED
            assert (outcome.outcome is Outcome.IGNORED) is (outcome.reason in IGNORED)
            spent.outcomes[outcome.reason] += 1
        numbers = count(1)
        core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
        effects = Effects()
        with spent.on(len(raw)):
            core.handle(Received("udp:192.0.2.1:1", raw), NOW_S * 1000, effects)
        assert len(effects.records) <= 1
        assert effects.notices or expected

    fuzz(seconds, admits_what_the_reference_admits, spent)
    assert spent.outcomes["admitted"] > spent.inputs / 100
    assert len(spent.outcomes) > 5


@long_and_short
def test_json(seconds: float) -> None:
    """Strict and canonical JSON, as the standard library and the reference encoder have it."""
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def reads_what_the_reference_reads(rng: Random) -> None:
        value = json.loads(rng.choice(VALID))
        for _ in range(rng.randrange(6)):
            value = mutate_tree(value, rng, PARTS)
        raw = spell(value, rng)
        for _ in range(rng.choice([0, 0, 1, 2])):
            raw = mutate_bytes(raw, rng)
        try:
            expected = reference.strict_object(raw)
        except reference.Refused:
            expected = None
        with spent.on(len(raw)):
            try:
                found, canonical = parse_object(raw)
            except JsonRefusedError:
                found, canonical = None, b""
        assert found == expected, raw
        spent.outcomes["refused" if found is None else "read"] += 1
        if found is not None:
            assert parse_object(canonical) == (found, canonical)
            assert canonical_bytes(found) == canonical
            if all(abs(integer) < 2**53 for integer in reference.integers(found)):
                assert canonical == rfc8785.dumps(found)

    fuzz(min(seconds, 20), reads_what_the_reference_reads, spent)
    assert min(spent.outcomes["read"], spent.outcomes["refused"]) > spent.inputs / 20


def test_there_is_one_of_every_kind_of_feed_envelope() -> None:
    assert KINDS >= FEED_KINDS


@pytest.mark.parametrize("raw", VALID)
def test_the_reference_admits_what_is_valid(raw: bytes) -> None:
    assert reference.admit(raw, NOW_S)
