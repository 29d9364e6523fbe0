"""Events and items of streams for the tests of alerts."""

from __future__ import annotations

from crabnet.monitor.events import Event
from crabnet.monitor.registry import EventKind, Severity
from crabnet.operations.events import Followed, Gap

NODE = "12D3KooWExample"


def event(
    number: int, kind: EventKind = EventKind.CLOCK_STEPPED, severity: Severity = Severity.ALERT, **payload: str | int
) -> Event:
    """An event with this id."""
    return Event(number, number, number * 1000, NODE, kind.value, "node", severity, dict(payload))


def item(number: int, kind: EventKind = EventKind.CLOCK_STEPPED) -> Followed:
    """An event as a stream shows it."""
    return Followed(id=number, event=event(number, kind))


def gap(first: int, last: int) -> Followed:
    """A gap as a stream shows it."""
    return Followed(id=last, gap=Gap(first_id=first, last_id=last))
