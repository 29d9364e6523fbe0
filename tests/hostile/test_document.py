"""The page about the corpus is up to date, and the corpus leaves no Reason of the verification out."""

from __future__ import annotations

import re
from pathlib import Path

from crabnet.errors import Reason
from tests.hostile.corpus import CORPUS
from tests.hostile.document import page

ROOT = Path(__file__).resolve().parent.parent.parent
ELSEWHERE = {
    Reason.SOURCE_BLOCKED: "floods",
    Reason.RATE_LIMITED: "floods",
    Reason.AUTHOR_LIMITED: "floods",
    Reason.PARKING_FULL: "tests of parking",
}
"""Reasons that one envelope alone cannot earn, and what earns them."""


def test_the_page_is_written_from_the_corpus() -> None:
    assert (ROOT / "tests/hostile/README.md").read_text(encoding="utf-8") == page()


def test_every_reason_of_the_verification_is_in_the_corpus() -> None:
    protocol = (ROOT / "docs/PROTOCOL.md").read_text(encoding="utf-8")
    verification = protocol.partition("## 9 Verification")[2].partition("## 10")[0]
    named = {word for row in re.findall(r"^\|.*$", verification, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    demanded = {Reason(word) for word in named if word in set(Reason)} - set(ELSEWHERE)
    earned = {row.reason for group in CORPUS for row in group.rows}
    assert len(demanded) >= 18
    assert demanded <= earned, demanded - earned


def test_names_are_unique_and_there_are_enough() -> None:
    for group in CORPUS:
        assert len({row.name for row in group.rows}) == len(group.rows), group.title
    assert sum(len(group.rows) for group in CORPUS if not group.keeps_place) >= 80


def test_the_page_on_security_counts_right() -> None:
    security = (ROOT / "docs/SECURITY.md").read_text(encoding="utf-8")
    rows = sum(len(group.rows) for group in CORPUS)
    placeless = sum(len(group.rows) for group in CORPUS if not group.keeps_place)
    assert f"of {rows} hostile and broken datagrams" in security
    assert f"{placeless} of them must leave the state hash" in security
