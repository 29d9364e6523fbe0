"""Parses event lines from bytes, without I/O. It tolerates a torn last line and damaged lines."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from crabnet.limits import EVENT_LINE_BYTES_MAX, INTEGER_MAX
from crabnet.monitor.events import Event

CURRENT_NAME: Final = "events.ndjson"
LOCK_NAME: Final = "events.lock"
_ROTATED: Final = re.compile(r"events-([1-9][0-9]{0,18})\.ndjson")
_ASIDE: Final = re.compile(r"events-aside-([0-9]+)\.ndjson")
_EVENT_BYTES_MIN: Final = 64
"""No event line is shorter. This bounds how many events a range of damaged bytes can have contained."""


def rotated_name(first_id: int) -> str:
    """Name of the rotated file whose first event is ``first_id``."""
    return f"events-{first_id}.ndjson"


def rotated_first_id(name: str) -> int | None:
    """The first id in the file with this name, or ``None`` if it is not a rotated event file."""
    match = _ROTATED.fullmatch(name)
    first_id = int(match.group(1)) if match else 0
    return first_id if 1 <= first_id <= INTEGER_MAX else None


def aside_name(moment_ms: int) -> str:
    """Name for bytes that were not events and were set aside at ``moment_ms``. Readers skip such files."""
    return f"events-aside-{moment_ms}.ndjson"


def aside_moment_ms(name: str) -> int | None:
    """When the file with this name was set aside, or ``None`` if it is not such a file."""
    match = _ASIDE.fullmatch(name)
    return int(match.group(1)) if match else None


class LineScanner:
    """Turns the bytes of one event file into events. Feed it chunks in order, starting at a line boundary.

    A line counts only if it has its newline. Ids must follow each other without gaps, except across damaged bytes. A
    line whose id does not fit is damaged. The scanner holds back the first event until the second confirms its id, or
    until ``finish`` is called. If the two contradict each other, the later one counts. With ``after`` the scanner
    starts behind the event with that id, so that even the first event must follow.
    """

    def __init__(self, after: int = 0) -> None:
        self.damaged_lines = 0
        self.valid_end = 0
        """Offset, in the bytes fed so far, of the end of the last valid line."""
        self.spans: list[tuple[int, int]] = []
        """Offsets, in the bytes fed so far, of begin and end of the lines of the events returned last."""
        self.last_id = after
        """Id of the last valid event; 0 before the first."""
        self._fed = 0
        self._held: Event | None = None
        self._held_span = (0, 0)
        self._suspect_bytes = 0
        self._rest = b""
        self._skipping = False
        self._decoder = msgspec.json.Decoder(Event)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes, in file order."""
        self._fed += len(chunk)
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        position = self._fed - len(self._rest) - sum(map(len, lines)) - len(lines)
        events: list[Event] = []
        self.spans = []
        for line in lines:
            start, position = position, position + len(line) + 1
            if self._accept(line, (start, position), events):
                self.valid_end = position
        if len(self._rest) > EVENT_LINE_BYTES_MAX:
            self._suspect_bytes += len(self._rest)
            self._rest = b""
            self._skipping = True
        return events

    def finish(self) -> list[Event]:
        """The event that is still held back, if any. At the end of a file nothing can contradict it."""
        self.spans = []
        return self._release()

    def _release(self) -> list[Event]:
        held, self._held = self._held, None
        if held is None:
            return []
        self.spans.append(self._held_span)
        return [held]

    def _accept(self, line: bytes, span: tuple[int, int], events: list[Event]) -> bool:
        event = None if self._skipping else self._decode(line)
        self._skipping = False
        follows = event is not None and self._follows(event.id)
        if event is None or not (follows or self._held is not None or self.last_id == 0):
            self.damaged_lines += 1
            self._suspect_bytes += len(line) + 1
            return False
        self._suspect_bytes = 0
        if follows:
            if self._held is not None:
                events.extend(self._release())
            events.append(event)
            self.spans.append(span)
        else:
            self.damaged_lines += self._held is not None
            self._held, self._held_span = event, span
        self.last_id = event.id
        return True

    def _follows(self, event_id: int) -> bool:
        if self.last_id == 0:
            return False
        return self.last_id < event_id <= self.last_id + 1 + self._suspect_bytes // _EVENT_BYTES_MIN

    def _decode(self, line: bytes) -> Event | None:
        if len(line) > EVENT_LINE_BYTES_MAX:
            return None
        try:
            event = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return event if 1 <= event.id <= INTEGER_MAX else None
