"""A snapshot is hashed later, in slices, and has the hash of the moment it was taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.envelope import Kind
from tests.support.envelopes import NOW_S, Author


def replica() -> Replica:
    return Replica(AdmissionPolicy(), seen_ttl_s=10, seen_capacity=100, parked_ttl_s=10)


def said(count: int) -> list[bytes]:
    authors = [Author(name) for name in ("alice", "bob", "carol")]
    raws = []
    for at in range(count):
        author = authors[at % len(authors)]
        raws.append(author.say(Kind.SEED_CREATED, {"seed": author.seed()}).raw)
    return raws


RAWS = said(24)


@given(hashed=st.integers(0, 12), taken=st.integers(0, 12), later=st.integers(0, 12), slice_size=st.integers(1, 5))
def test_the_hash_is_that_of_the_moment(hashed: int, taken: int, later: int, slice_size: int) -> None:
    live = replica()
    given_raws = iter(RAWS)

    def take(count: int) -> None:
        for _ in range(min(count, len(RAWS))):
            raw = next(given_raws, None)
            if raw is not None:
                live.receive(raw, NOW_S)

    take(hashed)
    live.state_hash()
    take(taken)
    snapshot = Snapshot(live)
    twin = replica()
    for raw in RAWS[: hashed + taken]:
        twin.receive(raw, NOW_S)
    while snapshot.hash_some(slice_size):
        take(1)
    take(later)
    assert snapshot.state_hash == twin.state_hash()
    restored = replica()
    restore(restored, snapshot.rows())
    assert restored.state_hash() == twin.state_hash()


@pytest.mark.parametrize("hash_first", [True, False])
def test_taking_a_snapshot_leaves_the_live_hash_alone(hash_first: bool) -> None:
    live, twin = replica(), replica()
    for raw in RAWS[:12]:
        live.receive(raw, NOW_S)
        twin.receive(raw, NOW_S)
    snapshot = Snapshot(live)
    if hash_first:
        assert snapshot.state_hash == twin.state_hash()
    for raw in RAWS[12:]:
        live.receive(raw, NOW_S)
        twin.receive(raw, NOW_S)
    assert live.state_hash() == twin.state_hash()
    assert snapshot.state_hash != live.state_hash()
