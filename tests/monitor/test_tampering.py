"""Somebody else moves, cuts or rotates the events file: nothing is lost by it, and no id comes twice (own-7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.monitor.lines import CURRENT_NAME
from crabnet.monitor.reader import read_events
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import LAST_NAME
from tests.monitor.support import NOW_MS, fill, open_log

WAYS = ["moved", "removed", "truncated", "copied and truncated", "replaced", "extended"]


def tamper(directory: Path, way: str) -> None:
    """As logrotate and people do it."""
    path = directory / CURRENT_NAME
    if way == "moved":
        path.rename(directory / "events.ndjson.1")
    elif way == "removed":
        path.unlink()
    elif way == "replaced":
        path.rename(directory / "events.ndjson.1")
        path.write_text("")
    elif way == "extended":
        with path.open("a") as file:
            file.write("what is no event\n")
    else:
        if way.startswith("copied"):
            (directory / "events.ndjson.1").write_bytes(path.read_bytes())
        with path.open("r+b") as file:
            file.truncate()


@pytest.mark.parametrize("way", WAYS)
def test_it_is_told_and_written_in_its_place_from_then_on(tmp_path: Path, way: str) -> None:
    log = open_log(tmp_path)
    fill(log, range(3))
    log.flush(NOW_MS)
    before = (tmp_path / CURRENT_NAME).read_bytes()
    tamper(tmp_path, way)
    fill(log, range(3, 6))
    assert log.flush(NOW_MS).error is None
    content = (tmp_path / CURRENT_NAME).read_bytes()
    log.close(NOW_MS)
    assert b"\0" not in content
    events = read_events(tmp_path).events
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    assert ids[-4:] == [4, 5, 6, 7]
    assert [event.kind for event in events[-4:]] == [EventKind.EVENTS_REPAIRED, *[events[-1].kind] * 3]
    if way in {"moved", "replaced", "copied and truncated"}:
        assert (tmp_path / "events.ndjson.1").read_bytes() == before


@pytest.mark.parametrize("way", WAYS)
def test_ids_go_on_over_restarts(tmp_path: Path, way: str) -> None:
    for start in range(0, 6, 3):
        log = open_log(tmp_path)
        fill(log, range(start, start + 3))
        log.close(NOW_MS)
        tamper(tmp_path, way)
    log = open_log(tmp_path)
    fill(log, range(6, 9))
    log.close(NOW_MS)
    ids = [event.id for event in read_events(tmp_path).events]
    assert ids[-3:] == sorted(set(ids[-3:]))
    assert ids[-3] >= 7


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 21, b"9" * 4_000])
def test_a_note_of_the_last_id_that_tells_nothing_is_done_without(tmp_path: Path, content: bytes) -> None:
    log = open_log(tmp_path)
    fill(log, range(3))
    log.close(NOW_MS)
    (tmp_path / LAST_NAME).write_bytes(content)
    log = open_log(tmp_path)
    fill(log, range(3, 4))
    log.close(NOW_MS)
    assert [event.id for event in read_events(tmp_path).events] == [1, 2, 3, 4]
