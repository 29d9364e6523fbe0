"""The note outside of the data dir: how far a feed went."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from crabnet.storage.files import RealFiles
from crabnet.storage.high_water import HighWater

ID = "a" * 64


def note_of(state_dir: Path | None, namespace: str = "default") -> HighWater:
    return HighWater(RealFiles(), state_dir, "12D3KooWnode", namespace)


def path_of(note: HighWater) -> Path:
    assert note.path is not None
    return note.path


def kept(state_dir: Path, *seqs: int) -> HighWater:
    note = note_of(state_dir)
    for seq in seqs:
        note.keep(seq, ID)
    note.close()
    assert note.trouble == ""
    return note


@pytest.mark.parametrize("seqs", [(1,), (9, 10, 11), (2**53 - 1, 7)])
def test_the_last_note_is_read(tmp_path: Path, seqs: tuple[int, ...]) -> None:
    note = kept(tmp_path / "not" / "there", *seqs)
    mark = note_of(tmp_path / "not" / "there").read()
    assert mark is not None
    assert (mark.seq, mark.id, note.is_original(mark)) == (seqs[-1], ID, True)
    assert path_of(note).stat().st_mode & 0o777 == 0o600
    assert path_of(note).parent.stat().st_mode & 0o777 == 0o700


def test_each_namespace_has_its_own(tmp_path: Path) -> None:
    kept(tmp_path, 3)
    assert note_of(tmp_path, "other").read() is None


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"{", b'{"seq":"1"}', b"\xff", b"x" * 100_000])
def test_what_cannot_be_understood_is_no_note(tmp_path: Path, content: bytes) -> None:
    note = kept(tmp_path, 3)
    path_of(note).write_bytes(content)
    assert note_of(tmp_path).read() is None


def test_a_note_that_was_restored_is_told_from_the_original(tmp_path: Path) -> None:
    note = kept(tmp_path, 3)
    path, backup = path_of(note), tmp_path / "backup"
    shutil.copy2(path, backup)
    mark = note.read()
    assert mark is not None
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))  # as a tool that copies over it does
    assert not note.is_original(mark)
    path.unlink()
    shutil.copyfile(backup, path)  # another file
    assert not note.is_original(mark)
    assert note.read() == mark


def test_what_goes_wrong_is_told_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    note = note_of(tmp_path / "file")
    note.keep(1, ID)
    assert "cannot write" in note.trouble
    assert note.read() is None
    note.close()
    (tmp_path / "feeds").mkdir()
    path_of(note_of(tmp_path)).mkdir()
    note = note_of(tmp_path)
    assert note.read() is None
    assert "cannot read" in note.trouble


def test_without_a_place_nothing_is_noted() -> None:
    note = note_of(None)
    note.keep(1, ID)
    assert note.read() is None
    assert "state_dir" in note.trouble
