"""Reading events: filters, pages, following a log that is rotated, repaired and damaged meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import Reason
from crabnet.monitor.events import Event, make_event
from crabnet.monitor.query import EventQuery, Lost
from crabnet.monitor.reader import EventReader, follow, read_events
from crabnet.monitor.registry import EventKind, Severity
from crabnet.monitor.segment import EventLogOptions
from tests.monitor.support import NODE, NOW_MS, accepted, open_log, sequence_of

CURRENT = "events.ndjson"
SMALL = EventLogOptions(file_bytes_max=1_000, files_kept=10_000)
REASONS = [Reason.BAD_SIGNATURE, Reason.EXPIRED, None]
KINDS = [EventKind.ENVELOPE_REJECTED, EventKind.ENVELOPE_IGNORED, EventKind.ENVELOPE_ACCEPTED]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 60 mixed events over several files."""
    directory = tmp_path_factory.mktemp("mixed")
    log = open_log(directory, options=SMALL)
    for number in range(60):
        fields: dict[str, str | int] = {"seed_id": f"seed-{number % 4}", "seq": number}
        kind = KINDS[number % 3]
        if kind is not EventKind.ENVELOPE_ACCEPTED:
            fields["reason"] = (Reason.BAD_SIGNATURE, Reason.EXPIRED)[number % 2]
        log.put(make_event(kind, NOW_MS, NODE, **fields))
        log.flush(NOW_MS)
    log.close(NOW_MS)
    assert len(list(directory.glob("events-*.ndjson"))) > 5
    return directory


@given(
    since_id=st.integers(0, 70),
    kinds=st.none() | st.sets(st.sampled_from(KINDS), min_size=1),
    severities=st.none() | st.sets(st.sampled_from([Severity.WARNING, Severity.DEBUG]), min_size=1),
    reasons=st.none() | st.sets(st.sampled_from([Reason.BAD_SIGNATURE, Reason.EXPIRED]), min_size=1),
    seed_id=st.none() | st.sampled_from(["seed-0", "seed-3", "seed-9"]),
    limit=st.sampled_from([0, 1, 7, 30, 1_000]),
    newest=st.booleans(),
)
def test_filters_and_pages(
    mixed: Path,
    since_id: int,
    kinds: set[EventKind] | None,
    severities: set[Severity] | None,
    reasons: set[Reason] | None,
    seed_id: str | None,
    limit: int,
    newest: bool,
) -> None:
    page = read_events(
        mixed,
        since_id,
        kinds=kinds,
        severities=severities,
        reasons=reasons,
        seed_id=seed_id,
        limit=limit,
        newest=newest,
    )
    wanted = [
        event
        for event in read_events(mixed).events
        if event.id > since_id
        and (kinds is None or event.kind in kinds)
        and (severities is None or event.severity in severities)
        and (reasons is None or event.payload.get("reason") in reasons)
        and (seed_id is None or event.payload["seed_id"] == seed_id)
    ]
    expected = wanted[max(0, len(wanted) - limit) :] if newest else wanted[:limit]
    assert page.events == expected
    assert page.complete is (len(wanted) == len(expected))
    assert (page.first_id, page.last_id) == (1, 60)


def test_pages_follow_each_other_without_loss(mixed: Path) -> None:
    seen: list[int] = []
    cursor, complete = 0, False
    while not complete:
        page = read_events(mixed, cursor, kinds={EventKind.ENVELOPE_REJECTED}, limit=7)
        seen += sequence_of(page.events)
        cursor, complete = page.next, page.complete
    assert seen == list(range(0, 60, 3))
    assert cursor == 60


def test_a_directory_without_events_is_empty(tmp_path: Path) -> None:
    assert read_events(tmp_path).events == []
    assert read_events(tmp_path / "absent").events == []


def test_truncation_at_every_byte_shows_all_whole_lines(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(3):
        log.put(accepted(number))
    log.close(NOW_MS)
    data = (tmp_path / CURRENT).read_bytes()
    for size in range(len(data), -1, -1):
        os.truncate(tmp_path / CURRENT, size)
        page = read_events(tmp_path)
        whole = data[:size].count(b"\n")
        assert sequence_of(page.events) == list(range(whole))
        assert (page.complete, page.last_id) == (True, whole)


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=SMALL)
    for number in range(20):
        log.put(accepted(number))
        log.flush(NOW_MS)
    log.close(NOW_MS)
    lost = set()
    for path in tmp_path.glob("events*.ndjson"):
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > 2:
            event = read_events(tmp_path).events
            lost.add(next(each.id for each in event if f'"id":{each.id},'.encode() in lines[1]))
            lines[1] = lines[1].replace(b'"ts"', b'\0\xff"')
            path.write_bytes(b"".join(lines))
    assert len(lost) > 3
    assert [event.id for event in read_events(tmp_path).events] == [n for n in range(1, 21) if n not in lost]


def test_files_that_are_deleted_between_pages_are_a_gap(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=SMALL)
    for number in range(20):
        log.put(accepted(number))
        log.flush(NOW_MS)
    log.close(NOW_MS)
    query = EventQuery(limit=1, newest_first=False)
    with EventReader(tmp_path) as reader:
        page = reader.page(query)
        assert [event.id for event in page.events] == [1]
        rotated = sorted(tmp_path.glob("events-*.ndjson"), key=lambda path: int(path.stem.split("-")[1]))
        for path in rotated[:3]:
            path.unlink()
        rest = reader.page(EventQuery(after=page.next, newest_first=False))
    assert rest.first_id > page.next + 1
    assert [event.id for event in rest.events] == list(range(rest.first_id, 21))


def test_a_copy_under_the_name_of_a_rotated_file_hides_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(4):
        log.put(accepted(number))
    log.flush(NOW_MS)
    (tmp_path / "events-1.ndjson").write_bytes((tmp_path / CURRENT).read_bytes())
    log.put(accepted(4))
    log.flush(NOW_MS)
    assert sequence_of(read_events(tmp_path).events) == [0, 1, 2, 3, 4]
    assert sequence_of(read_events(tmp_path, newest=True, limit=2).events) == [3, 4]
    log.close(NOW_MS)


class Following:
    """A follower, and what is new for it: the sequence numbers up to a page without events."""

    def __init__(self, directory: Path, query: EventQuery | None = None) -> None:
        self._pages = follow(EventReader(directory), EventQuery() if query is None else query)
        self.lost: list[tuple[int, int]] = []

    def drain(self) -> list[int]:
        events: list[Event] = []
        while True:
            page = next(self._pages)
            if isinstance(page, Lost):
                self.lost.append((page.first_id, page.last_id))
            elif page.events:
                events += page.events
            else:
                return sequence_of(events)


@given(st.lists(st.tuples(st.sampled_from(["put", "reopen", "crash", "look"]), st.integers(1, 30)), max_size=20))
def test_follow_sees_every_event_once(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    directory = tmp_path_factory.mktemp("follow")
    following = Following(directory)
    assert following.drain() == []
    log = open_log(directory, options=SMALL)
    number, seen = 0, []
    for step, amount in steps:
        if step == "put":
            for _ in range(amount):
                log.put(accepted(number))
                number += 1
            log.flush(NOW_MS)
        elif step == "look":
            seen += following.drain()
        else:
            log.close(NOW_MS)
            if step == "crash":
                with (directory / CURRENT).open("ab") as file:
                    file.write(b'{"id":1,"torn":"' + b"x" * amount)
                seen += following.drain()
            log = open_log(directory, options=SMALL)
    log.close(NOW_MS)
    while found := following.drain():
        seen += found
    seen += following.drain()
    assert seen == list(range(number))
    assert following.lost == []


def test_follow_starts_after_an_id_and_filters(mixed: Path) -> None:
    following = Following(mixed, EventQuery(after=30, kinds=frozenset({EventKind.ENVELOPE_ACCEPTED})))
    assert following.drain() == list(range(32, 60, 3))


def test_follow_tells_what_is_lost_and_goes_on_with_a_new_log(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(9):
        log.put(accepted(number))
    log.close(NOW_MS)
    lines = (tmp_path / CURRENT).read_bytes().splitlines(keepends=True)
    following = Following(tmp_path, EventQuery(after=2))
    (tmp_path / CURRENT).write_bytes(b"".join(lines[4:6]))
    assert following.drain() == [4, 5]
    assert following.lost == [(3, 4)]
    (tmp_path / "other").write_bytes(b"".join(lines[:3]))
    (tmp_path / "other").replace(tmp_path / CURRENT)
    assert following.drain() == []
    assert following.lost == [(3, 4), (4, 6)]
    (tmp_path / "other").write_bytes(b"".join(lines[:4]))
    (tmp_path / "other").replace(tmp_path / CURRENT)
    assert following.drain() == [3]


def test_follow_sees_a_rotation_to_a_file_of_the_same_size(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(file_bytes_max=1))
    following = Following(tmp_path)
    seen: list[int] = []
    for number in range(9):
        log.put(accepted(number))
        log.flush(NOW_MS)
        seen += following.drain()
    log.close(NOW_MS)
    assert seen == list(range(9))
    assert (tmp_path / "events-1.ndjson").stat().st_size == (tmp_path / CURRENT).stat().st_size


def test_follow_sees_that_the_file_was_replaced_by_a_smaller_one(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(6):
        log.put(accepted(number))
    log.close(NOW_MS)
    *before, last_line = (tmp_path / CURRENT).read_bytes().splitlines(keepends=True)
    (tmp_path / CURRENT).write_bytes(b"".join(before))
    following = Following(tmp_path)
    assert following.drain() == [0, 1, 2, 3, 4]
    (tmp_path / "other").write_bytes(last_line)
    (tmp_path / "other").replace(tmp_path / CURRENT)
    assert following.drain() == [5]


def test_follow_beside_a_writer_that_rotates(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=SMALL)
    done = threading.Event()

    def write() -> None:
        for number in range(1_000):
            log.put(accepted(number))
            if number % 3 == 0:
                log.flush(NOW_MS)
        log.close(NOW_MS)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    following = Following(tmp_path)
    last = False
    while not last:
        last = done.is_set()
        seen += following.drain()
    writer.join()
    while found := following.drain():
        seen += found
    assert seen == list(range(1_000))
