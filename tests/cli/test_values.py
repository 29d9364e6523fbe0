"""Durations and moments in the words of people, the same wherever they are taken."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from crabnet.cli.main import main
from crabnet.cli.values import duration_ms, shown_duration, since_s
from crabnet.errors import UsageError

NOW_S = 1_767_225_600  # 2026-01-01T00:00:00Z


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of Berlin: an hour before UTC in winter, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90_000),
        ("500ms", 500),
        ("5s", 5_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("0.25s", 250),
        (" 2m ", 120_000),
        ("0", 0),
        *(
            (wrong, None)
            for wrong in ("", "-5s", "5 m", "5w", "m", "1e3", "1.5", "h2", "5s5", "\u0661s", "9" * 13, "1.2345s")
        ),
    ],
)
def test_durations(text: str, expected: int | None) -> None:
    assert duration_ms(text) == expected


@pytest.mark.parametrize("ms", [0, 1, 999, 1_000, 60_000, 90_000, 3_600_000, 86_400_000, 604_800_000])
def test_a_duration_is_shown_as_it_can_be_given(ms: int) -> None:
    assert duration_ms(shown_duration(ms)) == ms


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01", NOW_S - 3_600),
        ("2026-01-01T00:30", NOW_S - 1_800),
        ("2026-01-01T00:30Z", NOW_S + 1_800),
        ("2025-07-01T02:00", NOW_S - 184 * 86_400),
        ("01:00", NOW_S),  # now, by local clocks
        ("00:59:59", NOW_S - 1),
        ("1:01", NOW_S - 86_400 + 60),  # not yet today, so it was yesterday
    ],
)
def test_times_without_a_zone_are_local(text: str, expected: int) -> None:
    assert since_s(text, NOW_S) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed", "publish", "--title", "t", "--cmd", "c", "--timeout", "2 m"], "'2 m' is not a duration such as"),
        (["seed", "publish", "--title", "t", "--cmd", "c", "--timeout", "8d"], "'8d' is not from 1ms to 7d"),
        (["seed", "publish", "--title", "t", "--cmd", "c", "--timeout", "1s", "--timeout-ms", "1"], "not both"),
        (["seed", "list", "--since", "tomorrow"], "--since 'tomorrow' is neither a time such as 14:30"),
        (["seed", "list", "--status", "done", "--biddable"], "tasks that are Done take no bids"),
        (["seed", "list", "-o", "xml"], "table"),
        (["status", "-q"], "crabnet status prints no ids"),
    ],
)
def test_wrong_words_are_told(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main([*words, "-d", "/nonexistent"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", NOW_S - 90),
        (" 15m ", NOW_S - 900),
        ("2h", NOW_S - 7_200),
        ("7d", NOW_S - 604_800),
        ("2026-01-01", NOW_S),
        ("2026-01-01T00:00:01Z", NOW_S + 1),
        ("2026-01-01T02:00:00+02:00", NOW_S),
        ("9999999999", 0),
        ("1960-01-01", 0),
    ],
)
def test_since(text: str, expected: int) -> None:
    assert since_s(text, NOW_S) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "lsn:1", "-5", "5w", "2026-13-01", "24:00", "1" * 30])
def test_since_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        since_s(text, NOW_S)
