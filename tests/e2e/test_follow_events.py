"""A follower of a node's events has each event exactly once and in order, however often the node is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from crabnet.control.client import JsonValue, NodeNotRunningError, stream
from crabnet.errors import CrabnetError, NodeTimeoutError, Reason
from crabnet.monitor.reader import read_events
from tests.support.nodes import Json, NodeProcess, wait_for

IDLE_MS = 50


class Follower(Thread):
    """Follows from ``after`` on (None: only what comes). Continues behind its last item whenever the stream ends."""

    def __init__(self, data_dir: Path, after: int | None = 0) -> None:
        super().__init__(daemon=True)
        self.data_dir = data_dir
        self.after = after
        self.items: list[Json] = []
        self.over = Event()
        self.error: CrabnetError | None = None

    def run(self) -> None:
        while not self.over.is_set():
            try:
                for item in self._items():
                    if self.over.is_set():
                        return
                    if isinstance(item, dict):
                        self.items.append(item)
            except (NodeNotRunningError, NodeTimeoutError):
                self.over.wait(0.02)
            except CrabnetError as error:
                self.error = error
                return

    def _items(self) -> Iterator[JsonValue]:
        after: JsonValue = self.items[-1]["id"] if self.items else self.after
        return stream(self.data_dir, "events.follow", {"after": after}, IDLE_MS)


def test_each_event_comes_once_over_kills(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node").start()
    follower = Follower(node.data_dir)
    follower.start()
    try:
        for number in range(5):
            node.ask("seed.publish", title=f"t{number}", command="true", announce=False)
            node.kill()
            node.start()
        node.end(signal.SIGTERM)
        written = read_events(node.data_dir).events
        last_id = written[-1].id
        node.start()
        wait_for("the follower", lambda: follower.items and int(str(follower.items[-1]["id"])) >= last_id)
    finally:
        follower.over.set()
        follower.join(30)
        if node.running:
            node.end()
    assert follower.error is None
    seen = [item["event"] for item in follower.items]
    ids = [event["id"] for event in seen if isinstance(event, dict)]
    assert ids == list(range(1, len(ids) + 1)), "no gap, no duplicate, in order"
    kinds = {event.id: event.kind for event in read_events(node.data_dir).events}
    assert [event["kind"] for event in seen if isinstance(event, dict)] == [
        kinds[number] for number in range(1, len(ids) + 1)
    ]


def test_without_a_place_only_what_comes_is_shown(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node").start()
    before = read_events(node.data_dir).last_id
    follower = Follower(node.data_dir, None)
    follower.start()

    def publish() -> None:
        node.ask("seed.publish", title="t", command="true", announce=False)

    def published() -> bool:
        publish()
        return len(follower.items) > 1

    try:
        wait_for("the follower follows", published)
        for _ in range(3):
            publish()
        last_id = read_events(node.data_dir).last_id
        wait_for("it has them all", lambda: int(str(follower.items[-1]["id"])) >= last_id)
    finally:
        follower.over.set()
        follower.join(30)
        node.end()
    assert follower.error is None
    assert [item["gap"] for item in follower.items if item["gap"] is not None] == []
    ids = [int(str(item["id"])) for item in follower.items]
    assert ids[0] >= before
    assert follower.items[0]["event"] is None, "the first item is the place"
    assert all(item["event"] is not None for item in follower.items[1:])
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_what_is_gone_is_a_gap(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node").start()
    try:
        last_id = read_events(node.data_dir).last_id
        items = stream(node.data_dir, "events.follow", {"after": last_id + 1_000})
        first = next(items)
        assert isinstance(first, dict)
        gap = first["gap"]
        assert isinstance(gap, dict)
        assert gap["last_id"] == last_id + 1_000
        node.ask("seed.publish", title="t", command="true", announce=False)
        following = next(items)
        assert isinstance(following, dict)
        assert int(str(following["id"])) == int(str(first["id"])) + 1
        items.close()  # type: ignore[attr-defined]
    finally:
        node.end()


def test_filters_and_pages(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node").start()
    try:
        seed_ids = [
            node.ask("seed.publish", title=f"t{number}", command="true", announce=False)["seed"]["id"]  # type: ignore[index,call-overload]
            for number in range(3)
        ]
        follower = stream(node.data_dir, "events.follow", {"after": 0, "seed": seed_ids[1]})
        item = next(follower)
        follower.close()  # type: ignore[attr-defined]
        assert isinstance(item, dict)
        assert item["event"]["payload"]["seed_id"] == seed_ids[1]  # type: ignore[index,call-overload]
        found: list[JsonValue] = []
        before: JsonValue = None
        while True:
            page = node.ask("events.list", kind=["envelope_created"], limit=1, before=before)
            found += page["events"]  # type: ignore[arg-type]
            before = page["next"]
            if page["complete"]:
                break
        assert [event["payload"]["seed_id"] for event in found] == seed_ids[::-1]  # type: ignore[index,call-overload]
        for wrong in (
            {"kind": ["nothing"]},
            {"limit": 0},
            {"limit": 1_001},
            {"after": -1},
            {"since": -1},
            {"order": "x"},
        ):
            with pytest.raises(CrabnetError) as caught:
                node.ask("events.list", **wrong)
            assert caught.value.reason is Reason.INVALID_ARGUMENT
    finally:
        node.end()
