"""What a worker reads of its machine: the battery, as Linux shows it, and the time of the week."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.market.schedule import WEEK_MINUTES, fits
from crabnet.node.trading.machine import battery_percent, minute_of_week, read_gauges
from crabnet.settings.schedule import spans_of

ON_BATTERY = {"type": "Battery", "status": "Discharging", "capacity": "40"}


@pytest.mark.parametrize(
    ("supplies", "percent"),
    [
        ({}, None),
        ({"AC": {"type": "Mains", "online": "1"}}, None),
        ({"BAT0": ON_BATTERY}, 40),
        ({"BAT0": {**ON_BATTERY, "status": "Charging"}}, None),
        ({"BAT0": {**ON_BATTERY, "status": "Full"}}, None),
        ({"BAT0": ON_BATTERY, "BAT1": {**ON_BATTERY, "status": "Unknown", "capacity": "81"}}, 60),
        ({"mouse": {**ON_BATTERY, "scope": "Device", "capacity": "3"}, "AC": {"type": "Mains"}}, None),
        ({"BAT0": ON_BATTERY, "mouse": {**ON_BATTERY, "scope": "Device", "capacity": "3"}}, 40),
        ({"BAT0": {**ON_BATTERY, "capacity": "many"}}, None),
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, None),
    ],
)
def test_battery(tmp_path: Path, supplies: dict[str, dict[str, str]], percent: int | None) -> None:
    for name, files in supplies.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text + "\n")
    assert battery_percent(tmp_path) == percent


def test_a_machine_without_any(tmp_path: Path) -> None:
    found = read_gauges(tmp_path / "none")
    assert found.battery_percent is None
    assert found.load_percent is None or found.load_percent >= 0


@pytest.fixture
def in_berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


HOUR_MS = 3_600_000
SPRING_MS = 1_774_735_200_000
"""Saturday, 2026-03-28, 23:00 in Berlin; that night the clocks go from 2:00 to 3:00."""
AUTUMN_MS = 1_792_875_600_000
"""Saturday, 2026-10-24, 23:00 in Berlin; that night the clocks go from 3:00 to 2:00."""


@pytest.mark.usefixtures("in_berlin")
def test_the_week_by_the_wall_clock() -> None:
    saturday_23 = (5 * 24 + 23) * 60
    assert minute_of_week(SPRING_MS) == minute_of_week(AUTUMN_MS) == saturday_23
    assert minute_of_week(SPRING_MS + 3 * HOUR_MS) == (6 * 24 + 3) * 60
    assert minute_of_week(AUTUMN_MS + 4 * HOUR_MS) == (6 * 24 + 2) * 60
    assert minute_of_week(AUTUMN_MS + 26 * HOUR_MS) == 0


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("now_ms", "hours", "within"),
    [(SPRING_MS, 7, True), (SPRING_MS, 8, False), (AUTUMN_MS, 9, True), (AUTUMN_MS, 10, False)],
)
def test_a_night_of_summer_time(now_ms: int, hours: int, within: bool) -> None:
    """From 23:00 to 7:00 it is seven hours in spring and nine in autumn."""
    spans = spans_of("22:00-07:00")
    end = minute_of_week(now_ms + hours * HOUR_MS)
    assert fits(spans, minute_of_week(now_ms), end, hours * HOUR_MS) is within
    assert end < WEEK_MINUTES
