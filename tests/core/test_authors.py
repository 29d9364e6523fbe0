"""Budgets of authors: they delay, newcomers share, history flows."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.budgets.authors import AuthorBudgets, AuthorRates

NOW_MS = 1_767_225_600_000
RATES = AuthorRates(
    envelopes_per_s=100,
    bytes_per_s=100_000,
    newcomer_envelopes_per_s=50,
    newcomer_bytes_per_s=50_000,
    history_envelopes_per_s=20_000,
)
SIZE = 100
BURST = limits.AUTHOR_BURST_S


class Books:
    """Budgets, and how much of each author was taken."""

    def __init__(self, rates: AuthorRates = RATES, **held: int) -> None:
        self.held = Counter(held)
        self.budgets = AuthorBudgets(rates, self.held.__getitem__, "me")
        self.budgets.begin(list(self.held.items()))

    def offer(self, author: str, count: int, now_ms: int, *, requested: bool = False, size: int = SIZE) -> int:
        """Try to add envelopes; how many were taken."""
        taken = 0
        for _ in range(count):
            if self.budgets.paused(author, now_ms):
                break
            if self.budgets.charge(author, size, now_ms, requested=requested):
                self.held[author] += 1
                taken += 1
        return taken

    def stream(self, author: str, per_s: int, seconds: int, *, requested: bool = False, start_ms: int = NOW_MS) -> int:
        """The same over some time."""
        return sum(
            self.offer(author, per_s // 10, start_ms + step * 100, requested=requested) for step in range(seconds * 10)
        )


def test_a_known_author_has_its_rate_and_burst() -> None:
    books = Books(known=1_000)
    taken = books.stream("known", 10_000, 30)
    expected = RATES.envelopes_per_s * (30 + BURST)
    assert 0.9 * expected <= taken <= expected


def test_bytes_count_as_well() -> None:
    books = Books(known=1_000)
    taken = books.offer("known", 1_000, NOW_MS, size=50_000)
    assert taken == RATES.bytes_per_s * BURST // 50_000


def test_the_largest_envelope_always_fits_some_time() -> None:
    books = Books(AuthorRates(envelopes_per_s=1, bytes_per_s=1, newcomer_envelopes_per_s=1, newcomer_bytes_per_s=1))
    books.held["known"] = 1_000
    books.budgets.begin(list(books.held.items()))
    assert books.offer("known", 1, NOW_MS, size=limits.ENVELOPE_BYTES_MAX) == 1


def test_fresh_identities_share_one_budget_and_do_not_touch_a_known_author() -> None:
    books = Books(known=1_000)
    taken = 0
    for step in range(300):
        now_ms = NOW_MS + step * 100
        taken += sum(books.offer(f"fresh {step} {number}", 1, now_ms) for number in range(100))
        assert books.offer("known", 5, now_ms) == 5
    budget = RATES.newcomer_envelopes_per_s * (30 + BURST)
    assert taken <= budget / limits.AUTHOR_FIRST_COST
    assert taken >= budget / limits.AUTHOR_FIRST_COST / 2


def test_one_newcomer_leaves_half_to_the_others() -> None:
    books = Books()
    books.stream("greedy", 10_000, 5)
    others = sum(books.offer(f"modest {number}", 5, NOW_MS + 5_000) for number in range(10))
    assert others == 50


def test_a_newcomer_becomes_known_by_time_and_envelopes() -> None:
    books = Books()
    assert books.offer("new", limits.AUTHOR_KNOWN_ENTRIES, NOW_MS) == limits.AUTHOR_KNOWN_ENTRIES
    young = books.offer("new", 100_000, NOW_MS + 1_000)
    assert young < RATES.newcomer_envelopes_per_s * (BURST + 1)
    later_ms = NOW_MS + limits.AUTHOR_KNOWN_AFTER_MS
    assert books.offer("new", 100_000, later_ms) == RATES.envelopes_per_s * BURST


def test_what_is_held_since_before_the_start_makes_known() -> None:
    books = Books(old=limits.AUTHOR_KNOWN_ENTRIES, young=limits.AUTHOR_KNOWN_ENTRIES - 1)
    assert books.offer("old", 100_000, NOW_MS) == RATES.envelopes_per_s * BURST
    assert books.offer("young", 100_000, NOW_MS) < RATES.newcomer_envelopes_per_s * BURST


def test_history_that_was_asked_for_flows() -> None:
    books = Books()
    assert books.stream("a", 6_000, 4, requested=True) == 24_000
    assert books.budgets.room("a", NOW_MS + 4_000) == limits.SYNC_WANT_ENTRIES_MAX


def test_one_authors_endless_history_leaves_room_for_others() -> None:
    books = Books()
    for step in range(100):
        now_ms = NOW_MS + step * 100
        books.offer("endless", 2_000, now_ms, requested=True)
        books.offer("endless too", 2_000, now_ms, requested=True)
    assert books.stream("other", 5_000, 2, requested=True, start_ms=NOW_MS + 10_000) == 10_000


def test_an_author_over_its_budget_gains_nothing_by_being_asked_for() -> None:
    books = Books(flooder=1_000)
    taken = books.stream("flooder", 10_000, 10)
    taken += books.stream("flooder", 10_000, 20, requested=True, start_ms=NOW_MS + 10_000)
    assert taken <= RATES.envelopes_per_s * (30 + BURST)


def test_fresh_identities_gain_nothing_by_being_asked_for() -> None:
    books = Books()
    taken = 0
    for step in range(300):
        now_ms = NOW_MS + step * 100
        names = [f"fresh {step} {number}" for number in range(100)]
        taken += sum(books.offer(name, 1, now_ms) for name in names)
        taken += sum(books.offer(name, 1, now_ms, requested=True) for name in names)
    assert taken <= RATES.newcomer_envelopes_per_s * (30 + BURST) / limits.AUTHOR_FIRST_COST


def test_who_is_over_budget_is_not_asked_for_until_there_is_room() -> None:
    books = Books(flooder=1_000)
    now_ms = NOW_MS
    books.offer("flooder", 100_000, now_ms)
    assert books.budgets.paused("flooder", now_ms)
    assert books.budgets.room("flooder", now_ms) == 0
    now_ms += limits.AUTHOR_PAUSE_MS
    room = books.budgets.room("flooder", now_ms)
    assert room > 0
    assert books.offer("flooder", room, now_ms, requested=True) == room


def test_own_envelopes_and_budgets_that_are_off_are_free() -> None:
    assert Books().offer("me", 10_000, NOW_MS) == 10_000
    unlimited = Books(AuthorRates())
    assert not unlimited.budgets.enabled
    assert unlimited.offer("anybody", 10_000, NOW_MS) == 10_000


def test_a_clock_that_jumps_mutes_nobody_for_long() -> None:
    books = Books(known=1_000)
    books.offer("known", 100_000, NOW_MS)
    assert not books.budgets.paused("known", NOW_MS - 3_600_000)


def throng(books: Books) -> None:
    """60,000 fresh identities, a third of them asked for."""
    for number in range(60_000):
        books.budgets.charge(f"fresh {number}", SIZE, NOW_MS + number * 20, requested=number % 3 == 0)


def test_tables_are_bounded() -> None:
    books = Books()
    throng(books)
    assert len(books.budgets) <= 3 * limits.AUTHORS_MAX


@pytest.mark.deep
def test_memory_is_bounded() -> None:
    books = Books()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        throng(books)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 24 * 1024 * 1024


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(1, 200), st.integers(0, 2_000), st.booleans()), max_size=80
    )
)
def test_whatever_others_do_a_known_author_within_its_rate_is_never_delayed(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    books = Books(known=1_000)
    now_ms = NOW_MS
    for author, count, pause_ms, requested in steps:
        now_ms += pause_ms + 10
        books.offer(author, count, now_ms, requested=requested)
        assert books.offer("known", 1, now_ms) == 1


def test_first_words_are_dropped_before_they_cost_anything_once_newcomers_have_used_up_their_budget() -> None:
    books = Books(known=1_000, few=3)
    now_ms = NOW_MS
    while books.offer(f"fresh {now_ms}", 1, now_ms):
        now_ms += 1
    assert books.budgets.paused("unheard of", now_ms)
    assert not books.budgets.paused("known", now_ms)
    assert not books.budgets.paused("few", now_ms)
    assert not books.budgets.paused("me", now_ms)
    refilled_ms = now_ms + 1_000 * limits.AUTHOR_FIRST_COST // RATES.newcomer_envelopes_per_s
    assert books.offer("unheard of", 1, refilled_ms) == 1
