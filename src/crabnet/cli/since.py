"""Times and time spans as words of the command line, the same for all commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from crabnet.errors import Reason, UsageError

METAVAR: Final = "TIME|AGO"
HELP: Final = "an ISO 8601 time, or a time span before now: 90 (seconds), 15m, 2h, 7d."
_SPAN: Final = re.compile(r"([0-9]{1,10})([smhd]?)", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def span_s(text: str) -> int | None:
    """Seconds of a time span such as 90, 15m, 2h or 7d; None if it is none."""
    match = _SPAN.fullmatch(text.strip())
    return None if match is None else int(match[1]) * _UNIT_S[match[2]]


def since_s(text: str, now_s: int, option: str = "--since") -> int:
    """Seconds since 1970. Raises UsageError, which names ``option``."""
    ago_s = span_s(text)
    if ago_s is not None:
        return max(0, now_s - ago_s)
    try:
        if not _DATE.match(text.strip()):
            raise ValueError(text)
        moment = datetime.fromisoformat(text.strip())
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()))
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text!r} is neither an ISO 8601 time nor a time span such as 90, 15m, 2h or 7d",
            Reason.INVALID_ARGUMENT,
        ) from None
