"""The table ``[work]`` of a configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.errors import Reason, UsageError
from crabnet.settings import KNOBS, Resolved, resolve
from crabnet.settings.work_table import KEYS


def resolved(tmp_path: Path, text: str) -> Resolved:
    path = tmp_path / "crabnet.toml"
    path.write_text(text, encoding="utf-8")
    return resolve({}, {}, path)


def test_its_keys_are_settings(tmp_path: Path) -> None:
    found = resolved(
        tmp_path,
        """
        alias = "w"
        [work]
        allow = ["echo", "sha256sum"]
        max_running = 2
        price = 3
        price_per_s = 0.05
        price_per_mib = 1
        schedule = ["Mon-Fri 22:00-07:00", "Sat,Sun"]
        min_settled = 0.9
        max_timeout_ms = 60000
        auto_bid = true
        """,
    )
    settings = found.settings
    assert settings.alias == "w"
    assert settings.runner_allowed_commands == ("echo", "sha256sum")
    assert settings.runner_runs_max == 2
    assert (settings.work_price, settings.work_price_per_s, settings.work_price_per_mib) == (3, 0.05, 1.0)
    assert settings.work_schedule == "Mon-Fri 22:00-07:00; Sat,Sun"
    assert settings.work_min_settled == 0.9
    assert settings.work_timeout_max_ms == 60_000
    assert (settings.auto_bid, settings.auto_run) == (True, False)
    assert found.origins["work_price"] == f"file {tmp_path / 'crabnet.toml'}"


def test_each_key_names_a_setting() -> None:
    assert set(KEYS.values()) <= {knob.name for knob in KNOBS}
    assert {knob.name for knob in KNOBS if knob.group == "work"} <= set(KEYS.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[work]\nmin_prise = 1", r"no setting 'min_prise' \(from .*, table \[work\]\); did you mean min_price\?"),
        ("[work]\nalias = 'x'", "no setting 'alias'"),
        ("work = 3", "no setting 'work'"),
        ("work_price = 3\n[work]\nprice = 4", r"work_price is set twice in .*, once as price in the table \[work\]"),
        ("[work]\nprice_per_s = 0.1234567", "more than six decimal places"),
        ("[work]\nmin_settled = 1.5", "out of range: 0 to 1"),
        ("[work]\nmin_settled = 'most'", "is a string, not a number"),
        ("[work]\nmin_settled = nan", "out of range"),
        ("[work]\nprice = 0.5", "not an integer"),
        ("[work]\nschedule = 'Mon 8-9'", "'8' at character 5"),
        ("[work]\nschedule = [1]", "an integer, not a string"),
        ("[work]\nonly = ['a b']", "letters and digits"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        resolved(tmp_path, text)
    assert caught.value.reason is Reason.INVALID_CONFIG


@pytest.mark.parametrize("text", ["1e3", "-1", ".5", "1_0", "0x1", "1.0000001", "inf", ""])
def test_numbers_are_decimal(text: str) -> None:
    with pytest.raises(UsageError, match="not a number with at most six decimal places"):
        resolve({"work_price_per_s": text}, {}, None)
