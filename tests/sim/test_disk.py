"""The disk of the simulation does to a ledger what real disks do, and no less."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from crabnet.storage.files import OpenMode, replace_file
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.sim.disk import CutError, MemoryFiles

DIR = Path("/data")


def opened(files: MemoryFiles) -> Ledger:
    return Ledger.open(DIR, files=files, now_ms=1, role=LockRole.NODE)


def written(files: MemoryFiles, name: str) -> bytes:
    fd = files.open(Path(name), OpenMode.READ)
    try:
        return files.pread(fd, 1_000, 0)
    finally:
        files.close(fd)


def test_what_is_not_synced_may_be_lost_and_what_is_may_not() -> None:
    outcomes = set()
    for seed in range(200):
        files = MemoryFiles()
        fd = files.open(Path("/a"), OpenMode.CREATE)
        files.pwrite(fd, b"kept", 0)
        files.fsync(fd)
        files.fsync_dir(Path("/"))
        files.pwrite(fd, b"lost?", 4)
        files.power_cut(Random(seed))
        outcomes.add(written(files, "/a"))
    assert all(content.startswith(b"kept") for content in outcomes)
    assert {b"kept", b"keptlost?"} < outcomes
    assert any(0 < len(content.rstrip(b"\0")) - 4 < 5 for content in outcomes)


def test_a_name_that_is_not_synced_may_be_lost() -> None:
    found = set()
    for seed in range(60):
        files = MemoryFiles()
        fd = files.open(Path("/a"), OpenMode.CREATE)
        files.pwrite(fd, b"x", 0)
        files.fsync(fd)
        files.power_cut(Random(seed))
        found.add(files.size(Path("/a")))
    assert found == {None, 1}


def test_a_replaced_file_is_the_old_or_the_new_one() -> None:
    found = set()
    for seed in range(300):
        rng = Random(seed)
        files = MemoryFiles()
        replace_file(files, Path("/a"), b"old")
        files.cut_after(rng.randint(1, 5))
        try:
            replace_file(files, Path("/a"), b"new content")
        except CutError:
            files.power_cut(rng)
        found.add(written(files, "/a"))
    assert found == {b"old", b"new content"}


def test_a_killed_process_loses_nothing_that_it_wrote() -> None:
    files = MemoryFiles()
    files.pwrite(files.open(Path("/a"), OpenMode.CREATE), b"x", 0)
    files.kill()
    assert written(files, "/a") == b"x"


@pytest.mark.parametrize("seed", range(40))
def test_a_ledger_keeps_what_it_acknowledged_through_power_cuts(seed: int) -> None:
    rng = Random(seed)
    files = MemoryFiles()
    acknowledged = 0
    for _ in range(6):
        ledger = opened(files)
        frames = [frame.payload for frame in ledger.frames_after(0)]
        assert frames[:acknowledged] == [b"[%d]" % number for number in range(acknowledged)]
        assert len(frames) <= acknowledged + 1
        acknowledged = len(frames)
        files.cut_after(rng.randint(1, 12))
        try:
            while True:
                ledger.append(b"[%d]" % acknowledged)
                acknowledged += 1
        except CutError:
            files.power_cut(rng)


def test_a_lock_is_held_by_one_and_dropped_by_a_kill() -> None:
    files = MemoryFiles()
    first = files.open(Path("/lock"), OpenMode.LOCK)
    second = files.open(Path("/lock"), OpenMode.LOCK)
    assert files.try_lock(first)
    assert not files.try_lock(second)
    files.kill()
    assert files.try_lock(files.open(Path("/lock"), OpenMode.LOCK))
