"""A newcomer at a terminal sees what somebody has read and found good: ``screens/``, written by ``script.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.newcomer.script import QUICK, SCREENS, SLOW, Newcomer
from tests.support.terminal import screen


def shown(name: str) -> str:
    return (SCREENS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", QUICK)
def test_the_screens_of_the_first_minutes(name: str, tmp_path: Path) -> None:
    assert "\n".join(QUICK[name](tmp_path / "home")) == shown(name)


@pytest.mark.deep
@pytest.mark.parametrize("name", SLOW)
def test_the_screens_of_the_first_day(name: str, tmp_path: Path) -> None:
    assert "\n".join(SLOW[name](tmp_path / "market")) == shown(name)


def test_lines_rewritten_in_place_show_their_last_text() -> None:
    assert screen("\rpublished\rdone     \r         \rhello\r\n\x1b[31merror\x1b[0m: x\r\n") == ["hello", "error: x"]


def test_ids_have_the_same_name_in_all_their_forms(tmp_path: Path) -> None:
    somebody = Newcomer(tmp_path / "home")
    full = "4ba29e8a-045e-55a3-b307-93b7dee8dc59"
    lines = [f"task {full}", "4ba29e8a  Open", "12D3KooWRDxKGCxPCZnqzaVuNf1zYuUZRZzcdyFpTWCdj4r1UfML by 12D3…UfML"]
    assert [somebody.plainly(line) for line in lines] == ["task task-001", "task-001  Open", "node-001 by node-001"]
    assert somebody.plainly(f"after 17 ms in {tmp_path / 'home'}/x at 12:48:45") == "after N ms in HOME/x at 00:00:00"
