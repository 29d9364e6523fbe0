"""Parking: bounded in all, fair between authors, with a time to live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.replica.parking import Parked, Parking
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind
from crabnet.protocol.sync import Named

TTL_S = 60
PER_FEED = limits.PARKED_ENVELOPES_PER_FEED_MAX
SHELF = limits.PARKED_ENVELOPES_MAX // 2
LOST = Named("seed", "f" * 64)
"""Something that others rest on, and that is not held."""


def parked(author: str, seq: int, size: int = 100) -> Admitted:
    """An envelope that passed all checks, as far as parking looks at it."""
    meta = EnvelopeMeta(
        id=f"{author}/{seq}",
        from_=author,
        kind="BidSubmitted",
        ts=0,
        nonce=0,
        seq=seq,
        prev=f"{author}/{seq - 1}",
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


def ids(found: list[Parked]) -> list[str]:
    return [each.admitted.envelope.meta.id for each in found]


def test_what_comes_next_is_taken_unless_it_lacks_what_it_rests_on() -> None:
    parking = Parking(TTL_S)
    parking.put(parked("a", 3), 0, "s")
    parking.put(parked("a", 4), 0, "s", lacks=LOST)
    assert parking.take_next("a", 2) == []
    assert ids(parking.take_next("a", 3)) == ["a/3"]
    assert parking.take_next("a", 4) == []
    assert (parking.lacks_parent("a", 4), parking.names(LOST.envelope_id)) == (True, True)
    assert ids(parking.take_lacking(LOST)) == ["a/4"]
    assert (len(parking), parking.names(LOST.envelope_id), parking.lacks_parent("a", 4)) == (0, False, False)


def test_all_who_rest_on_one_envelope_are_freed_by_it() -> None:
    parking = Parking(TTL_S)
    for author, source in (("a", "one"), ("b", "two"), ("c", "one")):
        parking.put(parked(author, 1), 0, source, lacks=LOST)
    assert parking.lacking() == [(LOST, ["one", "two"])]
    assert parking.take_lacking(Named(LOST.seed_id, "0" * 64)) == []
    assert ids(parking.take_lacking(LOST)) == ["a/1", "b/1", "c/1"]
    assert parking.lacking() == []


def test_who_names_an_envelope_about_another_seed_hides_nobody_who_names_it_rightly() -> None:
    parking = Parking(TTL_S)
    wrong = Named("other", LOST.envelope_id)
    parking.put(parked("liar", 1), 0, "liars", lacks=wrong)
    assert not parking.lacks_named(LOST)
    parking.put(parked("a", 1), 0, "one", lacks=LOST)
    assert parking.lacking() == [(wrong, ["liars"]), (LOST, ["one"])]
    assert ids(parking.take_lacking(LOST)) == ["a/1"]
    assert (parking.lacks_named(LOST), parking.lacks_named(wrong), len(parking)) == (False, True, 1)


def rest_on(parking: Parking, author: str, seq: int, other: str, *, known: bool) -> None:
    """An author's envelope rests on one that is not held."""
    assert parking.put(parked(author, seq), 0, "s", known=known, lacks=Named("seed", other))


def test_a_known_author_vouches_for_what_it_waits_for() -> None:
    """For what its envelope rests on, for all before that in its feed, and for what those rest on in turn."""
    parking = Parking(TTL_S)
    knows = {"known"}.__contains__
    rest_on(parking, "known", 9, "new/5", known=True)
    rest_on(parking, "nobody", 1, "other/3", known=False)
    assert parking.voucher("new", 5, "new/5", knows) == "known"
    assert parking.voucher("new", 4, "new/4", knows) is None, "nothing tells yet that it comes before"

    rest_on(parking, "new", 5, "third/2", known=False)
    assert parking.last_named("new") == 5
    assert parking.voucher("new", 4, "new/4", knows) == "known"
    assert parking.voucher("new", 6, "new/6", knows) is None
    assert parking.voucher("third", 2, "third/2", knows) == "known"
    assert parking.voucher("other", 3, "other/3", knows) is None, "who waits for it is no more known than it is"
    assert parking.last_named("third") == parking.last_named("known") == 0


def test_looking_for_a_voucher_has_an_end() -> None:
    """A chain of newcomers is followed for a while, one that runs in a circle as well."""
    parking = Parking(TTL_S)
    most = limits.PARKED_VOUCHERS_LOOKED_AT_MAX + 1
    for number in range(most):
        rest_on(parking, f"link{number}", 1, f"link{number + 1}/1", known=number == 0)
    assert parking.voucher("link3", 1, "link3/1", {"link0"}.__contains__) == "link0"
    assert parking.voucher(f"link{most}", 1, f"link{most}/1", {"link0"}.__contains__) is None
    rest_on(parking, "one", 1, "other/2", known=False)
    rest_on(parking, "other", 1, "one/2", known=False)
    for author in ("one", "other"):
        fill(parking, author, 1, known=False, first=2)
    assert parking.voucher("one", 1, "one/1", lambda _: False) is None


def test_it_is_crowded_when_more_than_half_of_a_shelf_is_taken() -> None:
    parking = Parking(TTL_S)
    for number in range(SHELF // 2 // PER_FEED):
        fill(parking, f"newcomer {number}", PER_FEED, known=False)
    assert not parking.crowded
    fill(parking, "one more", 1, known=False)
    assert parking.crowded


def test_two_for_one_place_are_rivals() -> None:
    parking = Parking(TTL_S)
    parking.put(parked("a", 3), 0, "s")
    assert parking.rival("a", 3, "a/3") is None
    assert parking.rival("a", 4, "a/4") is None
    assert parking.rival("b", 3, "b/3") is None
    rival = parking.rival("a", 3, "a/3 other")
    assert rival is not None
    assert ids([rival]) == ["a/3"]


def test_what_lies_behind_an_end_is_taken_whatever_it_waits_for() -> None:
    parking = Parking(TTL_S)
    for seq in (6, 3, 5):
        parking.put(parked("a", seq), 0, "s")
    parking.put(parked("a", 4), 0, "s", lacks=LOST)
    parking.put(parked("b", 9), 0, "s")
    assert ids(parking.take_behind("a", 4)) == ["a/4", "a/5", "a/6"]
    assert (list(parking.seqs("a")), len(parking), parking.names(LOST.envelope_id)) == ([3], 2, False)


@pytest.mark.parametrize("how", ["expired", "given up"])
def test_what_is_given_up_names_nothing_any_more(how: str) -> None:
    parking = Parking(TTL_S)
    parking.put(parked("a", 500), 0, "s", lacks=LOST)
    if how == "expired":
        assert len(parking.expire(TTL_S + 1)) == 1
    else:
        fill(parking, "a", PER_FEED)
        assert ids(parking.take_evicted()) == ["a/500"]
    assert not parking.names(LOST.envelope_id)
    assert parking.take_lacking(LOST) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "put lacking", "put lacking", "take", "free", "end", "expire"]),
        st.sampled_from("abcdef"),
        st.integers(2, 40),
        st.integers(1, 400_000),
        st.booleans(),
    ),
    max_size=150,
)


class Books:
    """A parking place, and what should be in it, with its size in bytes."""

    def __init__(self) -> None:
        self.parking = Parking(TTL_S)
        self.sizes: dict[str, int] = {}

    def put(self, one: Admitted, now_s: int, *, known: bool, lacks: Named | None) -> None:
        meta = one.envelope.meta
        if self.parking.holds(meta.id):
            return
        if self.parking.put(one, now_s, "s", known=known, lacks=lacks):
            self.sizes[meta.id] = len(one.envelope.raw)
        for gone in self.parking.take_evicted():
            head = gone.admitted.envelope.meta
            assert head.from_ != meta.from_ or head.seq > meta.seq
            del self.sizes[head.id]

    def take(self, action: str, author: str, seq: int, now_s: int) -> None:
        match action:
            case "take":
                taken = self.parking.take_next(author, seq)
            case "free":
                taken = self.parking.take_lacking(LOST)
                assert not self.parking.names(LOST.envelope_id)
            case "end":
                taken = self.parking.take_behind(author, seq)
                assert all(at < seq for at in self.parking.seqs(author))
            case _:
                taken = self.parking.expire(now_s)
        for each in taken:
            del self.sizes[each.admitted.envelope.meta.id]

    def check(self) -> None:
        assert len(self.parking) == len(self.sizes) <= 24
        assert self.parking.bytes == sum(self.sizes.values()) <= 6 * 1024 * 1024
        assert all(self.parking.holds(each) for each in self.sizes)


@given(STEPS)
def test_the_books_are_right_whatever_happens(steps: list[tuple[str, str, int, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PARKED_ENVELOPES_MAX", 24)
        patch.setattr(limits, "PARKED_BYTES_MAX", 6 * 1024 * 1024)
        books = Books()
        for now_s, (action, author, seq, size, known) in enumerate(steps):
            if action.startswith("put"):
                lacks = LOST if action == "put lacking" else None
                books.put(parked(author, seq, size), now_s, known=known, lacks=lacks)
            else:
                books.take(action, author, seq, now_s)
            books.check()
        for author in "abcdef":
            books.take("end", author, 0, 0)
        books.check()
        assert not books.sizes
        assert books.parking.lacking() == []
