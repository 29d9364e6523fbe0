"""The index finds what was added, survives nothing it does not need to, and is emptied rather than believed."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from crabnet.errors import Reason, RefusedError, StorageFailedError
from crabnet.limits import STORAGE_CHUNK_BYTES
from crabnet.storage.feed_index import FeedEntry, FeedIndex
from crabnet.storage.journal.segment import FramePosition
from tests.storage.support import FILES


def entry(seq: int, author: str = "alice", envelope_id: str = "", namespace: str = "default") -> FeedEntry:
    return FeedEntry(
        namespace, author, seq, envelope_id or f"id-{author}-{seq}", FramePosition(seq, 1, seq * 100, 50), 3
    )


def open_index(directory: Path, journal_last_lsn: int = 1_000) -> FeedIndex:
    return FeedIndex.open(FILES, directory / "index.sqlite", journal_last_lsn=journal_last_lsn)


def test_entries_are_found_in_the_order_of_their_feed(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(seq) for seq in (3, 1, 2)] + [entry(1, "bob"), entry(1, namespace="other")], 7)
    assert index.find("default", "alice", 1, 10) == [entry(1), entry(2), entry(3)]
    assert index.find("default", "alice", 2, 1) == [entry(2)]
    assert index.find("default", "alice", 4, 10) == []
    assert index.find("default", "nobody", 1, 10) == []
    assert index.find("other", "alice", 1, 10) == [entry(1, namespace="other")]
    index.add_many([entry(1)], 7)
    assert len(index.find("default", "alice", 1, 10)) == 3
    index.close()
    index.close()
    again = open_index(tmp_path)
    assert again.last_lsn == 7
    assert again.find("default", "bob", 1, 10) == [entry(1, "bob")]
    again.close()
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_fork_shows_as_two_entries(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(1, envelope_id="b"), entry(1, envelope_id="a")], 2)
    assert [each.envelope_id for each in index.find("default", "alice", 1, 10)] == ["a", "b"]
    index.close()


def about(seq: int, what: str, kind: str = "claim", role: int = 2, **fields: str) -> FeedEntry:
    parent = fields.pop("parent", "")
    return entry(seq, **fields)._replace(about=what, kind=kind, parent=parent, role=role)


def test_entries_are_found_by_what_they_are_about(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    bid, claim = about(1, "seed", "bid", author="bob", parent="p"), about(2, "seed", parent="id-bob-1")
    void, capped = about(3, "seed", role=0), about(4, "seed", role=1)
    other, elsewhere = about(5, "another"), about(1, "seed", namespace="other")
    index.add_many([bid, claim, void, capped, other, elsewhere, entry(6)], 7)
    for _ in range(2):
        assert index.find_about("default", "seed", bid.envelope_id) == bid
        assert index.find_about("default", "seed", void.envelope_id) == void
        assert index.find_about("default", "another", bid.envelope_id) is None
        assert index.find_about("default", "seed", "no such id") is None
        assert index.find_about("default", "", entry(6).envelope_id) is None
        assert index.find_about("other", "seed", elsewhere.envelope_id) == elsewhere
        assert index.all_about("default", "seed", ["bid"], 2) == [bid]
        assert index.all_about("default", "seed", ["claim", "settle"], 2) == [claim]
        assert index.all_about("default", "seed", ["claim"], 1) == [capped]
        assert index.all_about("default", "seed", [], 2) == []
        assert index.all_about("default", "", ["claim", ""], 0) == []
        assert index.find_from("default", "alice", 1, 10) == [claim, capped, other]
        assert index.find_from("default", "alice", 3, 1) == [capped]
        assert index.find_from("default", "nobody", 1, 10) == []
        index.close()
        index = open_index(tmp_path)
    index.close()


def test_the_entry_at_a_place(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(1), entry(3, envelope_id="b"), entry(3, envelope_id="a")], 3)
    assert index.find_at("default", "alice", 1) == entry(1)
    assert index.find_at("default", "alice", 3) == entry(3, envelope_id="a")
    assert index.find_at("default", "alice", 2) is None
    assert index.find_at("default", "alice", 4) is None
    assert index.find_at("other", "alice", 1) is None
    index.close()


def test_what_was_evidence_first_is_about_something_once_others_rest_on_it(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(1)], 1)
    index.add_many([about(1, "seed")], 2)
    assert index.find("default", "alice", 1, 10) == [about(1, "seed")]
    assert index.find_from("default", "alice", 1, 10) == [about(1, "seed")]
    index.close()


def test_after_damage_everything_is_to_be_indexed_again(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(seq) for seq in range(1, 500)], 500)
    other = sqlite3.connect(tmp_path / "index.sqlite")
    other.execute("DROP TABLE entry")
    other.commit()
    other.close()
    with pytest.raises(RefusedError):
        index.find("default", "alice", 1, 10)
    index.add_many([entry(5_000)], 600)
    assert index.last_lsn == 0
    for ask in (
        lambda: index.find_at("default", "alice", 5_000),
        lambda: index.find_about("default", "seed", "id"),
        lambda: index.all_about("default", "seed", ["bid"], 2),
        lambda: index.find_from("default", "alice", 1, 10),
    ):
        with pytest.raises(RefusedError, match="is being rebuilt") as refused:
            ask()
        assert refused.value.reason is Reason.UNAVAILABLE
    index.close()
    again = open_index(tmp_path)
    assert again.last_lsn == 0
    again.close()


def test_the_marker_never_goes_back(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([], 9)
    index.add_many([entry(1)], 5)
    assert index.last_lsn == 9
    index.clear()
    assert (index.last_lsn, index.find("default", "alice", 1, 10)) == (0, [])
    index.close()


def test_an_index_ahead_of_the_journal_is_emptied(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(1)], 9)
    index.close()
    index = open_index(tmp_path, journal_last_lsn=8)
    assert (index.last_lsn, index.find("default", "alice", 1, 10)) == (0, [])
    index.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 500, b"SQLite format 3\0" + b"\xff" * 4_000])
def test_a_file_of_another_kind_is_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(content)
    index = open_index(tmp_path)
    assert index.last_lsn == 0
    index.add_many([entry(1)], 1)
    assert index.find("default", "alice", 1, 10) == [entry(1)]
    index.close()


def test_a_database_of_another_program_or_version_is_replaced(tmp_path: Path) -> None:
    for statement in ("CREATE TABLE other (x)", "PRAGMA user_version = 99"):
        connection = sqlite3.connect(tmp_path / "index.sqlite")
        connection.execute(statement)
        connection.commit()
        connection.close()
        index = open_index(tmp_path)
        index.add_many([entry(1)], 1)
        assert index.find("default", "alice", 1, 10) == [entry(1)]
        index.close()


def test_damage_found_while_working_empties_the_index(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(seq) for seq in range(1, 500)], 500)
    other = sqlite3.connect(tmp_path / "index.sqlite")
    other.execute("DROP TABLE entry")
    other.commit()
    other.close()
    with pytest.raises(RefusedError, match="being rebuilt") as refusal:
        index.find("default", "alice", 1, 10)
    assert refusal.value.reason is Reason.UNAVAILABLE
    assert index.last_lsn == 0
    index.add_many([entry(1)], 1)
    assert index.find("default", "alice", 1, 10) == [entry(1)]
    index.close()


ALL = [about(seq, f"seed {seq % 7}", parent="p") for seq in range(1, 200)]


@pytest.mark.parametrize("suffix", ["", ".sum"])
@pytest.mark.parametrize("bit", range(3, 16_384 * 8, 8_191))
def test_a_flipped_bit_never_hides_anything(bit: int, suffix: str, tmp_path: Path) -> None:
    """Neither a row that is searched for, nor one that is not found (disk-1)."""
    index = open_index(tmp_path)
    index.add_many(ALL, 500)
    index.close()
    path = tmp_path / f"index.sqlite{suffix}"
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)
    index = open_index(tmp_path)
    assert (index.last_lsn, index.built_anew) == (0, True)
    index.add_many(ALL, 500)
    assert index.find("default", "alice", 1, 1_000) == ALL
    index.close()
    index = open_index(tmp_path)
    assert (index.last_lsn, index.built_anew) == (500, False)
    index.close()


@pytest.mark.parametrize("size", [0, 1, 4_096, 12_287, 20_480])
def test_a_file_that_was_cut_or_lengthened_is_not_used(size: int, tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many(ALL, 500)
    index.close()
    path = tmp_path / "index.sqlite"
    before = path.stat().st_size
    os.truncate(path, before + 1 if size == 20_480 else size)
    index = open_index(tmp_path)
    assert index.last_lsn == 0
    index.close()


@pytest.mark.parametrize(
    "change", ["record_no = 99", "offset = 'abc'", "seq = seq + 1", "about = x'ff'", "role = 9", "crc = 0"]
)
def test_a_row_that_was_changed_while_a_node_runs_is_not_believed(change: str, tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many(ALL[:1], 1)
    other = sqlite3.connect(tmp_path / "index.sqlite")
    other.execute(f"UPDATE entry SET {change}")
    other.commit()
    other.close()
    with pytest.raises(RefusedError, match="being rebuilt"):
        index.find("default", "alice", 1, 10)
    assert (index.emptied, index.last_lsn) == (True, 0)
    index.add_many(ALL, 7)
    index.whole(7)
    assert (index.emptied, index.last_lsn) == (False, 7)
    assert index.find_about("default", "seed 1", ALL[0].envelope_id) == ALL[0]
    index.close()


def test_what_was_not_sealed_when_the_node_was_killed_is_indexed_again(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many(ALL[:100], 100)
    index.seal()
    index.add_many(ALL[100:], 200)
    for name in ("index.sqlite", "index.sqlite.sum", "index.sqlite-wal", "index.sqlite-shm"):
        (tmp_path / "killed").mkdir(exist_ok=True)
        (tmp_path / "killed" / name).write_bytes((tmp_path / name).read_bytes())
    index.close()
    index = open_index(tmp_path / "killed")
    assert (index.last_lsn, index.built_anew) == (100, False)
    assert index.find("default", "alice", 1, 1_000) == ALL[:100]
    index.close()


def test_a_look_at_the_file_finds_what_has_changed_under_a_running_node(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    many = [about(seq, "seed", parent="p" * 60) for seq in range(1, 20_000)]
    index.add_many(many, 500)
    index.seal()
    path = tmp_path / "index.sqlite"
    size = path.stat().st_size
    assert size > 2 * STORAGE_CHUNK_BYTES
    looks = size // STORAGE_CHUNK_BYTES + 2
    for _ in range(looks):
        index.look_at_some()
    with path.open("r+b") as file:
        file.seek(size - 100)
        byte = file.read(1)
        file.seek(size - 100)
        file.write(bytes([byte[0] ^ 1]))
    with suppress(RefusedError):
        for _ in range(looks):
            index.look_at_some()
    assert index.emptied
    index.close()


def test_small_writes_are_sealed_together(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many(ALL[:1], 1)
    index.seal(at_least_bytes=10_000_000)
    assert not (tmp_path / "index.sqlite.sum").exists()
    index.seal()
    assert (tmp_path / "index.sqlite.sum").exists()
    index.close()


def test_use_from_several_threads(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    finished: list[str] = []

    def work(author: str) -> None:
        for seq in range(1, 40):
            index.add_many([entry(seq, author)], seq)
            index.find("default", author, 1, 100)
        finished.append(author)

    threads = [threading.Thread(target=work, args=(f"author-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 4
    assert all(len(index.find("default", f"author-{number}", 1, 100)) == 39 for number in range(4))
    index.close()


def test_who_reads_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.add_many([entry(1)], 1)
    under_way, go_on = threading.Event(), threading.Event()

    def entries() -> Iterator[FeedEntry]:
        yield entry(2)
        under_way.set()
        go_on.wait(30)
        yield entry(3)

    writing = threading.Thread(target=index.add_many, args=(entries(), 3))
    writing.start()
    under_way.wait(30)
    found = index.find("default", "alice", 1, 10), index.find_at("default", "alice", 2), index.last_lsn
    assert writing.is_alive()
    go_on.set()
    writing.join()
    assert found == ([entry(1)], None, 1)
    assert index.find("default", "alice", 1, 10) == [entry(1), entry(2), entry(3)]
    index.close()


def test_a_place_that_cannot_be_written_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StorageFailedError, match="index"):
        open_index(tmp_path)
