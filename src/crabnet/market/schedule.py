"""When a worker works: spans of the week, in minutes of local wall-clock time.

A minute of the week counts from Monday, 0:00, to Sunday, 23:59. Wall-clock time comes in as an argument, so a change to
or from summer time needs no care here: on such days a span is an hour shorter or longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WEEK_MINUTES: Final = 7 * 24 * 60
_MINUTE_MS: Final = 60_000

Span = tuple[int, int]
"""From a minute of the week until another, not included. The second is greater, and may lie in the next week."""


def minutes_left(spans: Sequence[Span], minute: int) -> int:
    """How long the schedule goes on without a break from this minute of the week on; 0 outside of it.

    No spans means always. The answer is at most WEEK_MINUTES, which means always, too.
    """
    if not spans:
        return WEEK_MINUTES
    left = 0
    while left < WEEK_MINUTES:
        ends = [_until(span, (minute + left) % WEEK_MINUTES) for span in spans]
        more = max(ends)
        if more == 0:
            return left
        left += more
    return WEEK_MINUTES


def _until(span: Span, minute: int) -> int:
    start, end = span
    for at in (minute, minute + WEEK_MINUTES):
        if start <= at < end:
            return end - at
    return 0


def fits(spans: Sequence[Span], minute: int, end_minute: int, duration_ms: int) -> bool:
    """True if something that takes ``duration_ms`` from ``minute`` on, until ``end_minute``, ends within the schedule.

    Both are minutes of the week by the wall clock, which a change of summer time moves in between.
    """
    left = minutes_left(spans, minute)
    if left >= WEEK_MINUTES:
        return True
    return duration_ms < WEEK_MINUTES * _MINUTE_MS and (end_minute - minute) % WEEK_MINUTES <= left
