"""What people read beside the plain text of an error: times by their own clock, and what to do."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from crabnet.errors import CrabnetError, Reason

_STAMP: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_ADVISES: Final = re.compile(r"; |`|--\w|\bSee ")
"""How messages say what to do."""
_FOR_OTHERS: Final = frozenset(
    {
        Reason.INVALID_ARGUMENT,
        Reason.INVALID_CONFIG,
        Reason.INTERNAL,
        Reason.NODE_STOPPING,
        Reason.NODE_UNREACHABLE,
        Reason.TIMEOUT,
        Reason.UNAVAILABLE,
        Reason.UNKNOWN_OPERATION,
    }
)
"""Reasons whose remedies are for HTTP clients, or whose messages always say what to do."""


def local_times(text: str) -> str:
    """The text with times as local clocks show them: ``15:10:23``, with the date if that is not today."""
    today = datetime.now().date()

    def local(match: re.Match[str]) -> str:
        try:
            at = datetime.fromisoformat(match[0]).astimezone()
        except (OverflowError, ValueError):
            return match[0]
        return at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M:%S")

    return _STAMP.sub(local, text)


def remedy_for(error: CrabnetError) -> str:
    """What to do about an error. "" if its message says that already, or nobody knows."""
    if error.reason in _FOR_OTHERS or _ADVISES.search(error.message):
        return ""
    from crabnet.operations.remedies import remedy

    return remedy(error.reason)
