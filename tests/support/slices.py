"""Which part of something long and random runs today.

Every day has another part, so that each has its turn; ``FULL=1`` runs them all. The day is that of ``TESTS_DAY``, a
number of days since 1970, which the process that leads the run sets: all test processes must have the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

DAY_VARIABLE: Final = "TESTS_DAY"
FULL: Final = os.environ.get("FULL", "") not in {"", "0"}
_DAY_S: Final = 86_400


def day() -> int:
    """The day whose parts are run."""
    return int(os.environ.setdefault(DAY_VARIABLE, str(int(time.time()) // _DAY_S)))


def todays(parts: Sequence[T], share: int) -> list[T]:
    """One in ``share`` of the parts: after as many days each has had its turn."""
    return list(parts if FULL else parts[day() % share :: share])
