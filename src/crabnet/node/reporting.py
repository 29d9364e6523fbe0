"""Notices to events and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from crabnet.core.effects import FieldValue
from crabnet.monitor.events import make_event
from crabnet.monitor.registry import EventKind, Severity
from crabnet.monitor.writer import EventLog

_KINDS = {kind.value: kind for kind in EventKind}


class Reporter:
    """Counts every notice by kind and Reason, and hands it to the event log if there is one."""

    def __init__(self, node_id: str, log: EventLog | None, clock_ms: Callable[[], int]) -> None:
        self.counters: Counter[str] = Counter()
        self._node_id = node_id
        self._log = log
        self._clock_ms = clock_ms

    def notify(self, kind: str, fields: Mapping[str, FieldValue], severity: Severity | None = None) -> None:
        """One event of a registered kind."""
        reason = fields.get("reason")
        self.counters[f"{kind}.{reason}" if isinstance(reason, str) else kind] += 1
        if self._log is not None:
            event_kind = _KINDS[kind]
            present = {name: value for name, value in fields.items() if value is not None}
            self._log.put(make_event(event_kind, self._clock_ms(), self._node_id, severity, **present))
