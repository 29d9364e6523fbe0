"""The streams of events that alerts are made of. Functions block: they are called in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.alerts.config import AlertsConfig
from crabnet.control.client import JsonValue, call, stream
from crabnet.errors import CrabnetError
from crabnet.monitor.registry import Severity
from crabnet.operations import access, events
from crabnet.operations.access import ClientReport
from crabnet.operations.events import Followed, Order

Answer = TypeVar("Answer", bound=Struct)

ALERTS: Final = "alert"
KINDS: Final = "kinds"


class EventStream(Struct, frozen=True, kw_only=True):
    """One stream: its name, which events it has, and which of them another stream has, too."""

    name: str
    wanted: dict[str, list[str]]
    has_alerts: bool

    def shows(self, item: Followed) -> bool:
        """Whether an item is to be told. An alert of a listed kind comes in both streams."""
        return self.has_alerts or item.event is None or item.event.severity is not Severity.ALERT


def streams_of(config: AlertsConfig) -> list[EventStream]:
    """The events of severity alert, and those of the kinds that the settings list."""
    made = [EventStream(name=ALERTS, wanted={"severity": [Severity.ALERT.value]}, has_alerts=True)]
    if config.alert_kinds:
        made.append(EventStream(name=KINDS, wanted={"kind": [*config.alert_kinds]}, has_alerts=False))
    return made


class NodeDoor:
    """What the process asks of its node. Every method raises the CrabnetErrors of ``control.client``."""

    def __init__(self, config: AlertsConfig) -> None:
        self._data_dir = config.directory
        self._timeout_ms = config.control_timeout_ms

    def follow(self, source: EventStream, after: int) -> Iterator[Followed | None]:
        """The items of a stream behind ``after``; None whenever none has come for ALERT_IDLE_MS."""
        params: dict[str, JsonValue] = {**_json(source), "after": after}
        for item in stream(self._data_dir, events.FOLLOW.name, params, idle_ms=limits.ALERT_IDLE_MS):
            yield None if item is None else _converted(item, Followed)

    def examined(self, source: EventStream, after: int) -> int:
        """An id up to which a stream has no event behind ``after``."""
        params: dict[str, JsonValue] = {**_json(source), "after": after, "limit": 1, "order": Order.OLDEST.value}
        page = _converted(call(self._data_dir, events.LIST.name, params, self._timeout_ms), events.EventList)
        return after if page.events else max(after, page.next)

    def report(self, report: ClientReport) -> None:
        """Have an event made."""
        params: dict[str, JsonValue] = {"reports": [msgspec.to_builtins(report)]}
        call(self._data_dir, access.REPORT.name, params, self._timeout_ms)


def follow_all(
    door: NodeDoor,
    source: EventStream,
    after: int,
    take: Callable[[Followed], None],
    idle: Callable[[int], None],
) -> None:
    """Pass on all items of a stream until the node ends it. ``idle`` gets an id up to which nothing is left to come.

    Raises what ``NodeDoor.follow`` raises.
    """
    for item in door.follow(source, after):
        if item is not None:
            after = item.id
            take(item)
        else:
            after = door.examined(source, after)
            idle(after)


def _json(source: EventStream) -> dict[str, JsonValue]:
    return {name: [*values] for name, values in source.wanted.items()}


def _converted(value: JsonValue, wanted: type[Answer]) -> Answer:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        raise CrabnetError("the node's answer has another form; restart the node after an upgrade") from None
