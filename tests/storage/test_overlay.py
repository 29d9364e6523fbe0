"""Files on which nothing is changed: all that is done is seen there, and nowhere else."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.storage.files import Files, OpenMode, RealFiles, make_dir, move_file, opened, read_whole, replace_file
from crabnet.storage.overlay import OverlayFiles
from tests.sim.disk import MemoryFiles

NAMES = ("a", "b", "d/c", "d/e/f")
Step = tuple[str, str, str, bytes]
steps = st.lists(
    st.tuples(
        st.sampled_from(["replace", "append", "truncate", "rename", "unlink", "mkdir", "create"]),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.binary(max_size=12),
    ),
    max_size=12,
)


def do(files: Files, root: Path, step: Step) -> object:
    """What a step gives, or the number of its error."""
    kind, name, other, data = step
    path, target = root / name, root / other
    try:
        if kind == "replace":
            replace_file(files, path, data)
        elif kind == "rename":
            move_file(files, path, target)
        elif kind == "unlink":
            files.unlink(path)
        elif kind == "mkdir":
            make_dir(files, path.parent)
        elif kind == "create":
            with opened(files, path, OpenMode.CREATE) as fd:
                return files.pwrite(fd, data, 3)
        else:
            with opened(files, path, OpenMode.WRITE) as fd:
                if kind == "append":
                    return files.pwrite(fd, data, files.size(path) or 0)
                files.truncate(fd, min(len(data), files.size(path) or 0))
    except OSError as error:
        return error.errno
    return None


def seen(files: Files, root: Path) -> dict[str, object]:
    return {name: read_whole(files, root / name, 1_000) for name in NAMES} | {
        f"list {name}": files.listdir(root / name) for name in ("", "d", "d/e")
    }


def fresh(below: list[Step]) -> tuple[MemoryFiles, Path]:
    files, root = MemoryFiles(), Path("/root")
    for place in (root, root / "d", root / "d" / "e"):
        make_dir(files, place)
    for step in below:
        do(files, root, step)
    return files, root


@given(steps, steps)
def test_it_looks_as_if_everything_had_been_done_and_nothing_was(before: list[Step], then: list[Step]) -> None:
    (real, root), (below, _) = fresh(before), fresh(before)
    untouched = seen(below, root)
    overlay = OverlayFiles(below)
    for step in then:
        assert do(overlay, root, step) == do(real, root, step), step
        assert seen(overlay, root) == seen(real, root), step
    assert seen(below, root) == untouched


def test_room_is_made_as_below(tmp_path: Path) -> None:
    for size in (0, 3, 100):
        (tmp_path / "x").write_bytes(b"123456789")
        for files in (OverlayFiles(RealFiles()), RealFiles()):
            with opened(files, tmp_path / "x", OpenMode.WRITE) as fd:
                files.allocate(fd, size or 1)
            assert files.size(tmp_path / "x") == max(9, size)


def test_a_lock_is_taken_once_and_asks_nobody(tmp_path: Path) -> None:
    below, overlay, path = RealFiles(), OverlayFiles(RealFiles()), tmp_path / "lock"
    path.write_text("")
    held = below.open(path, OpenMode.LOCK)
    assert below.try_lock(held)
    first, second = overlay.open(path, OpenMode.LOCK), overlay.open(path, OpenMode.LOCK)
    assert overlay.try_lock(first)
    assert not overlay.try_lock(second)
    overlay.close(first)
    assert overlay.try_lock(second)
    below.close(held)


@pytest.mark.parametrize(
    "change", [lambda files, path: files.mkdir(path), lambda files, path: files.open(path, OpenMode.CREATE)]
)
def test_what_is_there_is_not_made_again(tmp_path: Path, change: Callable[[Files, Path], object]) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(FileExistsError) as error:
        change(OverlayFiles(RealFiles()), tmp_path / "x")
    assert error.value.errno == errno.EEXIST
