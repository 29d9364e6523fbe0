"""The bounded queue between the node's loop and the event writer. ``put`` never waits."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

from crabnet.limits import EVENT_QUEUE_MAX
from crabnet.monitor.events import Event
from crabnet.monitor.registry import Severity


@dataclass(slots=True)
class Batch:
    """The result of ``EventQueue.take``: events in order of arrival, and how many were dropped before them."""

    events: list[Event] = field(default_factory=list)
    dropped: int = 0
    dropped_alerts: int = 0


class Losses(NamedTuple):
    """How many events of each kind were dropped, and how many of all were alerts. There are as many kinds at most as
    the registry has.
    """

    by_kind: dict[str, int]
    alerts: int


class EventQueue:
    """Holds at most ``capacity`` events. When it is full, it drops the oldest event that is not an alert and counts it.

    It drops an alert only if the queue holds nothing but alerts: the oldest one, or the new event if that is no alert.
    ``put`` may be called by one thread while ``take`` runs in another.
    """

    def __init__(self, capacity: int = EVENT_QUEUE_MAX) -> None:
        if capacity < 1:
            raise ValueError(f"event queue capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._spared: deque[Event] = deque()
        """Alerts that were the oldest events when an event had to be dropped. All are older than ``_events``."""
        self._urgent = False
        self._dropped = 0
        self._dropped_alerts = 0
        self._lost: Counter[str] = Counter()
        self._lost_alerts = 0

    def __len__(self) -> int:
        return len(self._events) + len(self._spared)

    @property
    def urgent(self) -> bool:
        """True when an alert is waiting."""
        return self._urgent

    def put(self, event: Event) -> bool:
        """Add ``event``. False if this or an older event was dropped."""
        with self._lock:
            self._events.append(event)
            if event.severity is Severity.ALERT:
                self._urgent = True
            if len(self._events) + len(self._spared) <= self.capacity:
                return True
            self._drop_one()
            return False

    def take(self) -> Batch:
        """Remove and return all events, with the counts of drops since the last call."""
        with self._lock:
            events, self._events = self._events, deque()
            spared, self._spared = self._spared, deque()
            batch = Batch(dropped=self._dropped, dropped_alerts=self._dropped_alerts)
            self._urgent = False
            self._dropped = self._dropped_alerts = 0
        batch.events = [*spared, *events]
        return batch

    def oldest(self, count: int) -> list[Event]:
        """Up to ``count`` of the waiting events, oldest first. They stay in the queue."""
        with self._lock:
            return list(islice(chain(self._spared, self._events), count))

    def losses(self) -> Losses:
        """Everything that was dropped since the queue was made."""
        with self._lock:
            return Losses(dict(self._lost), self._lost_alerts)

    def _drop_one(self) -> None:
        self._dropped += 1
        while self._events:
            oldest = self._events.popleft()
            if oldest.severity is not Severity.ALERT:
                self._lost[oldest.kind] += 1
                return
            self._spared.append(oldest)
        self._lost[self._spared.popleft().kind] += 1
        self._dropped_alerts += 1
        self._lost_alerts += 1
