"""A write that the kernel cuts short is a failure, and a full disk is called one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from crabnet.errors import Reason, StorageFailedError
from crabnet.storage.files import OpenMode, RealFiles, opened, write_all
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole

MIB = 1024 * 1024


class CutShort(RealFiles):
    """Once ``free`` is set, half of every write is done, on a disk with so many bytes left; -1: it does not tell."""

    free: int | None = None

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return super().pwrite(fd, data if self.free is None else data[: len(data) // 2], offset)

    def free_bytes(self, path: Path) -> int:
        if self.free == -1:
            raise OSError(errno.EIO, "no answer")
        return super().free_bytes(path) if self.free is None else self.free


CASES = [
    (0, errno.ENOSPC, Reason.DISK_FULL),
    (4096, errno.ENOSPC, Reason.DISK_FULL),
    (64 * MIB, errno.EIO, Reason.STORAGE_FAILED),
    (-1, errno.EIO, Reason.STORAGE_FAILED),
]


@pytest.mark.parametrize(("free", "number", "reason"), CASES)
def test_what_a_short_write_is_called(tmp_path: Path, free: int, number: int, reason: Reason) -> None:
    files = CutShort()
    files.free = free
    with opened(files, tmp_path / "file", OpenMode.CREATE) as fd, pytest.raises(OSError, match="5 of 10") as caught:
        write_all(files, fd, b"0123456789", 0)
    assert caught.value.errno == number
    assert (tmp_path / "file").read_bytes() == b"01234"


@pytest.mark.parametrize(("free", "number", "reason"), CASES)
def test_the_ledger_says_so_and_acknowledges_nothing_more(
    tmp_path: Path, free: int, number: int, reason: Reason
) -> None:
    files = CutShort()
    ledger = Ledger.open(tmp_path / "data", files=files, now_ms=1, role=LockRole.NODE)
    ledger.append(b"[1]")
    files.free = free
    for _ in range(2):
        with pytest.raises(StorageFailedError) as caught:
            ledger.append(b"[2]")
        assert caught.value.reason is reason
    ledger.close()
    assert (tmp_path / "data" / "reserve").exists() == (reason is not Reason.DISK_FULL)
    with Ledger.open(tmp_path / "data", files=RealFiles(), now_ms=2, role=LockRole.NODE) as again:
        assert [frame.payload for frame in again.recovery.frames()] == [b"[1]"]


def test_the_free_space_of_an_open_file_is_that_of_its_disk(tmp_path: Path) -> None:
    files = RealFiles()
    with opened(files, tmp_path / "file", OpenMode.CREATE) as fd:
        assert files.free_bytes(Path(f"/proc/self/fd/{fd}")) > 0
