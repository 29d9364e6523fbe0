"""Events of a real node over kills and restarts: a follower sees each once, and the index is there and right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crabnet.limits import EVENT_BLOCK_EVENTS, INTEGER_MAX
from crabnet.monitor.events import EventEncoder, make_event
from crabnet.monitor.index.sealed import SealedIndex
from crabnet.monitor.index.tables import INDEX_NAME
from crabnet.monitor.query import EventPage, EventQuery
from crabnet.monitor.reader import EventReader, follow, pages
from crabnet.monitor.registry import EventKind
from crabnet.monitor.snapshot import Snapshot
from crabnet.storage.files import DIR_MODE, FILE_MODE, RealFiles
from tests.support.nodes import NodeProcess, Nodes, wait_for

OLD = 3_000


def old_events(data_dir: Path) -> None:
    """A log from before there was an index."""
    data_dir.mkdir(mode=DIR_MODE)
    events = [make_event(EventKind.RUN_RENEWED, 1_000, "n", seed_id=f"seed-{number % 100}") for number in range(OLD)]
    for number, event in enumerate(events, start=1):
        event.id = number
    fd = os.open(data_dir / "events.ndjson", os.O_WRONLY | os.O_CREAT, FILE_MODE)
    with os.fdopen(fd, "wb") as file:
        file.write(EventEncoder().lines(events))


def indexed_to(data_dir: Path) -> int:
    """The last id in the sealed index; 0 without one."""
    index = SealedIndex.open(RealFiles(), data_dir)
    if index is None:
        return 0
    try:
        with Snapshot(RealFiles(), data_dir) as snapshot, index.reading(snapshot) as tables:
            return tables.indexed_to()
    finally:
        index.close()


def await_index(node: NodeProcess) -> None:
    """Wait until the index has the old events and is sealed."""
    wait_for("the sealed index", lambda: indexed_to(node.data_dir) >= OLD - EVENT_BLOCK_EVENTS or None)


@pytest.mark.deep
def test_a_follower_sees_each_event_once_over_kills_and_the_index_follows(nodes: Nodes) -> None:
    node = nodes.make("d")
    old_events(node.data_dir)
    seen: list[int] = []
    with EventReader(node.data_dir) as reader:
        following = follow(reader, EventQuery())
        for orderly in (False, True, False, True):
            node.start()
            node.publish()
            if orderly:
                await_index(node)
                node.end()
            else:
                node.kill()
            while isinstance(page := next(following), EventPage) and page.events:
                seen += [event.id for event in page.events]
        newest = reader.page(EventQuery(limit=1))
        assert seen == list(range(1, newest.last_id + 1))
        query = EventQuery(seed_id="seed-7", limit=INTEGER_MAX, newest_first=False)
        found = [event.id for page in pages(reader, query) for event in page.events]
        assert found == list(range(8, OLD, 100))


@pytest.mark.deep
def test_a_damaged_index_is_told_and_built_again(nodes: Nodes) -> None:
    node = nodes.make("d")
    old_events(node.data_dir)
    node.start()
    await_index(node)
    node.end()
    path = node.data_dir / INDEX_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert indexed_to(node.data_dir) == 0
    node.start()
    node.await_event("index_rebuilt", file=INDEX_NAME)
    await_index(node)
