"""Reading events: filters, pages, following a log that is rotated, repaired and damaged meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import Reason
from crabnet.monitor.events import Event, make_event
from crabnet.monitor.reader import EventFilter, ReadStats, follow, read_events, scan_events
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
    kinds=st.none() | st.sets(st.sampled_from(KINDS)),
    severities=st.none() | st.sets(st.sampled_from([Severity.WARNING, Severity.DEBUG])),
    reasons=st.none() | st.sets(st.sampled_from([Reason.BAD_SIGNATURE, Reason.EXPIRED])),
    seed_id=st.none() | st.sampled_from(["seed-0", "seed-3", "seed-9"]),
    limit=st.none() | st.integers(0, 70),
    newest=st.booleans(),
)
def test_filters_and_pages(
    mixed: Path,
    since_id: int,
    kinds: set[EventKind] | None,
    severities: set[Severity] | None,
    reasons: set[Reason] | None,
    seed_id: str | None,
    limit: int | None,
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
    if limit is None:
        expected = wanted
    elif newest:
        expected = wanted[max(0, len(wanted) - limit) :]
    else:
        expected = wanted[:limit]
    assert page.events == expected
    assert page.more is (len(wanted) > len(expected))


def test_pages_follow_each_other_without_loss(mixed: Path) -> None:
    seen: list[int] = []
    cursor, more = 0, True
    while more:
        page = read_events(mixed, cursor, kinds={EventKind.ENVELOPE_REJECTED}, limit=7)
        seen += sequence_of(page.events)
        cursor, more = page.stats.last_id, page.more
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
        assert page.stats.damaged_lines == 0
        assert page.stats.torn_bytes == size - len(b"".join(data.splitlines(keepends=True)[:whole]))


def test_damaged_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
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
    stats = ReadStats()
    ids = [event.id for event in scan_events(tmp_path, stats=stats)]
    assert len(lost) > 3
    assert ids == [number for number in range(1, 21) if number not in lost]
    assert stats.damaged_lines == len(lost)


def test_a_rotated_file_that_is_deleted_meanwhile_is_no_error(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=SMALL)
    for number in range(20):
        log.put(accepted(number))
        log.flush(NOW_MS)
    log.close(NOW_MS)
    reading = scan_events(tmp_path)
    first = next(reading)
    rotated = sorted(tmp_path.glob("events-*.ndjson"), key=lambda path: int(path.stem.split("-")[1]))
    for path in rotated[:3]:
        path.unlink()
    rest = [event.id for event in reading]
    assert first.id == 1
    assert rest[-1] == 20
    assert rest == sorted(set(rest))


def drain(following: Iterator[Event | None]) -> list[int]:
    """What is new: the sequence numbers up to the next ``None``."""
    events: list[Event] = []
    while (event := next(following)) is not None:
        events.append(event)
    return sequence_of(events)


@given(st.lists(st.tuples(st.sampled_from(["put", "reopen", "crash", "look"]), st.integers(1, 30)), max_size=20))
def test_follow_sees_every_event_once(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    directory = tmp_path_factory.mktemp("follow")
    following = follow(directory)
    assert drain(following) == []
    log = open_log(directory, options=SMALL)
    number, seen = 0, []
    for step, amount in steps:
        if step == "put":
            for _ in range(amount):
                log.put(accepted(number))
                number += 1
            log.flush(NOW_MS)
        elif step == "look":
            seen += drain(following)
        else:
            log.close(NOW_MS)
            if step == "crash":
                with (directory / CURRENT).open("ab") as file:
                    file.write(b'{"id":1,"torn":"' + b"x" * amount)
                seen += drain(following)
            log = open_log(directory, options=SMALL)
    log.close(NOW_MS)
    while found := drain(following):
        seen += found
    seen += drain(following)
    assert seen == list(range(number))


def test_follow_starts_after_an_id_and_filters(mixed: Path) -> None:
    following = follow(mixed, 30, EventFilter(kinds={EventKind.ENVELOPE_ACCEPTED}))
    assert drain(following) == list(range(32, 60, 3))


def test_follow_sees_a_rotation_to_a_file_of_the_same_size(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(file_bytes_max=1))
    following = follow(tmp_path)
    seen: list[int] = []
    for number in range(9):
        log.put(accepted(number))
        log.flush(NOW_MS)
        seen += drain(following)
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
    following = follow(tmp_path)
    assert drain(following) == [0, 1, 2, 3, 4]
    (tmp_path / "other").write_bytes(last_line)
    (tmp_path / "other").replace(tmp_path / CURRENT)
    assert drain(following) == [5]


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
    following = follow(tmp_path)
    last = False
    while not last:
        last = done.is_set()
        seen += drain(following)
    writer.join()
    while found := drain(following):
        seen += found
    assert seen == list(range(1_000))
