"""Flipped bits, cuts and foreign bytes anywhere in the archive: the exact answer or a named refusal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, StorageFailedError
from crabnet.storage.archive.archive import Archive, ArchiveRow, verify_archive
from tests.faults.seam import Fault, FaultyFiles
from tests.storage.support import FILES

FIRST = [ArchiveRow("a", 1, "done", "alice", b'{"x":1}'), ArchiveRow("b", 2, "gone", "bob", b"[2]")]
SECOND = [ArchiveRow("a", 3, "gone", "alice", b"[3]")]
ANSWERS = {"a": b"[3]", "b": b"[2]", "never": None}
INDEX_FILES = ("archive.sqlite", "archive.sqlite.sum")


class Stored:
    """A small archive on disk, put back before every case."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        with Archive.open(FILES, data_dir, []) as archive:
            archive.write_segment(FIRST)
            archive.write_segment(SECOND)
            self.known = archive.segments
        self.segments = sorted(data_dir.glob("archive/*.seg"))
        paths = [*self.segments, *(data_dir / name for name in INDEX_FILES)]
        self.originals = {path: path.read_bytes() for path in paths}

    def put(self, path: Path, content: bytes, *, keep_index: bool = True) -> None:
        for each, original in self.originals.items():
            if each != path and (keep_index or each in self.segments):
                each.write_bytes(original)
            elif not keep_index:
                each.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.fixture(name="stored")
def _stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def judge(stored: Stored) -> tuple[bool, list[str]]:
    """Whether everything was answered, and what was wrong. Anything but a ``CrabnetError`` is a traceback."""
    wrong: list[str] = []
    try:
        archive = Archive.open(FILES, stored.data_dir, stored.known)
    except DataDirDamagedError as error:
        return False, [] if str(stored.data_dir) in error.message else [f"a refusal without a file: {error.message}"]
    answered = True
    found_rows: list[ArchiveRow]
    with archive:
        for key, expected in ANSWERS.items():
            try:
                if (found := archive.get(key)) != expected:
                    wrong.append(f"{key}: {found!r}")
            except DataDirDamagedError:
                answered = False
        try:
            page, whole = archive.page(limit=9), [SECOND[0], FIRST[1]]
            if page != [row for row in whole if row in page] or archive.count_by_tag() != {"gone": 2}:
                wrong.append("a wrong page")
            if len(page) + archive.unreadable != len(whole):
                wrong.append("a row is left out without a word")
            answered = answered and page == whole
        except DataDirDamagedError:
            answered = False
        for info, rows in zip(archive.segments, (FIRST, SECOND), strict=True):
            found_rows = []
            try:
                found_rows += archive.rows(info)
            except DataDirDamagedError:
                answered = False
            if found_rows != rows[: len(found_rows)]:
                wrong.append(f"segment {info.number}: {found_rows}")
    return answered, wrong


def mutations(content: bytes, step: int = 1) -> Iterator[tuple[str, int, bytes]]:
    """Flipped bits, one byte at each step, and cuts."""
    for at in range(0, len(content), step):
        for bit in range(8) if step == 1 else [at // step % 8]:
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            yield f"bit {bit} of byte {at} flipped", at, bytes(changed)
        yield f"cut at {at}", at, content[:at]


def damage_segment(stored: Stored, number: int, share: int = 1) -> None:
    path = stored.segments[number]
    content = stored.originals[path]
    cases = 0
    for case, at, changed in list(mutations(content))[::share]:
        path.write_bytes(changed)
        found = list(verify_archive(FILES, stored.data_dir, stored.known[: number + 1]))
        assert found, case
        assert {each.path for each in found} == {path}, case
        line_start = content.rfind(b"\n", 0, at) + 1
        assert any(line_start <= each.offset <= at + 1 for each in found), f"{case}: {found}"
        cases += 1
    print(f"verify: {cases} cases")


def test_verify_finds_every_flipped_bit_and_every_cut_of_a_segment(stored: Stored) -> None:
    damage_segment(stored, 0)


def test_verify_finds_damage_in_a_later_segment(stored: Stored) -> None:
    damage_segment(stored, 1, share=5)


@pytest.mark.parametrize("keep_index", [True, False])
def test_a_flipped_bit_or_cut_of_a_segment_is_refused(keep_index: bool, stored: Stored) -> None:
    path = stored.segments[0]
    cases = list(mutations(stored.originals[path]))[::11]
    for case, _, changed in cases:
        stored.put(path, changed, keep_index=keep_index)
        assert judge(stored) == (False, []), case
    print(f"segment: {len(cases)} cases")


@pytest.mark.deep
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("keep_index", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_every_flipped_bit_and_cut_of_a_segment(number: int, keep_index: bool, stored: Stored) -> None:
    path = stored.segments[number]
    for case, _, changed in mutations(stored.originals[path]):
        stored.put(path, changed, keep_index=keep_index)
        assert judge(stored) == (False, []), case


def damage_index(stored: Stored, name: str, step: int) -> None:
    path = stored.data_dir / name
    cases = 0
    for case, _, changed in mutations(stored.originals[path], step):
        stored.put(path, changed)
        assert judge(stored) == (True, []), case
        cases += 1
    print(f"{name}: {cases} cases")
    assert cases > 50


@pytest.mark.parametrize(("name", "step"), [("archive.sqlite", 499), ("archive.sqlite.sum", 3)])
def test_a_damaged_index_is_built_again(name: str, step: int, stored: Stored) -> None:
    damage_index(stored, name, step)


@pytest.mark.deep
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(("name", "step"), [("archive.sqlite", 23), ("archive.sqlite.sum", 1)])
def test_an_index_damaged_anywhere_is_built_again(name: str, step: int, stored: Stored) -> None:
    damage_index(stored, name, step)


def test_a_leftover_damaged_anywhere_is_set_aside(stored: Stored) -> None:
    path = stored.segments[1]
    for case, _, changed in list(mutations(stored.originals[path]))[::31]:
        stored.put(path, changed)
        with Archive.open(FILES, stored.data_dir, stored.known[:1]) as archive:
            assert [each.read_bytes() for each in archive.leftovers] == [changed], case
            assert [archive.get(key) for key in ANSWERS] == [FIRST[0].data, FIRST[1].data, None]
        archive.leftovers[0].unlink()


@pytest.mark.parametrize("name", INDEX_FILES)
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 999, b"SQLite format 3\0" + b"\xff" * 4_080])
def test_an_index_that_is_absent_or_foreign_is_built_again(name: str, content: bytes | None, stored: Stored) -> None:
    path = stored.data_dir / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert judge(stored) == (True, [])
    assert judge(stored) == (True, [])
    assert path.read_bytes()[:16] == stored.originals[path][:16]


def test_a_log_of_sqlite_that_nobody_sealed_is_not_believed(stored: Stored) -> None:
    wal = stored.data_dir / "archive.sqlite-wal"
    connection = sqlite3.connect(stored.data_dir / "archive.sqlite", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("DELETE FROM entry WHERE key = 'a'")
    content = wal.read_bytes()
    connection.close()
    assert content
    stored.put(wal, content)
    assert judge(stored) == (True, [])


def test_an_index_damaged_while_it_is_in_use_is_built_again(stored: Stored) -> None:
    path = stored.data_dir / "archive.sqlite"
    with Archive.open(FILES, stored.data_dir, stored.known) as archive:
        path.write_bytes(b"\xff" * 100)
        assert {key: archive.get(key) for key in ANSWERS} == ANSWERS
        assert archive.page(limit=9) == [SECOND[0], FIRST[1]]
        archive.write_segment([ArchiveRow("c", 1, "t", "o", b"4")])
        path.write_bytes(b"")
        archive.forget("b")
        assert archive.get("c") == b"4"
        assert archive.count_by_tag() == {"gone": 1, "t": 1}
        known = archive.segments
    with Archive.open(FILES, stored.data_dir, known) as archive:
        assert archive.get("c") == b"4"


def test_an_index_that_points_elsewhere_is_built_again(stored: Stored) -> None:
    with Archive.open(FILES, stored.data_dir, stored.known) as archive:
        connection = sqlite3.connect(stored.data_dir / "archive.sqlite", isolation_level=None, timeout=5)
        connection.execute("UPDATE entry SET offset = offset + 1, segment = 1")
        connection.close()
        assert {key: archive.get(key) for key in ANSWERS} == ANSWERS


def test_a_segment_damaged_while_it_is_in_use_is_refused_by_name(stored: Stored) -> None:
    path = stored.segments[0]
    content = stored.originals[path]
    row_offset = content.index(b"\n") + 1
    with Archive.open(FILES, stored.data_dir, stored.known) as archive:
        path.write_bytes(content.replace(b"[2]", b"[7]"))
        second_offset = content.index(b"\n", row_offset) + 1
        with pytest.raises(DataDirDamagedError, match=rf"{path.name}: offset {second_offset}: ") as caught:
            archive.get("b")
        assert caught.value.reason is Reason.DATA_DIR_DAMAGED
        assert archive.page(limit=9) == [SECOND[0]]
        assert archive.unreadable == 1
        assert archive.get("a") == b"[3]"
        assert [(each.path, each.offset) for each in archive.verify()] == [(path, second_offset)]
        path.unlink()
        with pytest.raises(DataDirDamagedError, match=path.name):
            archive.get("b")


def test_a_whole_row_taken_out_with_its_crc_is_found(stored: Stored) -> None:
    path = stored.segments[0]
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (
        [*lines[:1], *lines[2:]],
        [lines[0], lines[2], lines[1], lines[3]],
        [*lines, lines[1]],
        [*lines, b"x"],
    ):
        path.write_bytes(b"".join(changed))
        assert [each.path for each in verify_archive(FILES, stored.data_dir, stored.known)][:1] == [path]
        stored.put(path, b"".join(changed), keep_index=False)
        assert judge(stored) == (False, [])


def test_verify_goes_on_after_damage(stored: Stored) -> None:
    for path in stored.segments:
        content = path.read_bytes()
        path.write_bytes(content.replace(b"alice", b"Alice"))
    assert [each.path for each in verify_archive(FILES, stored.data_dir, stored.known)] == stored.segments
    stored.segments[0].write_bytes(b"\0" * 5_000_000)
    assert {each.path for each in verify_archive(FILES, stored.data_dir, stored.known)} == set(stored.segments)


def test_a_medium_that_cannot_be_read_is_damage_to_verify_and_a_failure_to_others(stored: Stored) -> None:
    files = FaultyFiles()
    list(verify_archive(files, stored.data_dir, stored.known))
    reads = [number for number, (name, _) in enumerate(files.calls, start=1) if name == "pread"]
    for number in reads:
        found = list(verify_archive(FaultyFiles({number: Fault.EIO}), stored.data_dir, stored.known))
        assert [each.detail for each in found] == ["it cannot be read from here on: Input/output error"]
    files = FaultyFiles()
    with Archive.open(files, stored.data_dir, stored.known):
        calls = len(files.calls)
    with Archive.open(FaultyFiles({calls + 2: Fault.EIO}), stored.data_dir, stored.known) as archive:
        with pytest.raises(StorageFailedError):
            archive.get("a")
        assert archive.get("a") == b"[3]"


def test_a_link_in_the_place_of_a_segment_is_not_followed(stored: Stored) -> None:
    path = stored.segments[0]
    path.rename(stored.data_dir / "elsewhere")
    path.symlink_to(stored.data_dir / "elsewhere")
    with pytest.raises(CrabnetError, match=path.name):
        Archive.open(FILES, stored.data_dir, stored.known)
    with pytest.raises(CrabnetError, match=path.name):
        list(verify_archive(FILES, stored.data_dir, stored.known))
