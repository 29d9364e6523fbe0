"""Who may run now and who waits: a bounded number of runs, a bounded queue, publishers in turn. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum


class Place(Enum):
    """What a newcomer is told."""

    RUNS = "runs"
    WAITS = "waits"
    FULL = "full"


class Turns:
    """At most ``runs_max`` run and ``queue_max`` wait. Each publisher's runs are in order, publishers take turns.

    So somebody with a hundred tasks delays another's first one by one run, not by a hundred.
    """

    def __init__(self, runs_max: int, queue_max: int) -> None:
        self.runs_max = runs_max
        self.queue_max = queue_max
        self._running: set[str] = set()
        self._waiting: OrderedDict[str, deque[str]] = OrderedDict()
        self._queued = 0

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """How many wait now."""
        return self._queued

    def enter(self, key: str, publisher: str) -> Place:
        """A newcomer. Nothing is kept of one that is told ``FULL``."""
        if len(self._running) < self.runs_max:
            self._running.add(key)
            return Place.RUNS
        if self._queued >= self.queue_max:
            return Place.FULL
        self._waiting.setdefault(publisher, deque()).append(key)
        self._queued += 1
        return Place.WAITS

    def leave(self, key: str, publisher: str) -> list[str]:
        """Somebody is gone, whether it ran or waited; returns those who run from now on."""
        self._running.discard(key)
        mine = self._waiting.get(publisher)
        if mine is not None and key in mine:
            mine.remove(key)
            self._queued -= 1
            if not mine:
                del self._waiting[publisher]
        admitted: list[str] = []
        while self._waiting and len(self._running) < self.runs_max:
            turn, queue = self._waiting.popitem(last=False)
            admitted.append(queue.popleft())
            self._running.add(admitted[-1])
            self._queued -= 1
            if queue:
                self._waiting[turn] = queue
        return admitted

    def position(self, key: str) -> int | None:
        """How many runs must end until this one begins, from 1; None if it does not wait."""
        queues = [list(queue) for queue in self._waiting.values()]
        order = [queue[at] for at in range(max(map(len, queues), default=0)) for queue in queues if at < len(queue)]
        return order.index(key) + 1 if key in order else None
