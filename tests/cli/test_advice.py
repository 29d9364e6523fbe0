"""What people read beside the plain text of an error."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from crabnet.cli.advice import local_times, remedy_for
from crabnet.cli.why import moment, span
from crabnet.errors import CrabnetError, Reason, RefusedError, UsageError


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_times_are_those_of_local_clocks() -> None:
    today = time.strftime("%Y-%m-%dT03:00:00Z", time.gmtime())
    assert os.environ["TZ"] == "Asia/Tokyo"
    assert "12:00:00" in local_times(f"bidding closed at {today}")
    assert local_times("bidding closed at 2020-01-01T20:10:23Z, and") == "bidding closed at 2020-01-02 05:10:23, and"


@pytest.mark.parametrize(
    "text", ["", "no time", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00Z", "x2020-01-01T00:00:00Z"]
)
def test_other_text_stays(text: str) -> None:
    assert local_times(text) == text or text.startswith("0001")


@pytest.mark.parametrize(
    ("error", "advised"),
    [
        (RefusedError("task 4711 has no bid 12", Reason.UNKNOWN_BID), True),
        (RefusedError("only the task's creator (12D3…xWbt) may do this", Reason.UNAUTHORISED), True),
        (RefusedError("it is too long; send less", Reason.TOO_LARGE), False),
        (RefusedError("ended: `crabnet id renew` helps", Reason.FEED_ENDED), False),
        (UsageError("--price is missing"), False),
        (CrabnetError("unexpected ValueError"), False),
    ],
)
def test_a_hint_says_what_the_message_does_not(error: CrabnetError, advised: bool) -> None:
    assert bool(remedy_for(error)) == advised


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3_599, "59 min 59 s"),
        (3_605, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_spans_have_two_units_at_most(seconds: int, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.usefixtures("in_tokyo")
def test_moments_say_how_far_away_they_are() -> None:
    now_s = 1_796_051_423  # 2026-11-30T15:10:23Z, which is the first of December in Tokyo
    assert moment(now_s - 20, now_s) == "00:10:03 (20 s ago)"
    assert moment(now_s + 90, now_s) == "00:11:53 (in 1 min 30 s)"
    assert moment(now_s - 86_400, now_s) == "2026-11-30 00:10:23 (1 d ago)"
    assert moment(2**53, now_s) == f"{2**53} s after 1970"
