"""What the death of a process leaves in the middle of a write is told from damage: nothing sent is missing by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crabnet.storage.journal.segment import encode_frame, encode_header
from crabnet.storage.layout import segment_name
from crabnet.storage.opening.recovery import NoticeCode
from tests.storage.test_recovery_table import checkpoint, content, frame, open_ledger


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a checkpoint and two frames after it, not closed in order."""
    data_dir = tmp_path_factory.mktemp("unfinished") / "data"
    with open_ledger(data_dir) as ledger:
        for number in range(1, 4):
            ledger.append(frame(number))
        checkpoint(ledger)
        for number in range(4, 6):
            ledger.append(frame(number))
    (data_dir / "sealed").unlink()
    return data_dir


def copy_of(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def last_segment(data_dir: Path) -> Path:
    return sorted((data_dir / "journal").glob("*.log"))[-1]


def codes(data_dir: Path) -> set[NoticeCode]:
    with open_ledger(data_dir) as ledger:
        assert content(ledger)[-2:] == [frame(4), frame(5)]
        found = {notice.code for notice in ledger.recovery.notices}
        assert ledger.recovery.is_clean == (not any(code.is_alert for code in found))
    return found


def next_line(data_dir: Path) -> bytes:
    with open_ledger(data_dir) as ledger:
        line = encode_frame(ledger.last_lsn + 1, ledger.head_hash, b'["what was to be written next"]')
    (data_dir / "sealed").unlink()
    return line


@pytest.mark.parametrize("length", [1, 5, 8, 9, 13, 17, 18, 20, 34, 60, 99, 100, 101, 120, -1])
def test_the_beginning_of_a_frame_is_an_unfinished_write(whole: Path, tmp_path: Path, length: int) -> None:
    data_dir = copy_of(whole, tmp_path)
    line = next_line(data_dir)
    with last_segment(data_dir).open("ab") as segment:
        segment.write(line[:length])
    found = codes(data_dir)
    assert NoticeCode.JOURNAL_UNFINISHED in found
    assert not any(code.is_alert for code in found)


@pytest.mark.parametrize("length", [1, 17, 60, 99, 101, 120, -1])
def test_zeros_behind_the_beginning_of_a_frame_are_what_a_power_cut_leaves(
    whole: Path, tmp_path: Path, length: int
) -> None:
    data_dir = copy_of(whole, tmp_path)
    line = next_line(data_dir)
    with last_segment(data_dir).open("ab") as segment:
        segment.write(line[:length].ljust(len(line), b"\0"))
    found = codes(data_dir)
    assert NoticeCode.JOURNAL_UNFINISHED in found
    assert not any(code.is_alert for code in found)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:-1] + b"x",
        lambda line: line[:50] + bytes([line[50] ^ 1]) + line[51:],
        lambda line: line[:30] + bytes([line[30] ^ 1]) + line[31:60],
        lambda line: line[:9] + b"7" + line[10:],
        lambda line: line.replace(b"next", b"text"),
        lambda line: bytes(len(line)),
        lambda line: b"anything",
        lambda line: line[:40] + b"\n",
    ],
    ids=["its end", "its link", "its number", "its length", "its content", "zeros", "text", "a line"],
)
def test_what_may_have_been_a_whole_frame_is_damage(whole: Path, tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    data_dir = copy_of(whole, tmp_path)
    line = next_line(data_dir)
    with last_segment(data_dir).open("ab") as segment:
        segment.write(spoil(line))
    found = codes(data_dir)
    assert NoticeCode.JOURNAL_TORN in found
    assert NoticeCode.JOURNAL_UNFINISHED not in found


@pytest.mark.parametrize(("length", "unfinished"), [(0, True), (10, True), (40, True), (115, True), (116, False)])
def test_a_segment_that_was_being_made(whole: Path, tmp_path: Path, length: int, unfinished: bool) -> None:
    data_dir = copy_of(whole, tmp_path)
    header = encode_header(6, "0" * 64)[:length]
    if not unfinished:
        header = header[:20] + b"x" + header[21:]
    (data_dir / "journal" / segment_name(6)).write_bytes(header)
    found = codes(data_dir)
    assert (NoticeCode.JOURNAL_SEGMENT_UNFINISHED in found) is unfinished
    assert (NoticeCode.JOURNAL_SEGMENT_TORN in found) is not unfinished


@pytest.mark.parametrize("left", [*range(0, 116, 23), "whole"])
def test_a_crash_in_the_first_checkpoint(tmp_path: Path, left: int | str) -> None:
    """Its file is whole under its temporary name; of the segment that it begins there is a part, or all (disk-4)."""
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        for number in range(1, 4):
            ledger.append(frame(number))
        checkpoint(ledger)
    (data_dir / "sealed").unlink()
    (data_dir / "state.json").rename(data_dir / "state.json.tmp")
    if isinstance(left, int):
        segment = last_segment(data_dir)
        segment.write_bytes(segment.read_bytes()[:left])
    with open_ledger(data_dir) as ledger:
        found = {notice.code for notice in ledger.recovery.notices}
        assert [each.payload for each in ledger.recovery.frames()] == [frame(number) for number in range(1, 4)]
        assert not ledger.recovery.may_lack_frames
    assert NoticeCode.CHECKPOINT_UNFINISHED in found
    assert not any(code.is_alert for code in found)


def test_a_crash_between_the_two_renames_of_a_checkpoint(whole: Path, tmp_path: Path) -> None:
    data_dir = copy_of(whole, tmp_path)
    old = (data_dir / "state.json").read_bytes()
    with open_ledger(data_dir) as ledger:
        checkpoint(ledger)
    (data_dir / "sealed").unlink()
    (data_dir / "state.json").rename(data_dir / "state.json.tmp")
    (data_dir / "state.json.bak").write_bytes(old)
    with open_ledger(data_dir) as ledger:
        found = {notice.code for notice in ledger.recovery.notices}
        assert ledger.recovery.is_clean
        assert [*ledger.recovery.rows(), *(each.payload for each in ledger.recovery.frames())] == [
            frame(number) for number in range(1, 6)
        ]
    assert NoticeCode.CHECKPOINT_UNFINISHED in found
    assert not (data_dir / "state.json.tmp").exists()


@pytest.mark.parametrize("spoil", ["no new one", "a damaged new one", "one that covers more than the journal"])
def test_an_absent_checkpoint_is_an_alert_otherwise(whole: Path, tmp_path: Path, spoil: str) -> None:
    data_dir = copy_of(whole, tmp_path)
    state, new = data_dir / "state.json", data_dir / "state.json.tmp"
    state.rename(data_dir / "state.json.bak")
    if spoil == "a damaged new one":
        new.write_bytes((data_dir / "state.json.bak").read_bytes()[:-5])
    elif spoil == "one that covers more than the journal":
        other = tmp_path / "other"
        with open_ledger(other) as ledger:
            for number in range(1, 10):
                ledger.append(frame(number))
            checkpoint(ledger)
        new.write_bytes((other / "state.json").read_bytes())
    assert NoticeCode.STATE_ABSENT in codes(data_dir)
