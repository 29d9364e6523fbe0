"""The index of the events: the same answers as a plain scan, whatever happens to files and index, for bounded work."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from crabnet.limits import EVENTS_QUERY_BYTES_MAX, INTEGER_MAX
from crabnet.monitor.events import Event, EventEncoder, make_event
from crabnet.monitor.index.index import EventIndex
from crabnet.monitor.index.sealed import SealedIndex
from crabnet.monitor.index.tables import INDEX_NAME, StaleError
from crabnet.monitor.lines import rotated_first_id
from crabnet.monitor.query import EventPage, EventQuery, authors_of
from crabnet.monitor.reader import EventReader, pages
from crabnet.monitor.registry import EVENTS, FIELDS, EventKind
from crabnet.monitor.segment import EventLogOptions
from crabnet.monitor.snapshot import Snapshot
from crabnet.storage.files import RealFiles
from tests.monitor.support import CURRENT, NODE, NOW_MS, fill, open_log, scan

FILES = RealFiles()
KINDS = (EventKind.ENVELOPE_REJECTED, EventKind.ENVELOPE_IGNORED, EventKind.SEED_CHANGED, EventKind.ENVELOPE_CREATED)
REASONS = ("bad_signature", "expired")
SEEDS = tuple(f"seed-{number}" for number in range(6))
AUTHORS = (*(f"author-{number}" for number in range(4)), NODE)
MEDIUM = EventLogOptions(file_bytes_max=60_000, files_kept=6)


def mixed(count: int, seed: int, now_ms: int) -> list[Event]:
    """Events of several kinds. Some values are rare, and some times jump back and forth."""
    chance = random.Random(seed)
    events = []
    for _ in range(count):
        kind = chance.choice(KINDS)
        fields: dict[str, str | int | bool | None] = {"seed_id": SEEDS[min(5, int(chance.expovariate(1)))]}
        if kind is not EventKind.ENVELOPE_CREATED:
            fields["author"] = AUTHORS[min(3, int(chance.expovariate(2)))]
        if kind is EventKind.SEED_CHANGED and chance.random() < 0.02:
            fields["worker"] = AUTHORS[3]
        if kind in KINDS[:2]:
            fields["reason"] = REASONS[chance.random() < 0.05]
        jump_ms = chance.choice((0, 0, 0, -90_000, 40_000))
        events.append(make_event(kind, now_ms + jump_ms, NODE, **fields))
    return events


CONDITIONS: dict[str, st.SearchStrategy[object]] = {
    "kinds": st.frozensets(st.sampled_from([kind.value for kind in KINDS]), min_size=1, max_size=2),
    "sources": st.sampled_from([frozenset(["core"]), frozenset(["runner", "core"])]),
    "severities": st.just(frozenset(["debug", "notice"])),
    "reasons": st.frozensets(st.sampled_from([*REASONS, "never"]), min_size=1, max_size=2),
    "seed_id": st.sampled_from([*SEEDS, *SEEDS, "never", "\udcff"]),
    "author": st.sampled_from([*AUTHORS, *AUTHORS, "never"]),
    "since_ms": st.integers(NOW_MS - 200_000, NOW_MS + 600_000),
    "until_ms": st.integers(NOW_MS - 200_000, NOW_MS + 600_000) | st.just(-(10**30)),
}


@st.composite
def queries(draw: st.DrawFn) -> EventQuery:
    """Any query; most of them match something."""
    chosen = draw(st.lists(st.sampled_from(sorted(CONDITIONS)), max_size=3, unique=True))
    query = EventQuery(
        after=draw(st.sampled_from([0, 0, 0, 1, 64, 700]) | st.integers(0, 2_000)),
        before=draw(st.sampled_from([INTEGER_MAX, INTEGER_MAX, INTEGER_MAX, 900]) | st.integers(0, 2_000)),
        limit=draw(st.sampled_from([0, 1, 5, 100, 100, 1_000])),
        newest_first=draw(st.booleans()),
    )
    return msgspec.structs.replace(query, **{name: draw(CONDITIONS[name]) for name in chosen})


def expected(query: EventQuery, events: list[Event]) -> list[Event]:
    """All that is wanted, in order, without any limit."""
    found = [event for event in events if query.after < event.id < query.before and query.matches(event)]
    return found[::-1] if query.newest_first else found


def check(reader: EventReader, query: EventQuery, events: list[Event]) -> None:
    """One page is a beginning of what is wanted, and all pages together are all of it, each event once."""
    wanted = expected(query, events)
    page = reader.page(query)
    assert page.events == wanted[: len(page.events)]
    assert len(page.events) <= query.limit
    assert page.complete is (len(page.events) == len(wanted))  # everything here fits into the work for one page
    assert (page.first_id, page.last_id) == ((events[0].id, events[-1].id) if events else (0, 0))
    everything = msgspec.structs.replace(query, limit=INTEGER_MAX)
    assert [event for found in pages(reader, everything) for event in found.events] == wanted


def caught_up(index: EventIndex) -> int:
    """Bring the index up to date. Returns how often it had to be made anew."""
    rebuilt = 0
    for _ in range(1_000):
        step = index.step()
        rebuilt += step.rebuilding is not None
        if not step.more:
            return rebuilt
    raise AssertionError(f"the index is never up to date: {step}")


class Machine(RuleBasedStateMachine):
    """Writing, rotation, retention, crashes, deletions and damage, and any query at any time between."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.now_ms = NOW_MS
        self.log = open_log(self.directory, options=MEDIUM)
        self.index = EventIndex(FILES, self.directory)
        self.inside = EventReader(self.directory, index=self.index)
        self.outside = EventReader(self.directory)
        self.write(400, 0)

    def teardown(self) -> None:
        self.log.close(self.now_ms)
        self.index.close()
        self.outside.close()
        shutil.rmtree(self.directory)

    @rule(count=st.sampled_from([1, 60, 400, 900]), seed=st.integers(0, 9))
    def write(self, count: int, seed: int) -> None:
        self.now_ms += 20_000
        for event in mixed(count, seed, self.now_ms):
            self.log.put(event)
        assert self.log.flush(self.now_ms).error is None

    @rule()
    def step(self) -> None:
        self.index.step()

    @rule(seal=st.booleans())
    def catch_up(self, seal: bool) -> None:
        caught_up(self.index)
        if seal:
            self.index.seal()

    @rule(orderly=st.booleans())
    def reopen_index(self, orderly: bool) -> None:
        kept = {path.name: path.read_bytes() for path in self.directory.glob(f"{INDEX_NAME}*")}
        self.index.close()
        if not orderly:  # as a crash leaves it: what was not sealed is lost
            for name, content in kept.items():
                (self.directory / name).write_bytes(content)
        self.index = EventIndex(FILES, self.directory)
        self.inside = EventReader(self.directory, index=self.index)

    @rule(torn=st.binary(min_size=1, max_size=300), cut=st.integers(0, 3_000))
    def crash(self, torn: bytes, cut: int) -> None:
        self.log.close(self.now_ms)
        current = self.directory / CURRENT
        current.touch()
        os.truncate(current, max(0, current.stat().st_size - cut))
        with current.open("ab") as file:
            file.write(torn.replace(b"\n", b" "))
        self.log = open_log(self.directory, options=MEDIUM)

    @rule(number=st.integers(0, 11))
    def delete(self, number: int) -> None:
        rotated = sorted(path for path in self.directory.iterdir() if rotated_first_id(path.name))
        if number == 11:
            (self.directory / CURRENT).unlink(missing_ok=True)
        elif number < len(rotated):
            rotated[number].unlink()

    @rule(at=st.none() | st.integers(0, 10**6), suffix=st.sampled_from(["", ".sum"]))
    def spoil_the_index(self, at: int | None, suffix: str) -> None:
        """Flip a bit, or remove the file."""
        self.index.close()
        self.outside.close()
        path = self.directory / (INDEX_NAME + suffix)
        if at is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            content = bytearray(path.read_bytes())
            content[at % len(content)] ^= 1 << at % 8
            path.write_bytes(content)
        self.index = EventIndex(FILES, self.directory)
        self.inside = EventReader(self.directory, index=self.index)

    @rule(asked=st.lists(queries(), min_size=2, max_size=6))
    def ask(self, asked: list[EventQuery]) -> None:
        events = scan(self.directory)
        ids = [event.id for event in events]
        assert ids == sorted(set(ids))
        for query in asked:
            check(self.inside, query, events)
            check(self.outside, query, events)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60,000 events in some files, more than one page may cause to be read, with a sealed index."""
    directory = tmp_path_factory.mktemp("large")
    log = open_log(directory, options=EventLogOptions(file_bytes_max=3_000_000, queue_max=100_000))
    for event in mixed(60_000, 1, NOW_MS):
        log.put(event)
    assert log.flush(NOW_MS).error is None
    log.close(NOW_MS)
    index = EventIndex(FILES, directory)
    caught_up(index)
    index.close()
    return directory


class CountingFiles(RealFiles):
    """Counts the bytes that are read from event files."""

    def __init__(self) -> None:
        self.read = 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        found = super().pread(fd, size, offset)
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".ndjson":
            self.read += len(found)
        return found


NEVER = EventQuery(kinds=frozenset(["envelope_created"]), reasons=frozenset(REASONS), limit=10)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_query_that_matches_nothing_reads_a_bounded_part(
    large: Path, tmp_path: Path, newest_first: bool, indexed: bool
) -> None:
    directory = large
    if not indexed:
        directory = tmp_path / "copy"
        shutil.copytree(large, directory, ignore=shutil.ignore_patterns(f"{INDEX_NAME}*"))
    total = sum(path.stat().st_size for path in directory.glob("*.ndjson"))
    assert total > 2 * EVENTS_QUERY_BYTES_MAX
    files = CountingFiles()
    query = msgspec.structs.replace(NEVER, newest_first=newest_first)
    asked = 0
    with EventReader(directory, files=files) as reader:
        for page in pages(reader, query):
            assert page.events == []
            assert files.read <= EVENTS_QUERY_BYTES_MAX + 600_000
            files.read, asked = 0, asked + 1
    assert asked >= 2


@pytest.mark.parametrize(
    "query",
    [
        EventQuery(seed_id="never"),
        EventQuery(author="never", kinds=frozenset(["seed_changed"])),
        EventQuery(sources=frozenset(["runner"])),
        EventQuery(until_ms=NOW_MS - 1_000_000),
        EventQuery(seed_id="never", kinds=frozenset(map(str, range(10_000)))),
        EventQuery(since_ms=NOW_MS + 1_000_000, newest_first=False),
        EventQuery(after=20_000, limit=3, newest_first=False),
        EventQuery(before=20_000, limit=3),
        EventQuery(after=39_990, seed_id="seed-0", newest_first=False),
    ],
)
def test_what_the_index_answers_reads_little(large: Path, query: EventQuery) -> None:
    files = CountingFiles()
    with EventReader(large, files=files) as reader:
        page = reader.page(query)
    assert page.complete or len(page.events) == query.limit
    assert files.read < 400_000


def test_only_events_about_a_node_have_it_as_author() -> None:
    assert {"author", "worker", "peer"} <= FIELDS.keys()
    created = make_event(EventKind.ENVELOPE_CREATED, NOW_MS, NODE, seed_id="s")
    changed = make_event(EventKind.SEED_CHANGED, NOW_MS, NODE, author="a", worker="w")
    assert authors_of(created) == {NODE}
    assert authors_of(changed) == {"a", "w"}
    assert not EVENTS[EventKind.ENVELOPE_CREATED].fields & {"author", "worker", "peer"}


def copied(large: Path, tmp_path: Path) -> Path:
    """A directory like ``large``, with an index of its own: a copy's files have other inodes."""
    directory = tmp_path / "copy"
    shutil.copytree(large, directory, ignore=shutil.ignore_patterns(f"{INDEX_NAME}*"))
    index = EventIndex(FILES, directory)
    caught_up(index)
    index.close()
    return directory


def replaced(directory: Path) -> None:
    first = min(filter(None, (rotated_first_id(path.name) for path in directory.iterdir())))
    path = directory / f"events-{first}.ndjson"
    (directory / "new").write_bytes(path.read_bytes().replace(b"seed-1", b"seed-x"))
    (directory / "new").replace(path)


def changed(directory: Path) -> None:
    path = directory / INDEX_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_version(directory: Path) -> None:
    path = directory / f"{INDEX_NAME}.sum"
    path.write_bytes(path.read_bytes().replace(b"event-index 0001", b"event-index 0000"))


def emptied(directory: Path) -> None:
    (directory / INDEX_NAME).write_bytes(b"")


def no_database(directory: Path) -> None:
    (directory / INDEX_NAME).write_bytes(b"x" * 10_000)


def own_database(directory: Path) -> None:
    (directory / INDEX_NAME).unlink()
    with sqlite3.connect(directory / INDEX_NAME) as connection:
        connection.execute("CREATE TABLE file (first_id)")
    connection.close()


def without_seal(directory: Path) -> None:
    (directory / f"{INDEX_NAME}.sum").unlink()


@pytest.mark.parametrize(
    "spoil",
    [replaced, changed, other_version, emptied, no_database, own_database, without_seal],
    ids=lambda f: f.__name__,
)
def test_an_index_that_is_not_right_is_not_used_and_made_again(
    large: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    directory = copied(large, tmp_path)
    spoil(directory)
    events = scan(directory)
    query = EventQuery(seed_id="seed-1", newest_first=False, limit=INTEGER_MAX)
    with EventReader(directory) as reader:
        assert [event for page in pages(reader, query) for event in page.events] == expected(query, events)
    index = EventIndex(FILES, directory)
    assert caught_up(index) or spoil is emptied or spoil is replaced
    index.close()
    opened = SealedIndex.open(FILES, directory)
    assert opened is not None
    opened.close()
    with EventReader(directory) as reader:
        assert [event for page in pages(reader, query) for event in page.events] == expected(query, events)


def test_damage_that_appears_while_the_index_is_open_is_found(large: Path, tmp_path: Path) -> None:
    directory = copied(large, tmp_path)
    index = EventIndex(FILES, directory)
    assert caught_up(index) == 0
    changed(directory)
    index.look_at_some()
    index.look_at_some()
    index.look_at_some()
    assert caught_up(index) == 1
    index.close()


def test_an_index_ahead_of_a_query_is_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=MEDIUM)
    index = EventIndex(FILES, tmp_path)
    fill(log, range(400))
    log.flush(NOW_MS)
    caught_up(index)
    with Snapshot(FILES, tmp_path) as before:
        for first in range(400, 2_400, 400):
            fill(log, range(first, first + 400))
            log.flush(NOW_MS)
        caught_up(index)
        with pytest.raises(StaleError), index.reading(before):
            pass
    assert caught_up(index) == 0
    with Snapshot(FILES, tmp_path) as now, index.reading(now) as tables:
        assert tables.files()
    log.close(NOW_MS)
    index.close()


def test_readers_beside_a_writer_see_each_event_once_and_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(file_bytes_max=100_000, files_kept=10_000))
    index = EventIndex(FILES, tmp_path)
    events = mixed(6_000, 3, NOW_MS)
    done = threading.Event()

    def write() -> None:
        for number, event in enumerate(events):
            log.put(event)
            if number % 50 == 0:
                log.flush(NOW_MS)
                index.step()
            if number % 1_000 == 0:
                index.seal()
        log.close(NOW_MS)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    query = EventQuery(seed_id="seed-1", newest_first=False)
    seen: list[list[int]] = [[], []]
    readers = [EventReader(tmp_path), EventReader(tmp_path, index=index)]
    cursors = [0, 0]
    last = False
    while not last:
        last = done.is_set()
        for number, reader in enumerate(readers):
            page: EventPage | None = None
            while page is None or not page.complete:
                page = reader.page(msgspec.structs.replace(query, after=cursors[number]))
                seen[number] += [event.id for event in page.events]
                cursors[number] = page.next
    writer.join()
    wanted = [event.id for event in expected(msgspec.structs.replace(query, limit=INTEGER_MAX), scan(tmp_path))]
    assert seen == [wanted, wanted]
    index.close()


def test_reading_makes_and_changes_no_file(large: Path, tmp_path: Path) -> None:
    directory = copied(large, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]}
    with EventReader(directory) as reader:
        assert reader.page(EventQuery(seed_id="seed-5")).events
    assert {path.name: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]} == before


def test_what_the_index_says_about_deleted_files_is_removed(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(file_bytes_max=100_000, files_kept=2))
    index = EventIndex(FILES, tmp_path)
    sizes = []
    for number in range(12):
        for event in mixed(2_000, number, NOW_MS):
            log.put(event)
            if event.kind == EventKind.SEED_CHANGED:
                log.flush(NOW_MS)
        log.flush(NOW_MS)
        caught_up(index)
        index.seal()
        with sqlite3.connect(f"file:{tmp_path / INDEX_NAME}?immutable=1", uri=True) as connection:
            sizes.append(connection.execute("SELECT count(*) FROM block").fetchone()[0])
        connection.close()
    log.close(NOW_MS)
    index.close()
    assert sizes[-1] <= max(sizes[:3])


@given(first=st.integers(1, 50), junk=st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=60)), max_size=6))
def test_damaged_bytes_within_files_change_nothing_between_ways_of_reading(
    first: int, junk: list[tuple[int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        events = mixed(300, first, NOW_MS)
        for event_id, event in enumerate(events, first):
            event.id = event_id
        lines = EventEncoder().lines(events).splitlines(keepends=True)
        for at, content in junk:
            lines[at * 7] = content.replace(b"\n", b"x").ljust(len(lines[at * 7]) - 1, b"\0") + b"\n"
        (directory / CURRENT).write_bytes(b"".join(lines))
        index = EventIndex(FILES, directory)
        caught_up(index)
        found = scan(directory)
        for reader in (EventReader(directory), EventReader(directory, index=index)):
            for newest_first in (True, False):
                query = EventQuery(sources=frozenset(["core"]), newest_first=newest_first, limit=INTEGER_MAX)
                got = [event for page in pages(reader, query) for event in page.events]
                assert got == expected(query, found)
        index.close()


def test_a_rotated_file_is_rotated_and_deleted_by_age_although_no_event_comes(tmp_path: Path) -> None:
    day = 24 * 3600 * 1000
    options = EventLogOptions(file_age_ms_max=day, kept_ms=3 * day)
    log = open_log(tmp_path, options=options)
    fill(log, range(3))
    log.flush(NOW_MS)
    log.flush(NOW_MS + day - 1)
    assert [path.name for path in tmp_path.glob("events*.ndjson")] == [CURRENT]
    log.flush(NOW_MS + day + 60_000)
    assert {path.name for path in tmp_path.glob("events*.ndjson")} == {CURRENT, "events-1.ndjson"}
    log.flush(NOW_MS + 9 * day)
    assert len(scan(tmp_path)) == 3  # the current file is empty, so ids continue from this one
    fill(log, range(3, 4))
    log.flush(NOW_MS + 9 * day)
    log.flush(NOW_MS + 9 * day + 60_000)
    assert [event.id for event in scan(tmp_path)] == [4]
    log.close(NOW_MS + 9 * day + 60_000)
