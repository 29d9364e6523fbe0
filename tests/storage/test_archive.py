"""The archive gives back what was put in, the latest row of each key, and nothing that nobody vouches for."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError, StorageFailedError
from crabnet.limits import ARCHIVE_ROW_BYTES_MAX, ARCHIVE_WORD_BYTES_MAX
from crabnet.storage.archive.archive import Archive, ArchiveRow, SegmentInfo, verify_archive
from tests.faults.seam import FaultyFiles
from tests.storage.support import FILES


def row(key: str, created_at: int = 0, tag: str = "done", owner: str = "alice", data: bytes = b"{}") -> ArchiveRow:
    return ArchiveRow(key, created_at, tag, owner, data)


def keys(rows: list[ArchiveRow]) -> list[str]:
    return [each.key for each in rows]


@pytest.fixture(name="archive")
def _archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(FILES, tmp_path, []) as archive:
        yield archive


def test_rows_are_got_by_their_key(archive: Archive, tmp_path: Path) -> None:
    rows = [row("a", data=b'{"x":"\xc3\xa4"}'), row("ü\0'", data=b"not even JSON"), row("", data=b" ")]
    info = archive.write_segment(rows)
    assert (info.number, info.rows) == (1, 3)
    assert archive.segments == (info,)
    assert [archive.get(each.key) for each in rows] == [each.data for each in rows]
    assert list(archive.rows(info)) == rows
    assert archive.get("b") is None
    assert archive.get("\ud800") is None
    archive.close()
    archive.close()
    with Archive.open(FILES, tmp_path, [info]) as again:
        assert again.leftovers == ()
        assert [again.get(each.key) for each in rows] == [each.data for each in rows]
        assert list(again.verify()) == []
    segment, *others = sorted(tmp_path.glob("archive/*"))
    assert (segment.name, others) == ("00000000000000000001.seg", [])
    assert {each.stat().st_mode & 0o777 for each in [segment, *tmp_path.glob("archive.sqlite*")]} == {0o600}


def test_the_latest_row_of_a_key_counts(archive: Archive) -> None:
    first = archive.write_segment([row("a", 1, "open", data=b"1"), row("b", 2, "open")])
    archive.write_segment([row("a", 3, "done", "bob", data=b"2")])
    assert archive.get("a") == b"2"
    assert keys(archive.page(limit=9)) == ["a", "b"]
    assert keys(archive.page(limit=9, owner="alice")) == ["b"]
    assert archive.count_by_tag() == {"done": 1, "open": 1}
    assert [each.data for each in archive.rows(first)] == [b"1", b"{}"]


def test_pages_are_newest_first_and_then_by_key(archive: Archive) -> None:
    archive.write_segment([row("d", 5), row("b", 7), row("e", -3), row("a", 5), row("ä", 5), row("Z", 5)])
    expected = ["b", "Z", "a", "d", "ä", "e"]
    assert keys(archive.page(limit=100)) == expected
    found: list[str] = []
    after: tuple[int, str] | None = None
    while page := archive.page(limit=2, after=after):
        found += keys(page)
        after = (page[-1].created_at, page[-1].key)
    assert found == expected
    assert keys(archive.page(limit=9, after=(5, "b"))) == ["d", "ä", "e"]
    assert archive.page(limit=0) == archive.page(limit=-1) == []
    assert keys(archive.page(limit=9, after=(10**30, ""))) == expected
    assert archive.page(limit=9, after=(-(10**30), "")) == []


def test_pages_select_by_tag_and_owner(archive: Archive) -> None:
    archive.write_segment(
        [row("a", 1, "done", "alice"), row("b", 2, "gone", "alice"), row("c", 3, "done", "bob"), row("d", 4, "gone")]
    )
    assert keys(archive.page(tag="done", limit=9)) == ["c", "a"]
    assert keys(archive.page(owner="alice", limit=9)) == ["d", "b", "a"]
    assert keys(archive.page(tag="gone", owner="alice", limit=9)) == ["d", "b"]
    assert keys(archive.page(tag="gone", owner="alice", limit=9, after=(4, "d"))) == ["b"]
    assert archive.page(tag="alice", limit=9) == archive.page(owner="done", limit=9) == []
    with pytest.raises(RefusedError):
        archive.page(limit=1, tag="\ud800")
    with pytest.raises(RefusedError):
        archive.page(limit=1, owner="\ud800")
    with pytest.raises(RefusedError):
        archive.page(limit=1, after=(1, "\ud800"))


def test_a_forgotten_key_is_not_listed_until_it_is_archived_again(archive: Archive, tmp_path: Path) -> None:
    first = archive.write_segment([row("a", 1), row("b", 2), row("c", 3)])
    archive.forget("b")
    archive.forget("b")
    archive.forget("never archived")
    archive.forget("\ud800")
    assert keys(archive.page(limit=2)) == ["c", "a"]
    assert archive.count_by_tag() == {"done": 2}
    assert archive.get("b") == b"{}"
    archive.close()
    with Archive.open(FILES, tmp_path, [first], forgotten=["b", "c"]) as again:
        assert keys(again.page(limit=9)) == ["a"]
        again.write_segment([row("b", 2, "gone")])
        assert keys(again.page(limit=9)) == ["b", "a"]
        assert again.count_by_tag() == {"done": 1, "gone": 1}
    with Archive.open(FILES, tmp_path, [first]) as again:
        assert keys(again.page(limit=9)) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], Reason.EMPTY),
        ([row("a"), row("b"), row("a")], Reason.MALFORMED),
        ([row("a", data=b"")], Reason.MALFORMED),
        ([row("a", data=b"1\n2")], Reason.MALFORMED),
        ([row("a", created_at=2**63)], Reason.MALFORMED),
        ([row("a", created_at=-(2**63))], Reason.MALFORMED),
        ([row("\ud800")], Reason.MALFORMED),
        ([row("a", tag="\udfff")], Reason.MALFORMED),
        ([row("a" * (ARCHIVE_WORD_BYTES_MAX + 1))], Reason.TOO_LARGE),
        ([row("a", owner="ä" * (ARCHIVE_WORD_BYTES_MAX // 2 + 1))], Reason.TOO_LARGE),
        ([row("a", data=bytes([32]) * (ARCHIVE_ROW_BYTES_MAX + 1))], Reason.TOO_LARGE),
    ],
)
def test_rows_out_of_bounds_are_refused_and_change_nothing(
    rows: list[ArchiveRow], reason: Reason, archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError) as caught:
        archive.write_segment(rows)
    assert caught.value.reason is reason
    assert archive.segments == ()
    assert list(tmp_path.glob("archive/*")) == []
    assert archive.write_segment([row("a")]).number == 1


def test_the_largest_rows_are_kept(archive: Archive) -> None:
    words = "\x01" * ARCHIVE_WORD_BYTES_MAX
    largest = ArchiveRow(words, 2**63 - 1, words, words, b"7" * ARCHIVE_ROW_BYTES_MAX)
    oldest = row("b", -(2**63) + 1)
    info = archive.write_segment([largest, oldest])
    assert archive.get(words) == largest.data
    assert keys(archive.page(limit=9)) == [words, "b"]
    assert keys(archive.page(limit=9, after=(2**63 - 1, words))) == ["b"]
    assert archive.page(limit=9, after=(-(2**63) + 1, "b")) == []
    assert keys(list(archive.rows(info))) == [words, "b"]
    assert list(archive.verify()) == []


def test_segments_are_joined_by_hashes(archive: Archive, tmp_path: Path) -> None:
    first, second = (archive.write_segment([row(key)]) for key in "ab")
    paths = sorted(tmp_path.glob("archive/*.seg"))
    assert paths[0].read_bytes().split()[4] == b"0" * 64
    assert paths[1].read_bytes().split()[4].decode() == first.sha256
    for path, info in zip(paths, (first, second), strict=True):
        assert path.read_bytes().split()[-1].decode() == info.sha256


def test_a_segment_that_nobody_vouches_for_is_set_aside(archive: Archive, tmp_path: Path) -> None:
    first = archive.write_segment([row("a", data=b"1")])
    archive.write_segment([row("a", data=b"2"), row("b")])
    archive.close()
    directory = tmp_path / "archive"
    (directory / f"{3:020d}.seg.tmp").write_bytes(b"half")
    (directory / f"{0:020d}.seg").write_bytes(b"no such number")
    (directory / "notes.txt").write_bytes(b"not ours")
    original = (directory / f"{2:020d}.seg").read_bytes()
    for attempt in ("", ".1"):
        with Archive.open(FILES, tmp_path, [first]) as again:
            leftovers = [each for each in again.leftovers if each.name.startswith(f"{2:020d}")]
            assert leftovers == [tmp_path / "damaged" / f"{2:020d}.seg.leftover{attempt}"]
            assert leftovers[0].read_bytes() == original
            assert sorted(each.name for each in directory.iterdir()) == [f"{1:020d}.seg", "notes.txt"]
            assert again.get("a") == b"1"
            assert again.get("b") is None
            assert keys(again.page(limit=9)) == ["a"]
            again.write_segment([row("a", data=b"2"), row("b")])
        assert (directory / f"{2:020d}.seg").read_bytes() == original


def test_an_index_that_knows_another_segment_is_built_again(archive: Archive, tmp_path: Path) -> None:
    first = archive.write_segment([row("a", data=b"old")])
    archive.close()
    with Archive.open(FILES, tmp_path, []) as again:
        other = again.write_segment([row("b", data=b"new")])
    assert other.sha256 != first.sha256
    with Archive.open(FILES, tmp_path, [other]) as again:
        assert (again.get("a"), again.get("b")) == (None, b"new")


def test_a_missing_segment_is_refused(archive: Archive, tmp_path: Path) -> None:
    known = [archive.write_segment([row(key)]) for key in "abc"]
    archive.close()
    path = tmp_path / "archive" / f"{2:020d}.seg"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataDirDamagedError, match=path.name):
        Archive.open(FILES, tmp_path, known)
    assert [each.path for each in verify_archive(FILES, tmp_path, known)] == [path]
    path.write_bytes(content)
    Archive.open(FILES, tmp_path, known).close()
    rmtree(tmp_path / "archive")
    with pytest.raises(DataDirDamagedError):
        Archive.open(FILES, tmp_path, known)


def test_a_segment_in_the_place_of_another_is_refused(archive: Archive, tmp_path: Path) -> None:
    known = [archive.write_segment([row(key)]) for key in "ab"]
    archive.close()
    one, two = sorted(tmp_path.glob("archive/*.seg"))
    two.write_bytes(one.read_bytes())
    with pytest.raises(DataDirDamagedError, match=two.name):
        Archive.open(FILES, tmp_path, known)
    assert {each.path for each in verify_archive(FILES, tmp_path, known)} == {two}


@pytest.mark.parametrize(
    "known",
    [
        [SegmentInfo(2, "0" * 64, 1)],
        [SegmentInfo(1, "0" * 63, 1)],
        [SegmentInfo(1, "0" * 64, 0)],
        [SegmentInfo(1, "0" * 64, 1), SegmentInfo(1, "0" * 64, 1)],
    ],
)
def test_what_vouches_must_make_a_chain(known: list[SegmentInfo], tmp_path: Path) -> None:
    with pytest.raises(DataDirDamagedError, match="no chain"):
        Archive.open(FILES, tmp_path, known)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vouched", [True, False])
def test_a_newer_format_is_refused(vouched: bool, archive: Archive, tmp_path: Path) -> None:
    info = archive.write_segment([row("a")])
    archive.close()
    path = tmp_path / "archive" / f"{1:020d}.seg"
    for content in (
        b"crabnet-archive 0002 in a shape that we do not know\n",
        path.read_bytes().replace(b"0001", b"0702", 1),
    ):
        path.write_bytes(content)
        if content[30:].count(b"\n") > 1:
            path.write_bytes(content.replace(b"\n", b"0\n", 1))
        with pytest.raises(DataDirDamagedError) as caught:
            Archive.open(FILES, tmp_path, [info] if vouched else [])
        assert caught.value.reason is Reason.DATA_DIR_NEWER
        assert path.exists()


def test_opening_again_reads_the_rows_of_no_indexed_segment(archive: Archive, tmp_path: Path) -> None:
    known = [archive.write_segment([row(f"{number}-{each}") for each in range(500)]) for number in range(3)]
    archive.close()
    files = FaultyFiles()
    Archive.open(files, tmp_path, known).close()
    assert "unlink" not in {name for name, _ in files.calls}
    assert sum(name == "pread" and path.suffix == ".seg" for name, path in files.calls) == 3 * len(known)


def test_without_a_close_only_the_last_segment_is_indexed_again(tmp_path: Path) -> None:
    archive = Archive.open(FILES, tmp_path / "a", [])
    known = [archive.write_segment([row(key)]) for key in "abc"]
    for name in ("archive", "archive.sqlite", "archive.sqlite.sum", "archive.sqlite-wal"):
        copy(tmp_path / "a" / name, tmp_path / "b" / name)
    archive.close()
    for vouched in (known[:2], known):
        files = FaultyFiles()
        with Archive.open(files, tmp_path / "b", vouched) as again:
            assert [again.get(key) for key in "abc"] == [b"{}", b"{}", b"{}" if len(vouched) == 3 else None]
        assert ("unlink", tmp_path / "b" / "archive.sqlite") not in files.calls
        if len(vouched) == 2:
            rmtree(tmp_path / "b")
            again = Archive.open(FILES, tmp_path / "b", [])
            for key in "abc":
                again.write_segment([row(key)])
            again.close()


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            copy(each, target / each.name)
    else:
        target.write_bytes(source.read_bytes())


def test_readers_in_other_threads_see_whole_segments(archive: Archive) -> None:
    rounds, size = 12, 40
    archive.write_segment([row(f"{each}", 0, data=b"0") for each in range(size)])
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                page = archive.page(limit=size)
                if len(page) != size or len({each.data for each in page}) != 1:
                    wrong.append(f"a page of {len(page)} rows with { ({each.data for each in page}) }")
                before = archive.get("7")
                after = archive.get("7")
                if before is None or after is None or int(before) > int(after):
                    wrong.append(f"{before!r} and then {after!r}")
            except CrabnetError as error:
                wrong.append(error.message)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, rounds):
        archive.write_segment([row(f"{each}", number, data=b"%d" % number) for each in range(size)])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert archive.count_by_tag() == {"done": size}


def test_memory_does_not_grow_with_the_history(archive: Archive, tmp_path: Path) -> None:
    segments, size, data = 12, 300, b"7" * 5_000
    tracemalloc.start()
    try:
        for number in range(segments):
            archive.write_segment([row(f"{number}-{each}", each, data=data) for each in range(size)])
        assert sum(archive.count_by_tag().values()) == segments * size
        archive.close()
        (tmp_path / "archive.sqlite").unlink()
        with Archive.open(FILES, tmp_path, archive.segments) as again:
            assert list(again.verify()) == []
            assert again.get("7-7") == data
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    history_bytes = sum(each.stat().st_size for each in tmp_path.glob("archive/*"))
    assert history_bytes > 18_000_000
    assert peak_bytes < history_bytes / 3


def test_the_document_shows_what_is_written(archive: Archive, tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "STORAGE.md").read_text(encoding="utf-8")
    archive.write_segment([ArchiveRow("4be1", 1_700_000_000, "accepted", "alice", b'{"title":"x"}')])
    assert f"```text\n{next(tmp_path.glob('archive/*')).read_text()}```" in document


def test_a_closed_archive_says_so(archive: Archive) -> None:
    archive.write_segment([row("a")])
    archive.close()
    for call in (lambda: archive.get("a"), lambda: archive.page(limit=1), lambda: archive.write_segment([row("b")])):
        with pytest.raises(StorageFailedError) as caught:
            call()
        assert caught.value.reason is Reason.UNAVAILABLE


KEYS = st.sampled_from(["", "a", "b", "c", "aa", "ä", "\U0001f980", "Z", "a\0"])
TAGS = st.sampled_from(["done", "gone", ""])
OWNERS = st.sampled_from(["alice", "bob"])
ROWS = st.builds(ArchiveRow, KEYS, st.integers(-2, 3), TAGS, OWNERS, st.sampled_from([b"{}", b'{"x":1}', b"[\xff]"]))


class Model(RuleBasedStateMachine):
    """The archive beside two dicts: the latest rows and the forgotten keys."""

    @initialize()
    def begin(self) -> None:
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.latest: dict[str, ArchiveRow] = {}
        self.forgotten: set[str] = set()
        self.archive = Archive.open(FILES, self.path, [])

    def teardown(self) -> None:
        self.archive.close()
        self.directory.cleanup()

    @rule(rows=st.lists(ROWS, min_size=1, max_size=6, unique_by=lambda each: each.key))
    def write(self, rows: list[ArchiveRow]) -> None:
        self.archive.write_segment(rows)
        self.latest |= {each.key: each for each in rows}
        self.forgotten -= {each.key for each in rows}

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.archive.forget(key)
        self.forgotten |= {key} & set(self.latest)

    @rule(keeping=st.booleans())
    def reopen(self, keeping: bool) -> None:
        known = self.archive.segments
        self.archive.close()
        self.forgotten = self.forgotten if keeping else set()
        self.archive = Archive.open(FILES, self.path, known, forgotten=self.forgotten)

    @rule()
    def lose_the_index(self) -> None:
        known = self.archive.segments
        self.archive.close()
        (self.path / "archive.sqlite.sum").unlink()
        self.archive = Archive.open(FILES, self.path, known, forgotten=self.forgotten)

    @rule(tag=st.none() | TAGS, owner=st.none() | OWNERS, limit=st.integers(1, 4))
    def list_all(self, tag: str | None, owner: str | None, limit: int) -> None:
        found: list[ArchiveRow] = []
        after: tuple[int, str] | None = None
        for _ in count():
            page = self.archive.page(tag=tag, owner=owner, limit=limit, after=after)
            found += page
            if len(page) < limit:
                break
            after = (page[-1].created_at, page[-1].key)
        expected = [
            each
            for each in self.latest.values()
            if each.key not in self.forgotten and tag in {None, each.tag} and owner in {None, each.owner}
        ]
        assert found == sorted(expected, key=lambda each: (-each.created_at, each.key))

    @invariant()
    def all_keys_are_found(self) -> None:
        for key in ("", "a", "b", "c", "aa", "ä", "\U0001f980", "Z", "a\0", "never"):
            assert self.archive.get(key) == (self.latest[key].data if key in self.latest else None)
        counts: dict[str, int] = {}
        for key, each in self.latest.items():
            if key not in self.forgotten:
                counts[each.tag] = counts.get(each.tag, 0) + 1
        assert self.archive.count_by_tag() == counts


def test_the_archive_does_what_two_dicts_do() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=15, stateful_step_count=10))


@pytest.mark.deep
def test_the_archive_does_what_two_dicts_do_for_long() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=200, stateful_step_count=30))
