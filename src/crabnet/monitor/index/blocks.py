"""Cuts event files into blocks, and reads the events of a block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from crabnet.limits import EVENT_BLOCK_BYTES_MAX, EVENT_BLOCK_EVENTS, EVENT_INDEX_STEP_BYTES
from crabnet.monitor.events import Event
from crabnet.monitor.index.tables import Block, StaleError, clamped
from crabnet.monitor.lines import LineScanner
from crabnet.monitor.query import terms_of
from crabnet.monitor.snapshot import Snapshot


class Described(NamedTuple):
    """A block with what the index says about it: the least and greatest ``ts_ms`` and the terms."""

    block: Block
    ts_min: int
    ts_max: int
    terms: set[int]


@dataclass(slots=True)
class Cut:
    """Blocks that follow each other in one file. They end at byte ``end``; ``last_id`` is the last id up to there."""

    blocks: list[Described]
    end: int
    last_id: int
    events: int = 0
    at_end_of_file: bool = False


def cut_blocks(snapshot: Snapshot, file: int, start: int, after: int) -> Cut:
    """Cut about EVENT_INDEX_STEP_BYTES of a file into blocks, from byte ``start`` on, where event ``after`` ended.

    At the end of a rotated file the last block may be short. The file that still grows ends with a whole block.
    Raises ``OSError``.
    """
    scanner = LineScanner(after if start else 0)
    cut = Cut([], start, after)
    pending: list[Event] = []
    begin = offset = start
    while not cut.at_end_of_file and (offset - start < EVENT_INDEX_STEP_BYTES or not cut.blocks):
        chunk = snapshot.read(file, offset, EVENT_INDEX_STEP_BYTES)
        offset += len(chunk)
        cut.at_end_of_file = not chunk
        events = scanner.feed(chunk) if chunk else scanner.finish()
        for event, (line, line_end) in zip(events, scanner.spans, strict=True):
            if event.id <= after:
                continue
            if not pending:
                begin = start + line
            pending.append(event)
            end = start + line_end
            if len(pending) == EVENT_BLOCK_EVENTS or end - begin >= EVENT_BLOCK_BYTES_MAX:
                _close(cut, file, begin, end, pending)
                pending = []
    if cut.at_end_of_file and not snapshot.is_current(file):
        if pending:
            _close(cut, file, begin, start + scanner.valid_end, pending)
        cut.end = offset
    return cut


def _close(cut: Cut, file: int, begin: int, end: int, events: list[Event]) -> None:
    block = Block(events[0].id, events[-1].id, file, begin, end - begin)
    times = [clamped(event.ts_ms) for event in events]
    cut.blocks.append(Described(block, min(times), max(times), terms_of(events)))
    cut.end, cut.last_id = end, block.last_id
    cut.events += len(events)


def events_of(snapshot: Snapshot, block: Block) -> Iterator[Event]:
    """The events of a block, in the order of the file; none if the file was deleted.

    Raises ``StaleError`` if the bytes are not that block.
    """
    content = snapshot.read(block.file, block.offset, block.length)
    if not content and block.file not in snapshot.firsts:
        return iter(())
    events = LineScanner(block.first_id - 1).feed(content)
    if not events or events[0].id != block.first_id or events[-1].id != block.last_id:
        raise StaleError(f"the block from event {block.first_id} on is not where it was")
    return iter(events)
