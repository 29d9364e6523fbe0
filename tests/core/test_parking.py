"""Parking: bounded in all, fair between authors, with a time to live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.parking import Parking
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind

TTL_S = 60
PER_FEED = limits.PARKED_ENVELOPES_PER_FEED_MAX
SHELF = limits.PARKED_ENVELOPES_MAX // 2


def parked(author: str, seq: int, size: int = 100) -> Admitted:
    """An envelope that passed all checks, as far as parking looks at it."""
    meta = EnvelopeMeta(
        id=f"{author}/{seq}", from_=author, kind="BidSubmitted", ts=0, nonce=0, seq=seq, prev=f"{author}/{seq - 1}"
    )
    return Admitted(Envelope(meta, {}, b"x" * size, b"x" * size), Kind.BID_SUBMITTED)


def fill(parking: Parking, author: str, count: int, *, size: int = 100, known: bool = True, first: int = 10) -> int:
    return sum(parking.put(parked(author, first + number, size), 0, "s", known=known) for number in range(count))


def test_one_author_gets_its_share_and_no_more() -> None:
    parking = Parking(TTL_S)
    assert fill(parking, "a", PER_FEED + 10) == PER_FEED
    assert fill(parking, "b", 5) == 5


def test_large_envelopes_count_as_many() -> None:
    parking = Parking(TTL_S)
    assert fill(parking, "a", 100, size=limits.ENVELOPE_BYTES_MAX) == 8
    assert parking.bytes == limits.PARKED_BYTES_PER_FEED_MAX


def test_when_full_the_greediest_gives_up_its_last_for_the_modest() -> None:
    parking = Parking(TTL_S)
    for number in range(SHELF // PER_FEED):
        assert fill(parking, f"greedy {number}", PER_FEED) == PER_FEED
    assert len(parking) == SHELF
    assert parking.put(parked("modest", 5), 0, "s")
    assert len(parking) == SHELF
    [gone] = parking.take_evicted()
    assert gone.admitted.envelope.meta.seq == 10 + PER_FEED - 1
    assert parking.take_evicted() == []
    assert not parking.holds(gone.admitted.envelope.meta.id)
    assert not parking.put(parked("greedy 5", 1_000), 0, "s"), "the greedy displace nobody"


def test_what_is_needed_first_displaces_what_its_author_needs_later() -> None:
    """News from the end of a long feed must not take the place of what was asked for to get there."""
    parking = Parking(TTL_S)
    assert fill(parking, "a", PER_FEED, first=1_000) == PER_FEED

    assert fill(parking, "a", 10, first=5) == 10

    gone = {each.admitted.envelope.meta.seq for each in parking.take_evicted()}
    assert gone == set(range(1_000 + PER_FEED - 10, 1_000 + PER_FEED))
    assert not parking.put(parked("a", 2_000), 0, "s")
    assert parking.take_evicted() == []


def test_equals_displace_but_themselves() -> None:
    parking = Parking(TTL_S)
    for number in range(SHELF):
        parking.put(parked(f"author {number}", 50), 0, "s")

    assert parking.put(parked("author 3", 7), 0, "s")
    assert not parking.put(parked("author 4", 51), 0, "s")

    assert [each.admitted.envelope.meta.id for each in parking.take_evicted()] == ["author 3/50"]


def test_equals_do_not_displace_one_another() -> None:
    parking = Parking(TTL_S)
    taken = sum(parking.put(parked(f"author {number}", 5), 0, "s") for number in range(SHELF + 100))
    assert taken == SHELF
    assert parking.take_evicted() == []


def test_newcomers_have_a_shelf_of_their_own() -> None:
    parking = Parking(TTL_S)
    for number in range(SHELF + 100):
        parking.put(parked(f"fresh {number}", 5), 0, "s", known=False)
    assert len(parking) == SHELF
    assert fill(parking, "known", PER_FEED) == PER_FEED


def test_bytes_are_bounded_in_all() -> None:
    parking = Parking(TTL_S)
    for number in range(50):
        fill(parking, f"author {number}", 20, size=limits.ENVELOPE_BYTES_MAX)
    assert parking.bytes <= limits.PARKED_BYTES_MAX // 2
    assert parking.put(parked("modest", 5), 0, "s")


def test_what_waited_too_long_is_given_up() -> None:
    parking = Parking(TTL_S)
    parking.put(parked("a", 5), 100, "s")
    parking.put(parked("b", 5), 101, "s", known=False)
    assert parking.expire(100 + TTL_S) == []
    assert [each.admitted.envelope.meta.from_ for each in parking.expire(101 + TTL_S)] == ["a"]
    assert [each.admitted.envelope.meta.from_ for each in parking.expire(102 + TTL_S)] == ["b"]
    assert (len(parking), parking.bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "take", "expire"]),
            st.sampled_from("abcdef"),
            st.integers(2, 40),
            st.integers(1, 400_000),
            st.booleans(),
        ),
        max_size=150,
    )
)
def test_the_books_are_right_whatever_happens(steps: list[tuple[str, str, int, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PARKED_ENVELOPES_MAX", 24)
        patch.setattr(limits, "PARKED_BYTES_MAX", 6 * 1024 * 1024)
        parking = Parking(TTL_S)
        sizes: dict[str, int] = {}
        for now_s, (action, author, seq, size, known) in enumerate(steps):
            one = parked(author, seq, size)
            meta = one.envelope.meta
            if action == "put" and not parking.holds(meta.id):
                if parking.put(one, now_s, "s", known=known):
                    sizes[meta.id] = size
                for gone in parking.take_evicted():
                    head = gone.admitted.envelope.meta
                    assert head.from_ != author or head.seq > seq
                    del sizes[head.id]
            elif action == "take":
                for taken in parking.take(author, seq, meta.prev):
                    del sizes[taken.admitted.envelope.meta.id]
            elif action == "expire":
                for expired in parking.expire(now_s):
                    del sizes[expired.admitted.envelope.meta.id]
            assert len(parking) == len(sizes) <= 24
            assert parking.bytes == sum(sizes.values()) <= 6 * 1024 * 1024
            assert all(parking.holds(each) for each in sizes)
