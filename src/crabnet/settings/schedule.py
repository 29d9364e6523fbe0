"""Reads the text of a schedule, such as ``Mon-Fri 22:00-07:00; Sat,Sun``. Pure."""

from __future__ import annotations

import re
from typing import Final

from crabnet.settings.kinds import Kind, Wrong

DAY_MINUTES: Final = 24 * 60
SCHEDULE_CHARS_MAX: Final = 1_000
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY_CHARS_MIN: Final = 2
_WORD: Final = re.compile(r"[^\s;]+")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})", re.ASCII)
_EXAMPLE: Final = "Mon-Fri 22:00-07:00; Sat,Sun"


def spans_of(text: str) -> tuple[tuple[int, int], ...]:
    """The spans of a schedule, from a minute of the week until another, which is greater. An empty text has none.

    Entries are separated by ``;``. An entry names days (``Mon-Fri``, ``Sat,Sun``; none means every day), then times
    (``22:00-07:00``, several separated by commas; none means the whole day). A span that ends before it begins goes on
    into the next day. Raises Wrong, which names the place of the first mistake.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for entry in text.split(";"):
        spans += _entry(entry, start)
        start += len(entry) + 1
    if text.strip(" ;\t") and not spans:
        raise Wrong(f"has no times; write for example {_EXAMPLE}")
    return tuple(sorted(set(spans)))


def _entry(entry: str, start: int) -> list[tuple[int, int]]:
    words = [(found[0], start + found.start()) for found in _WORD.finditer(entry)]
    if not words:
        return []
    days = list(range(len(_DAYS)))
    if not words[0][0][0].isdigit():
        days = _days(*words.pop(0))
    spans = [span for word, at in words for span in _times(word, at)] or [(0, DAY_MINUTES)]
    return [(day * DAY_MINUTES + first, day * DAY_MINUTES + last) for day in days for first, last in spans]


def _days(word: str, at: int) -> list[int]:
    days: list[int] = []
    for part in word.split(","):
        first, dash, last = part.partition("-")
        begin = _day(first, at)
        end = _day(last, at + len(first) + 1) if dash else begin
        days += [day % len(_DAYS) for day in range(begin, end + 1 if end >= begin else end + len(_DAYS) + 1)]
        at += len(part) + 1
    return days


def _day(name: str, at: int) -> int:
    if len(name) >= _DAY_CHARS_MIN:
        for day, full in enumerate(_DAYS):
            if full.startswith(name.lower()):
                return day
    raise _wrong(name, at, "a day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun, for example Mon-Fri")


def _times(word: str, at: int) -> list[tuple[int, int]]:
    spans = []
    for part in word.split(","):
        if part:  # a comma may be followed by a space
            first, dash, last = part.partition("-")
            if not dash:
                raise _wrong(part, at, "two times; write from-until, for example 22:00-07:00")
            begin, end = _minute(first, at), _minute(last, at + len(first) + 1)
            if begin in {DAY_MINUTES, end}:
                raise _wrong(part, at, "a time span: it has no length; the whole day is 00:00-24:00")
            spans.append((begin, end if end > begin else end + DAY_MINUTES))
        at += len(part) + 1
    return spans


def _minute(text: str, at: int) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise _wrong(text, at, "a time; write HH:MM, for example 07:30")
    minute = int(found[1]) * 60 + int(found[2])
    if int(found[2]) > 59 or minute > DAY_MINUTES:
        raise _wrong(text, at, "a time of day; the latest is 24:00")
    return minute


def _wrong(text: str, at: int, what: str) -> Wrong:
    shown = repr(text[:40]) if text else "nothing"
    return Wrong(f"has {shown} at character {at + 1}, which is not {what}")


class ScheduleKind(Kind):
    """Spans of the week. The value is the text as it was given; in TOML it may be an array of entries."""

    name = "schedule"

    def from_text(self, text: str) -> str:
        return " ".join(text.split())

    def from_toml(self, value: object) -> object:
        if not isinstance(value, list):
            return super().from_toml(value)
        return "; ".join(str(super(ScheduleKind, self).from_toml(item)) for item in value)

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not a text")
        if len(value) > SCHEDULE_CHARS_MAX:
            raise Wrong(f"has more than {SCHEDULE_CHARS_MAX} characters")
        spans_of(value)

    def range_text(self) -> str:
        return f"entries such as `{_EXAMPLE}`, separated by `;`"
