"""The log of a node for its operator: events as sentences, and other lines. It never waits for its reader."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from crabnet import limits
from crabnet.monitor.events import Event, PayloadValue, utc
from crabnet.monitor.sentences import Level, level_of, sentence
from crabnet.plain import plain

_PREFIXES: Final = {Level.DEBUG: "debug: ", Level.INFO: "", Level.WARNING: "WARNING: ", Level.ERROR: "ALERT: "}


class OperatorLog:
    """Writes lines of at least ``level``, as text or as JSON objects, with time stamps if ``stamped``.

    ``write`` gets a line of at most LOG_LINE_BYTES_MAX bytes with its newline. It must not wait. It returns False if
    it cannot write the line. Lost lines are counted, and the next line that is written is preceded by their number. At
    most LOG_LINES_PER_WINDOW lines of each kind and level are written in a window of LOG_WINDOW_MS; one line at its end
    says how many were left out. May be used by several threads.
    """

    def __init__(
        self,
        write: Callable[[str], bool],
        clock_ms: Callable[[], int],
        *,
        level: Level = Level.INFO,
        as_json: bool = False,
        stamped: bool = True,
    ) -> None:
        """``clock_ms`` returns milliseconds since the epoch."""
        self._write = write
        self._clock_ms = clock_ms
        self._rank = level.rank
        self._as_json = as_json
        self._stamped = stamped
        self._lock = threading.Lock()
        self._window_ms = 0
        self._told: Counter[tuple[str, Level]] = Counter()
        self._lost = 0

    def tell(self, event: Event) -> None:
        """Write the sentence about an event."""
        usual = level_of(event)
        if usual is not None and usual.rank < self._rank:
            return
        level, text = sentence(event)
        self.say(text, event.kind, level, event.payload)

    def say(
        self,
        text: str,
        kind: str = "node",
        level: Level = Level.INFO,
        fields: Mapping[str, PayloadValue] | None = None,
    ) -> None:
        """Write a line that is no event, or the sentence of one. ``kind`` names what it is about."""
        if level.rank < self._rank:
            return
        with self._lock:
            self._turn()
            topic = (kind, level)
            self._told[topic] += 1
            if self._told[topic] <= limits.LOG_LINES_PER_WINDOW:
                self._put(text, kind, level, fields or {})

    def warn(self, text: str, kind: str) -> None:
        """Write what a part of the node says about itself."""
        self.say(text, kind, Level.WARNING)

    def tick(self) -> None:
        """Report at the end of each window how many lines were left out. Call this now and then."""
        with self._lock:
            self._turn()

    def line(self, text: str, kind: str, level: Level, fields: Mapping[str, PayloadValue]) -> str:
        """A line in the format of this log, with its newline."""
        now = utc(self._clock_ms())
        text = plain(text)
        if len(text) > limits.LOG_TEXT_CHARS_MAX:
            text = text[: limits.LOG_TEXT_CHARS_MAX - 1] + "…"
        if not self._as_json:
            return f"{now + ' ' if self._stamped else ''}{_PREFIXES[level]}{text}\n"
        made: dict[str, object] = {"ts": now, "level": level.value, "kind": kind, "message": text, "fields": fields}
        line = json.dumps(made, separators=(",", ":"))
        if len(line) >= limits.LOG_LINE_BYTES_MAX:  # it would not be written as a whole
            made |= {"message": text[: limits.LOG_FIELD_CHARS_MAX], "fields": {}, "cut": True}
            line = json.dumps(made, separators=(",", ":"))
        return line + "\n"

    def _put(self, text: str, kind: str, level: Level, fields: Mapping[str, PayloadValue]) -> None:
        if self._lost:
            words = f"{self._lost} lines were lost, because nobody read this log"
            if not self._write(self.line(words, "lines_lost", Level.WARNING, {"count": self._lost})):
                self._lost += 1
                return
            self._lost = 0
        if not self._write(self.line(text, kind, level, fields)):
            self._lost += 1

    def _turn(self) -> None:
        """Begin another window if this one is over."""
        now_ms = self._clock_ms()
        if 0 <= now_ms - self._window_ms < limits.LOG_WINDOW_MS:
            return
        self._window_ms = now_ms
        told, self._told = self._told, Counter()
        for (kind, level), count in told.items():
            more = count - limits.LOG_LINES_PER_WINDOW
            if more > 0:
                within_s = limits.LOG_WINDOW_MS // 1000
                self._put(f"{more} more lines about {kind} left out within {within_s} s", kind, level, {"count": more})
