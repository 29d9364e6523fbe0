"""Decides which runs may start and which wait: a bounded number of runs, a bounded queue, publishers in turn. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum


class Place(Enum):
    """The answer to a new run."""

    RUNS = "runs"
    WAITS = "waits"
    FULL = "full"


class Turns:
    """At most ``runs_max`` tasks run and ``queue_max`` wait. Publishers take turns, each with its tasks in order.

    So a publisher with a hundred tasks delays the first task of another publisher by one run, not by a hundred.
    """

    def __init__(self, runs_max: int, queue_max: int) -> None:
        self.runs_max = runs_max
        self.queue_max = queue_max
        self._running: set[str] = set()
        self._waiting: OrderedDict[str, deque[str]] = OrderedDict()
        self._queued = 0
        self.paused = False
        """While true, nothing starts. What comes waits."""

    @property
    def running(self) -> int:
        """The number of running runs."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """The number of waiting runs."""
        return self._queued

    def enter(self, key: str, publisher: str) -> Place:
        """Add a run, and return its place. After ``FULL`` nothing is kept of it."""
        if not self.paused and len(self._running) < self.runs_max:
            self._running.add(key)
            return Place.RUNS
        if self._queued >= self.queue_max:
            return Place.FULL
        self._waiting.setdefault(publisher, deque()).append(key)
        self._queued += 1
        return Place.WAITS

    def leave(self, key: str, publisher: str) -> list[str]:
        """Remove a run, whether it ran or waited. Returns the runs that start now."""
        self._running.discard(key)
        mine = self._waiting.get(publisher)
        if mine is not None and key in mine:
            mine.remove(key)
            self._queued -= 1
            if not mine:
                del self._waiting[publisher]
        return self.admit()

    def admit(self) -> list[str]:
        """Let waiting runs start, as far as there is room. Returns the runs that start now."""
        admitted: list[str] = []
        while not self.paused and self._waiting and len(self._running) < self.runs_max:
            turn, queue = self._waiting.popitem(last=False)
            admitted.append(queue.popleft())
            self._running.add(admitted[-1])
            self._queued -= 1
            if queue:
                self._waiting[turn] = queue
        return admitted

    def position(self, key: str) -> int | None:
        """The number of runs that must end before this one begins, from 1, or None if it does not wait."""
        queues = [list(queue) for queue in self._waiting.values()]
        order = [queue[at] for at in range(max(map(len, queues), default=0)) for queue in queues if at < len(queue)]
        return order.index(key) + 1 if key in order else None
