"""Events, by which the node reports to its operator. ``registry`` defines the kinds, docs/EVENTS.md lists them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from crabnet.limits import EVENT_STRING_CHARS_MAX, LEGACY_INTEGER_MAX
from crabnet.monitor.registry import EVENTS, EventKind, Severity

PayloadValue: TypeAlias = str | int | bool | None

_ELLIPSIS: Final = "…"
_INTEGER_MIN: Final = -(2**63)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Event(msgspec.Struct, gc=False):
    """One event. ``kind`` and ``source`` are plain text, so that files of newer versions stay readable.

    ``id`` increases by one from event to event of a data dir. It is 0 until the event log assigns it.
    ``ts`` is in whole seconds since the epoch. ``ts_ms`` is the same time in milliseconds.
    """

    id: int
    ts: int
    ts_ms: int
    node_id: str
    kind: str
    source: str
    severity: Severity
    payload: dict[str, str | int | bool | None]


class EventFieldWarning(UserWarning):
    """A payload field is not declared in the registry, or has a type that events do not carry.

    The field is left out, because an event must never stop a node. The tests turn this warning into an error.
    """


def make_event(
    kind: EventKind, now_ms: int, node_id: str, severity: Severity | None = None, /, **fields: PayloadValue
) -> Event:
    """Build an event of ``kind`` at ``now_ms`` (milliseconds since the epoch); raises nothing.

    ``severity`` replaces the default of the registry. Strings are cut at ``EVENT_STRING_CHARS_MAX`` characters, and
    integers beyond 64 bits become text. Undeclared fields are left out with an ``EventFieldWarning``.
    """
    return event_of(kind, now_ms, node_id, severity, fields)


def event_of(
    kind: EventKind, now_ms: int, node_id: str, severity: Severity | None, fields: dict[str, PayloadValue]
) -> Event:
    """Like ``make_event``, with the fields in a dict. The event takes over this dict."""
    spec = EVENTS[kind]
    if not fields.keys() <= spec.fields:
        fields = _declared_only(kind, fields)
    for name, value in fields.items():
        if type(value) is str:
            if value.isascii() and len(value) <= EVENT_STRING_CHARS_MAX:
                continue
        elif type(value) is int:
            if _INTEGER_MIN <= value <= LEGACY_INTEGER_MAX:
                continue
        elif value is None or value is True or value is False:
            continue
        fields[name] = _bounded(kind, name, value)
    return Event(0, now_ms // 1000, now_ms, node_id, kind, spec.source, severity or spec.severity, fields)


def describe(event: Event) -> str:
    """One line for people: id, UTC time, severity, kind, fields. Terminal control characters are escaped."""
    fields = " ".join(f"{_shown(name)}={_shown(value)}" for name, value in event.payload.items())
    return f"{event.id} {utc(event.ts_ms)} {event.severity:7} {_shown(event.kind)} {fields}".rstrip()


class EventEncoder:
    """Encodes events as newline-terminated JSON lines."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def lines(self, events: Sequence[Event]) -> bytes:
        """The lines of ``events`` in order; every event built by ``make_event`` can be encoded."""
        return self._encoder.encode_lines(events)


def _declared_only(kind: EventKind, fields: dict[str, PayloadValue]) -> dict[str, PayloadValue]:
    declared = EVENTS[kind].fields
    for name in sorted(fields.keys() - declared):
        warnings.warn(f"event {kind}: field {name!r} is not in the registry", EventFieldWarning, stacklevel=3)
    return {name: value for name, value in fields.items() if name in declared}


def _bounded(kind: EventKind, name: str, value: object) -> PayloadValue:
    """``value`` in a form that can be encoded and is not too long."""
    if isinstance(value, int):
        return int(value) if _INTEGER_MIN <= value <= LEGACY_INTEGER_MAX else _cut(hex(value))
    if isinstance(value, str):
        # str() of an enum member is its value; lone surrogates, which UTF-8 cannot encode, become "?"
        return _cut(str(value)).encode("utf-8", "replace").decode("utf-8")
    warnings.warn(f"event {kind}: field {name!r} is a {type(value).__name__}", EventFieldWarning, stacklevel=3)
    return None


def _cut(text: str) -> str:
    if len(text) <= EVENT_STRING_CHARS_MAX:
        return text
    return text[: EVENT_STRING_CHARS_MAX - 1] + _ELLIPSIS


def _shown(value: PayloadValue) -> str:
    if isinstance(value, str):
        plain = value.isascii() and value.isprintable() and value != "" and " " not in value and '"' not in value
        return value if plain else json.dumps(value)
    return json.dumps(value)


def utc(ts_ms: int) -> str:
    """A time in milliseconds since the epoch in ISO 8601, UTC, to the millisecond."""
    try:
        return (_EPOCH + timedelta(milliseconds=ts_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{ts_ms}ms"
