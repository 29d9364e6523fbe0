"""`--since` means the same wherever it is taken (word-1)."""

from __future__ import annotations

import pytest

from crabnet.cli.values import since_s
from crabnet.errors import UsageError

NOW_S = 1_767_225_600  # 2026-01-01T00:00:00Z


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


@pytest.mark.parametrize("text", ["", "yesterday", "lsn:1", "-5", "5w", "2026-13-01", "1" * 30])
def test_since_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        since_s(text, NOW_S)
