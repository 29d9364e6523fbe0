"""Turns effects into frames of the journal. Mostly one frame holds many effects. Effects that are too large for one
frame take several.

Effects that take several frames start with a new frame. So once effects are durable, all records up to the end of their
last frame belong to durable effects, and an index of the released effects has no gaps.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from crabnet import limits
from crabnet.core.effects import Effects
from crabnet.storage.journal.segment import FramePosition

T = TypeVar("T")


class Stretch(NamedTuple):
    """Records of one ``Effects`` in one frame. Record ``first`` of the effects is record ``record_no`` of the frame."""

    first: int
    position: FramePosition
    record_no: int


@dataclass(slots=True)
class Durable:
    """Effects, and the places of their durable records. Once effects are released, all their records are durable."""

    effects: Effects
    stretches: list[Stretch] = field(default_factory=list)

    def place(self, record_no: int) -> tuple[FramePosition, int]:
        """The frame that holds record ``record_no`` of the effects, and its number in that frame."""
        at = bisect(self.stretches, record_no, key=lambda stretch: stretch.first) - 1
        first, position, base = self.stretches[at]
        return position, base + record_no - first


@dataclass(slots=True)
class _Item(Generic[T]):
    durable: Durable
    tag: T
    bytes_left: int
    """The size of the records that are in no frame yet. Each counts one byte more, for its separator."""
    framed: int = 0
    """The number of records that are in a frame already."""

    @property
    def alone(self) -> bool:
        """True if the effects must not share a frame with others."""
        return self.durable.effects.alone

    def fitting(self, room: int) -> tuple[int, int]:
        """How many of the remaining records fit into ``room`` bytes (at least one), and their size in bytes."""
        records = self.durable.effects.records
        if self.bytes_left <= room:
            return len(records) - self.framed, self.bytes_left
        count, size = 1, len(records[self.framed]) + 1
        for at in range(self.framed + 1, len(records)):
            if size + len(records[at]) + 1 > room:
                break
            count += 1
            size += len(records[at]) + 1
        return count, size


@dataclass(slots=True)
class Batch(Generic[T]):
    """The records of one frame; none if there is nothing to write."""

    records: list[bytes] = field(default_factory=list)
    whole: list[tuple[Durable, T]] = field(default_factory=list)
    """Effects whose last record is in this frame, in order. They are durable once it is synced."""
    _parts: list[tuple[Durable, int, int]] = field(default_factory=list)

    def add(self, item: _Item[T], count: int) -> None:
        """Take the next ``count`` records of effects."""
        records = item.durable.effects.records
        if count:
            self._parts.append((item.durable, item.framed, len(self.records)))
            self.records += records[item.framed : item.framed + count]
            item.framed += count
        if item.framed == len(records):
            self.whole.append((item.durable, item.tag))

    def written(self, position: FramePosition) -> None:
        """Note the place of the records."""
        for durable, first, record_no in self._parts:
            durable.stretches.append(Stretch(first, position, record_no))


class Framing(Generic[T]):
    """Effects that wait for the journal, each with a tag of the caller.

    A frame holds at most ``frame_bytes`` of records, unless a single one is larger.
    """

    def __init__(self, frame_bytes: int = limits.FRAME_BYTES_TARGET) -> None:
        self._frame_bytes = frame_bytes
        self._pending: deque[_Item[T]] = deque()
        self._records = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def size(self) -> tuple[int, int]:
        """How many records wait, and their size in bytes."""
        return self._records, self._bytes

    @property
    def full(self) -> bool:
        """True while so much waits that the caller should not add more."""
        return self._records >= limits.COMMIT_RECORDS_MAX or self._bytes >= limits.COMMIT_BYTES_MAX

    def put(self, effects: Effects, tag: T) -> None:
        """Add effects at the end of the queue."""
        size = sum(map(len, effects.records)) + len(effects.records)
        self._pending.append(_Item(Durable(effects), tag, size))
        self._records += len(effects.records)
        self._bytes += size

    def take(self) -> Batch[T]:
        """Take the next frame from the queue. The rest of too large effects goes into the frames after it."""
        batch: Batch[T] = Batch()
        room = self._frame_bytes
        while self._pending:
            item = self._pending[0]
            apart = bool(batch.whole) and (item.alone or batch.whole[-1][0].effects.alone)
            if apart or (item.bytes_left > room and batch.records):
                break
            count, size = item.fitting(room)
            room -= size
            item.bytes_left -= size
            self._records -= count
            self._bytes -= size
            batch.add(item, count)
            if item.bytes_left:
                break
            self._pending.popleft()
        return batch

    def clear(self) -> list[T]:
        """Drop all waiting effects. Returns their tags."""
        tags = [item.tag for item in self._pending]
        self._pending.clear()
        self._records = self._bytes = 0
        return tags
