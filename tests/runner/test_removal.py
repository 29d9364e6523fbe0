"""Removing what hostile commands leave."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.runner.remove_tree import remove_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def test_a_usual_tree(tree: Path) -> None:
    for name in ("a", "a/b", "a/b/c", "d"):
        (tree / name).mkdir()
        (tree / name / "file").write_text("x")
    os.mkfifo(tree / "fifo")

    assert remove_tree(tree)
    assert not tree.exists()


def test_what_is_not_there_counts_as_removed(tree: Path) -> None:
    tree.rmdir()

    assert remove_tree(tree)


def test_links_are_removed_and_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    outside.chmod(0o500)
    (tree / "d").mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "d" / "link").symlink_to(outside)
    (tree / "d" / "file").symlink_to(outside / "file")

    assert remove_tree(tree)
    assert (outside / "file").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o500


def test_a_link_in_the_place_of_the_tree_is_not_followed(tree: Path, tmp_path: Path) -> None:
    (tree / "file").touch()
    (tmp_path / "link").symlink_to(tree)

    assert not remove_tree(tmp_path / "link")
    assert (tree / "file").exists()


def test_a_tree_deeper_than_recursion_paths_and_open_files_allow(tree: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    depth = sys.getrecursionlimit() + 100
    at = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("crabnet-removed-1", dir_fd=at)
        at, above = os.open("crabnet-removed-1", os.O_RDONLY, dir_fd=at), at
        os.close(above)
    os.close(at)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert remove_tree(tree)
        assert not tree.exists()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        subprocess.run(["rm", "-rf", tree], check=True)  # or the cleaning of pytest would fail, not this test


def test_many_files(tree: Path) -> None:
    (tree / "d").mkdir()
    for number in range(1_000):
        (tree / f"{number}").touch()
        (tree / "d" / f"{number}").touch()

    assert remove_tree(tree)


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o400, 0o500])
def test_locked_directories_are_opened_again(tree: Path, mode: int) -> None:
    """Root needs no permission; an unprivileged user does."""
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "c" / "file").touch()
    for name in ("a/b/c", "a/b", "a", "."):
        (tree / name).chmod(mode)
    pid = os.fork()
    if pid == 0:  # as a user without privileges, when this is root
        try:
            if os.geteuid() == 0:
                for directory, _, files in os.walk(tree):
                    for name in (directory, *(f"{directory}/{file}" for file in files)):
                        os.chown(name, 61_234, 61_234)
                tree.parent.chmod(0o777)
                os.chdir(tree.parent)
                os.setuid(61_234)
            remove_tree(Path(tree.name) if os.getuid() == 61_234 else tree)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert list(tree.parent.glob("tree/*")) == []
