"""Gives what comes from the streams to all targets, and knows how far each target is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crabnet.alerts.messages import Entry
from crabnet.alerts.queue import TargetQueue
from crabnet.operations.events import Followed

Cursors = dict[str, dict[str, int]]
"""For each target (its key) and each stream the id of the last event with which the target is done."""


class Desk:
    """The queues of all targets.

    ``cursors`` are those of the last time. A target or stream that is not in it begins after ``begin_after``.
    """

    def __init__(
        self,
        queues: Mapping[str, TargetQueue],
        streams: Sequence[str],
        cursors: Mapping[str, Mapping[str, int]],
        begin_after: int,
    ) -> None:
        self.queues = queues
        self._done: Cursors = {
            key: {stream: cursors.get(key, {}).get(stream, begin_after) for stream in streams} for key in queues
        }
        self._reached = {
            stream: min((done[stream] for done in self._done.values()), default=begin_after) for stream in streams
        }
        self._gaps_told_by = streams[0]

    def reached(self, stream: str) -> int:
        """Where to follow a stream from."""
        return self._reached[stream]

    def take(self, stream: str, item: Followed) -> None:
        """An item of a stream has come."""
        before = self._reached[stream]
        self._reached[stream] = item.id
        for key, queue in self.queues.items():
            done = self._done[key]
            if item.gap is not None:
                # After a loss of the event log the ids begin again, so what was done has no meaning.
                done[stream] = min(done[stream], item.id) if item.id < before else done[stream]
                if stream == self._gaps_told_by and done[stream] <= item.gap.last_id:
                    queue.add(Entry(stream, before + 1, gap=item.gap))
            elif item.event is not None and item.id > done[stream]:
                queue.add(Entry(stream, item.id, event=item.event))

    def pass_over(self, stream: str, event_id: int) -> None:
        """No event of a stream up to this id is left to come."""
        self._reached[stream] = max(self._reached[stream], event_id)

    def cursors(self) -> Cursors:
        """How far each target is now."""
        return {key: {stream: self._cursor(key, stream) for stream in self._reached} for key in self.queues}

    def _cursor(self, key: str, stream: str) -> int:
        low = self.queues[key].low(stream)
        return max(self._reached[stream], self._done[key][stream]) if low is None else low - 1
