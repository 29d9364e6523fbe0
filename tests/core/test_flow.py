"""How much is asked of whom at once: windows that follow what comes, and a pace for all together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.sync.flow import Flight, Flow

SOURCE, OTHER = "udp:192.0.2.1:9012", "udp:192.0.2.2:9012"
START = limits.SYNC_WINDOW_ENTRIES_START


def depart(flow: Flow, first: int, entries: int, source: str = SOURCE, now_ms: int = 0) -> Flight:
    return flow.depart("author", first, first + entries - 1, source, now_ms, 500)


def test_what_is_under_way_takes_room_of_its_source_alone() -> None:
    flow = Flow()
    depart(flow, 1, 60)
    assert (flow.room(SOURCE), flow.room(OTHER)) == (START - 60, START)


def test_a_window_grows_by_what_came_whole_and_halves_at_a_loss() -> None:
    flow = Flow()
    flow.landed(depart(flow, 1, 64), 10)
    assert flow.room(SOURCE) == START + 64

    flow.lost(depart(flow, 65, 64), 1_000)
    assert flow.room(SOURCE) == (START + 64) / 2

    halved = flow.room(SOURCE)
    flow.landed(depart(flow, 65, 64), 1_100)
    assert halved < flow.room(SOURCE) < halved + 64, "after the first loss it grows slowly"


def test_what_is_lost_at_once_is_one_loss() -> None:
    flow = Flow()
    first, second = depart(flow, 1, 10), depart(flow, 11, 10)
    flow.lost(first, 1_000)
    flow.lost(second, 1_000 + limits.SYNC_SLOW_DOWN_MS - 1)
    assert flow.room(SOURCE) == START / 2

    flow.lost(depart(flow, 21, 10), 1_000 + limits.SYNC_SLOW_DOWN_MS)
    assert flow.room(SOURCE) == START / 4


def test_sources_without_proof_leave_half_of_what_may_be_under_way_to_others() -> None:
    flow = Flow(proven=lambda source: source == SOURCE)
    strangers = [f"udp:10.0.0.1:{port}" for port in range(limits.SYNC_ENTRIES_IN_FLIGHT_MAX // START + 1)]
    flights = [depart(flow, 1, int(flow.room(each)), each) for each in strangers if flow.room(each)]
    assert sum(flight.entries for flight in flights) == limits.SYNC_ENTRIES_IN_FLIGHT_MAX // 2
    assert (flow.room(SOURCE), flow.room(strangers[0]), flow.room(OTHER)) == (START, 0, 0)

    flow.dropped(flights[0])
    assert flow.room(OTHER) == START


def test_windows_stay_within_their_bounds() -> None:
    flow = Flow()
    for at in range(100):
        flow.landed(depart(flow, at * 64 + 1, 64), at)
    assert flow.room(SOURCE) == limits.SYNC_WINDOW_ENTRIES_MAX
    for at in range(100):
        flow.lost(depart(flow, at * 64 + 1, 64), 1_000 * at)
    assert flow.room(SOURCE) == limits.SYNC_WINDOW_ENTRIES_MIN


def test_too_much_under_way_leaves_room_with_nobody() -> None:
    flow = Flow()
    flights = [
        depart(flow, 1, limits.SYNC_WANT_ENTRIES_MAX, f"udp:192.0.2.{number}:1")
        for number in range(limits.SYNC_ENTRIES_IN_FLIGHT_MAX // limits.SYNC_WANT_ENTRIES_MAX)
    ]
    assert flow.room(OTHER) == 0
    flow.dropped(flights[0])
    assert flow.room(OTHER) == START


def test_a_range_ends_once() -> None:
    flow = Flow()
    flight = depart(flow, 1, 64)
    flow.dropped(flight)
    flow.lost(flight, 10)
    flow.landed(flight, 20)
    assert (flow.flying, flow.room(SOURCE)) == (0, START)


def test_the_pace_is_earned_by_time_alone() -> None:
    flow = Flow(bytes_per_s=1_000)
    assert flow.may_ask(0)
    flow.came(3_000)
    assert not flow.may_ask(1_000)
    assert not flow.may_ask(2_000)
    assert flow.may_ask(2_001)
    assert flow.may_ask(0), "a clock that goes back takes nothing"
    assert Flow().may_ask(0)


def test_word_of_an_end_passes_over_what_was_asked_before() -> None:
    """Answers come in the order of the requests: what should have come before it was lost."""
    flow = Flow()
    first, second = depart(flow, 1, 10), depart(flow, 11, 10)
    assert not flow.tells_ends(SOURCE)

    assert flow.ended("author", 11, SOURCE) == (second, [first])

    assert flow.tells_ends(SOURCE)
    assert not flow.tells_ends(OTHER)
    assert flow.ended("author", 99, SOURCE) == (None, [])
    assert flow.ended("author", 1, OTHER) == (None, [])


def test_a_source_that_goes_on_bringing_is_busy_but_not_for_ever() -> None:
    flow = Flow()
    waiting = depart(flow, 1, 10)
    assert not flow.is_busy(waiting, 0)
    for at in range(0, limits.SYNC_REQUEST_RETRY_MS_MAX, 100):
        flow.landed(depart(flow, 11, 1, now_ms=at), at)
        assert flow.is_busy(waiting, at)
    assert not flow.is_busy(waiting, limits.SYNC_REQUEST_RETRY_MS_MAX)


def test_sources_are_bounded_and_those_that_bring_something_stay() -> None:
    flow = Flow()
    kept = depart(flow, 1, 10)
    for number in range(limits.PEERS_MAX + 10):
        flow.landed(depart(flow, 1, 20, f"udp:198.51.100.1:{number}"), 0)
    assert flow.room(SOURCE) == START - 10
    assert flow.room("udp:198.51.100.1:0") == START, "forgotten: it begins anew"
    flow.landed(kept, 0)


@given(st.lists(st.tuples(st.sampled_from("dlx+"), st.integers(1, 64), st.sampled_from((SOURCE, OTHER)))))
def test_nothing_stays_under_way_when_all_has_ended(steps: list[tuple[str, int, str]]) -> None:
    flow = Flow()
    flights: list[Flight] = []
    for now_ms, (step, entries, source) in enumerate(steps):
        if step == "+" or not flights:
            flights.append(depart(flow, 1, entries, source, now_ms))
            continue
        flight = flights.pop(entries % len(flights))
        if step == "d":
            flow.dropped(flight)
        elif step == "l":
            flow.landed(flight, now_ms)
        else:
            flow.lost(flight, now_ms)
        assert flow.flying == sum(each.entries for each in flights)
    for flight in flights:
        flow.dropped(flight)
    assert flow.flying == 0
    for source in (SOURCE, OTHER):
        assert limits.SYNC_WINDOW_ENTRIES_MIN <= flow.room(source) <= limits.SYNC_WINDOW_ENTRIES_MAX


@given(
    st.lists(
        st.tuples(st.sampled_from("dlx+++"), st.integers(1, 64), st.integers(0, 9).map("udp:192.0.2.{}:9012".format)),
        max_size=80,
    )
)
def test_more_busy_sources_than_there_is_room_for_leave_nothing_under_way_either(
    steps: list[tuple[str, int, str]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PEERS_MAX", 4)
        flow = Flow()
    flights: list[Flight] = []
    for now_ms, (step, entries, source) in enumerate(steps):
        if step == "+" or not flights:
            flights.append(depart(flow, 1, entries, source, now_ms))
            assert flow.ended("author", 1, source)[0] is not None, "the newest is never the one that goes"
        else:
            flight = flights.pop(entries % len(flights))
            if step == "d":
                flow.dropped(flight)
            elif step == "l":
                flow.landed(flight, now_ms)
            else:
                flow.lost(flight, now_ms)
        assert 0 <= flow.flying <= sum(flight.entries for flight in flights)
    for flight in flights:
        flow.landed(flight, 1_000)
    assert flow.flying == 0
