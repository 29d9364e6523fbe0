"""The text of a schedule, and the minutes that it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import UsageError
from crabnet.market.schedule import WEEK_MINUTES, fits, minutes_left
from crabnet.settings import Settings
from crabnet.settings.kinds import Wrong
from crabnet.settings.schedule import ScheduleKind, spans_of

DAY = 24 * 60
MON, TUE, FRI, SAT, SUN = 0, DAY, 4 * DAY, 5 * DAY, 6 * DAY


def at(day: int, clock: str) -> int:
    hour, minute = clock.split(":")
    return day + int(hour) * 60 + int(minute)


@pytest.mark.parametrize(
    ("text", "minute", "left"),
    [
        ("", at(MON, "03:00"), WEEK_MINUTES),
        (" ; ", at(MON, "03:00"), WEEK_MINUTES),
        ("Mon-Fri 22:00-07:00", at(MON, "21:59"), 0),
        ("Mon-Fri 22:00-07:00", at(MON, "22:00"), 9 * 60),
        ("Mon-Fri 22:00-07:00", at(TUE, "06:59"), 1),
        ("Mon-Fri 22:00-07:00", at(TUE, "07:00"), 0),
        ("Mon-Fri 22:00-07:00", at(MON, "03:00"), 0),  # Sunday is not in it
        ("Mon-Fri 22:00-07:00", at(SAT, "06:30"), 30),  # Friday's night
        ("Mon-Fri 22:00-07:00", at(SAT, "22:30"), 0),
        ("sun 23:00-01:00", at(MON, "00:30"), 30),  # over the end of the week
        ("Fri-Mon 08:00-09:00", at(SUN, "08:15"), 45),  # days over the end of the week
        ("Fri-Mon 08:00-09:00", at(TUE, "08:15"), 0),
        ("Sat,Sun", at(SAT, "00:00"), 2 * DAY),
        ("Sat,Sun", at(FRI, "23:59"), 0),
        ("Saturday; sunday", at(SUN, "23:59"), 1),
        ("12:00-13:00, 18:00-20:00", at(TUE, "18:30"), 90),
        ("12:00-13:00 18:00-20:00", at(TUE, "12:30"), 30),
        ("Mon 00:00-24:00; Tue 00:00-02:00", at(MON, "23:00"), 3 * 60),  # spans that touch are one
        ("Mon-Sun", at(FRI, "12:00"), WEEK_MINUTES),
        ("00:00-24:00", at(FRI, "12:00"), WEEK_MINUTES),
        ("08:00-20:00; 20:00-08:00", at(FRI, "12:00"), WEEK_MINUTES),
    ],
)
def test_minutes_left(text: str, minute: int, left: int) -> None:
    assert minutes_left(spans_of(text), minute) == left


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("Mon-Fry 22:00-07:00", 5, "'Fry'"),
        ("Monn 22:00-07:00", 1, "'Monn'"),
        ("M 22:00-07:00", 1, "'M'"),
        ("Mon- 22:00-07:00", 5, "nothing"),
        ("Mon,,Tue", 5, "nothing"),
        ("Mon 22:00", 5, "from-until"),
        ("Mon 22-07:00", 5, "HH:MM"),
        ("Mon 22:00-7", 11, "HH:MM"),
        ("Mon 22:00-25:00", 11, "24:00"),
        ("Mon 22:60-23:00", 5, "time of day"),
        ("Mon 24:00-01:00", 5, "no length"),
        ("Mon 08:00-08:00", 5, "00:00-24:00"),
        ("Mon 08:00-09:00; Tue 8:00-9:00; Wensday", 33, "'Wensday'"),
        ("08:00-09:00,, 10:00-11:00 x", 27, "'x'"),
        ("\u0660\u0668:00-09:00", 1, "a time"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, place: int, says: str) -> None:
    with pytest.raises(Wrong, match=rf"at character {place}, .*") as caught:
        spans_of(text)
    assert says in str(caught.value)


def test_a_setting_says_so_too() -> None:
    with pytest.raises(UsageError, match=r"work_schedule = Mon 8-9 has '8' at character 5, which is not a time"):
        Settings(work_schedule="Mon 8-9")
    assert ScheduleKind().from_toml(["Mon 08:00-09:00", "Tue"]) == "Mon 08:00-09:00; Tue"


@given(st.text(alphabet="MonTueFriday0123456789:-,; \t\u0660é", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spans = spans_of(text)
    except Wrong:
        return
    assert all(0 <= start < end <= start + DAY and start < WEEK_MINUTES for start, end in spans)


@given(
    st.lists(st.tuples(st.integers(0, WEEK_MINUTES - 1), st.integers(1, DAY)), min_size=1, max_size=6),
    st.integers(0, WEEK_MINUTES - 1),
)
def test_minutes_left_is_counted(found: list[tuple[int, int]], minute: int) -> None:
    spans = [(start, start + length) for start, length in found]
    inside = {each % WEEK_MINUTES for start, end in spans for each in range(start, end)}
    left = 0
    while left < WEEK_MINUTES and (minute + left) % WEEK_MINUTES in inside:
        left += 1
    assert minutes_left(spans, minute) == left


NIGHT = spans_of("22:00-07:00")


@pytest.mark.parametrize(
    ("begin", "end", "duration_h", "within"),
    [
        ("22:00", "07:00", 9, True),
        ("22:00", "07:01", 9, False),
        ("23:00", "07:00", 7, True),  # the clocks went forward: seven hours later it is 7:00
        ("23:00", "08:00", 8, False),
        ("23:00", "07:00", 9, True),  # the clocks went back
        ("12:00", "12:10", 0, False),
    ],
)
def test_what_fits_is_told_by_the_wall_clock(begin: str, end: str, duration_h: int, within: bool) -> None:
    assert fits(NIGHT, at(TUE, begin), at(TUE + DAY, end) % WEEK_MINUTES, duration_h * 3_600_000) is within


def test_a_week_fits_only_into_always() -> None:
    week_ms = WEEK_MINUTES * 60_000
    assert fits((), 5, 5, week_ms)
    assert fits(spans_of("Mon-Sun"), 5, 5, week_ms)
    assert not fits(NIGHT, at(TUE, "22:00"), at(TUE, "22:00"), week_ms)
