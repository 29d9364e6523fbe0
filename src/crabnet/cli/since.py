"""``--since`` and ``--until``, the same for all commands: a time, or a time span before now."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from crabnet.errors import Reason, UsageError

METAVAR: Final = "TIME|AGO"
HELP: Final = "an ISO 8601 time, or a time span before now: 90 (seconds), 15m, 2h, 7d."
_AGO: Final = re.compile(r"([0-9]{1,10})([smhd]?)", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def since_s(text: str, now_s: int, option: str = "--since") -> int:
    """Seconds since 1970. Raises UsageError, which names ``option``."""
    if match := _AGO.fullmatch(text.strip()):
        return max(0, now_s - int(match[1]) * _UNIT_S[match[2]])
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
