"""Collecting output files from directories that a hostile command has left."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.runner.collect import CollectBounds, Manifest, Omission, collect_outputs
from crabnet.runner.remove_tree import remove_tree

DEFAULT = CollectBounds()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def collect(path: Path, bounds: CollectBounds = DEFAULT) -> Manifest:
    with opened(path) as fd:
        return collect_outputs(fd, bounds)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def test_files_are_listed_with_size_and_hash_sorted_by_name(work: Path) -> None:
    (work / "b").write_bytes(b"bee")
    (work / "a").mkdir()
    (work / "a" / "ünï code").write_bytes(b"x" * 1_000_000)
    (work / "empty").touch()

    manifest = collect(work)

    assert [(file.name, file.size_bytes, file.sha256, file.same_as) for file in manifest.files] == [
        ("a/ünï code", 1_000_000, sha256(b"x" * 1_000_000), None),
        ("b", 3, sha256(b"bee"), None),
        ("empty", 0, sha256(b""), None),
    ]
    assert manifest.complete
    assert manifest.size_bytes == 1_000_003


def test_an_empty_directory_gives_an_empty_manifest(work: Path) -> None:
    assert collect(work) == Manifest((), {}, ())


def test_links_and_special_files_are_left_out_unopened(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (work / "link").symlink_to(tmp_path / "secret")
    (work / "up").symlink_to("..")
    (work / "self").symlink_to("/proc/self/root")
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(work / "socket"))
        manifest = collect(work)

    assert manifest.files == ()
    assert manifest.omitted == {Omission.LINK: 3, Omission.SPECIAL: 2}
    assert {(left.name, left.why) for left in manifest.examples} == {
        ("link", "link"),
        ("up", "link"),
        ("self", "link"),
        ("fifo", "special"),
        ("socket", "special"),
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root")
def test_devices_are_left_out(work: Path) -> None:
    os.mknod(work / "zero", 0o020666, os.makedev(1, 5))

    assert collect(work).omitted == {Omission.SPECIAL: 1}


def test_a_hard_link_is_read_once_and_marked(work: Path) -> None:
    (work / "a").write_bytes(b"1234")
    os.link(work / "a", work / "b")

    manifest = collect(work, CollectBounds(bytes_max=4))

    assert [(file.name, file.size_bytes, file.same_as) for file in manifest.files] == [("a", 4, None), ("b", 4, "a")]
    assert manifest.files[0].sha256 == manifest.files[1].sha256 == sha256(b"1234")
    assert manifest.size_bytes == 4
    assert manifest.complete


def test_a_hard_link_to_a_file_outside_is_left_out(work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.link(tmp_path / "secret", work / "stolen")
    os.link(tmp_path / "secret", work / "stolen too")

    manifest = collect(work)

    assert manifest.files == ()
    assert manifest.omitted == {Omission.SHARED: 2}


ODD_NAMES = [b"new\nline", b"esc\x1b[31m", b"\xff\xfe", b"del\x7f", "left\u202eright".encode(), "\u2028".encode()]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_left_out_and_shown_escaped(work: Path, name: bytes) -> None:
    (work / os.fsdecode(name)).touch()

    manifest = collect(work)

    assert manifest.files == ()
    assert manifest.omitted == {Omission.ODD_NAME: 1}
    assert manifest.examples[0].name.isprintable()
    assert "\\" in manifest.examples[0].name


def test_each_bound_leaves_out_and_says_so(work: Path) -> None:
    for index in range(3):
        (work / f"{index}").write_bytes(b"1234")

    def omitted(bounds: CollectBounds) -> tuple[list[str], dict[Omission, int]]:
        manifest = collect(work, bounds)
        return [file.name for file in manifest.files], dict(manifest.omitted)

    assert omitted(CollectBounds(files_max=2)) == (["0", "1"], {Omission.TOO_MANY: 1})
    assert omitted(CollectBounds(names_bytes_max=2)) == (["0", "1"], {Omission.TOO_MANY: 1})
    assert omitted(CollectBounds(bytes_max=8)) == (["0", "1"], {Omission.TOO_LARGE: 1})
    assert omitted(CollectBounds(bytes_max=3)) == ([], {Omission.TOO_LARGE: 3})
    assert omitted(CollectBounds(name_bytes_max=0)) == ([], {Omission.LONG_NAME: 3})
    names, left = omitted(CollectBounds(entries_max=2))
    assert (len(names), left) == (2, {Omission.TOO_MANY: 1})


def test_depth_is_bounded(work: Path) -> None:
    (work / "1" / "2" / "3").mkdir(parents=True)
    for directory in ("1", "1/2", "1/2/3"):
        (work / directory / "file").touch()

    manifest = collect(work, CollectBounds(depth_max=2))

    assert [file.name for file in manifest.files] == ["1/2/file", "1/file"]
    assert manifest.omitted == {Omission.TOO_DEEP: 1}


def test_a_very_deep_tree_costs_no_more_than_the_bounds(work: Path) -> None:
    at = os.open(work, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d" * 200, dir_fd=at)
        at, above = os.open("d" * 200, os.O_RDONLY, dir_fd=at), at
        os.close(above)
    os.close(at)

    try:
        assert collect(work).omitted == {Omission.LONG_NAME: 1}
    finally:
        assert remove_tree(work)


def test_a_sparse_giant_is_not_read(work: Path) -> None:
    with (work / "giant").open("wb") as file:
        file.truncate(1 << 40)
    (work / "small").write_bytes(b"small")

    manifest = collect(work)

    assert [file.name for file in manifest.files] == ["small"]
    assert manifest.omitted == {Omission.TOO_LARGE: 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_left_out(work: Path) -> None:
    (work / "file").touch(mode=0)
    (work / "directory").mkdir(mode=0)

    assert collect(work).omitted == {Omission.UNREADABLE: 2}


def test_a_work_dir_without_permissions_hides_nothing(work: Path) -> None:
    (work / "file").write_bytes(b"x")

    with opened(work) as fd:
        work.chmod(0)
        manifest = collect_outputs(fd)

    assert [file.name for file in manifest.files] == ["file"]


def test_a_leased_file_does_not_hold_up(work: Path) -> None:
    (work / "leased").write_bytes(b"x")
    with (work / "leased").open("rb+") as holder:
        # The kernel would make an open wait 45 s for the holder, who is told by SIGIO and does not care.
        previous = signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            manifest = collect(work)
        finally:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, previous)

    assert manifest.omitted == {Omission.UNREADABLE: 1}


def test_a_tree_that_changes_meanwhile_never_leads_out(work: Path, tmp_path: Path) -> None:
    """A directory and a file are swapped for links to outside, over and over, while the tree is collected."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    (work / "d").mkdir()
    (work / "d" / "file").write_text("mine")
    (work / "spare").symlink_to(outside)
    (work / "f").write_text("mine")
    (work / "flink").symlink_to(outside / "file")
    (work / "grows").touch()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, other in (("d", "spare"), ("f", "flink")):
                (work / one).rename(work / "t")
                (work / other).rename(work / one)
                (work / "t").rename(work / other)
            with (work / "grows").open("ab") as file:
                file.write(b"x" * 4096)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        manifests = [collect(work) for _ in range(100)]
    finally:
        stop.set()
        thread.join()

    hashes = {file.sha256 for manifest in manifests for file in manifest.files if file.name != "grows"}
    assert hashes <= {sha256(b"mine")}


@given(
    names=st.lists(
        st.binary(min_size=1, max_size=30).filter(lambda raw: not {0, 47} & set(raw) and raw not in {b".", b".."}),
        unique=True,
        max_size=8,
    )
)
def test_every_name_is_listed_or_left_out(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    work = tmp_path_factory.mktemp("work")
    for name in names:
        (work / os.fsdecode(name)).write_bytes(name)

    manifest = collect(work)

    listed = {file.name.encode(): file.sha256 for file in manifest.files}
    assert listed.items() <= {name: sha256(name) for name in names}.items()
    assert len(listed) + sum(manifest.omitted.values()) == len(names)
    assert all(file.name.isprintable() for file in manifest.files)
