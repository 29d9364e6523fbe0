"""The ledger as its users see it: order, poisoning, a full disk, readers beside the writer, history."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from crabnet.errors import DataDirBusyError, DataDirDamagedError, Reason, RefusedError, StorageFailedError
from crabnet.limits import DISK_FREE_LOW_BYTES, RESERVE_BYTES
from crabnet.storage.files import OpenMode, RealFiles
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import DirLock, LockRole
from crabnet.storage.opening.recovery import Action, NoticeCode
from crabnet.storage.opening.survey import verify
from tests.storage.support import FILES, HEADER, checkpoint, open_ledger, payloads


def test_a_life_over_several_starts(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    for start in range(4):
        with open_ledger(data_dir) as ledger:
            assert payloads(ledger) == [b"[%d]" % number for number in range(start * 2)]
            assert ledger.recovery.is_clean
            assert ledger.recovery.action is (Action.START_FRESH if start == 0 else Action.REPLAY_ALL)
            for number in range(start * 2, start * 2 + 2):
                assert ledger.append(b"[%d]" % number).lsn == number + 1
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in data_dir.rglob("*"))
    assert verify(FILES, data_dir) == []


def test_every_frame_can_be_read_for_ever(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    positions: list[FramePosition] = []
    with open_ledger(data_dir) as ledger:
        for number in range(20):
            positions.append(ledger.append(b"[%d]" % number))
            if number % 4 == 3:
                checkpoint(ledger)
        assert [ledger.read_frame(position) for position in positions] == [b"[%d]" % n for n in range(20)]
        assert [frame.position for frame in ledger.frames_after(0)] == positions
        assert [frame.lsn for frame in ledger.frames_after(17)] == [18, 19, 20]
        assert list(ledger.frames_after(20)) == []
    assert len(list((data_dir / "history").glob("*.log"))) == 4
    with open_ledger(data_dir) as ledger:
        assert [ledger.read_frame(position) for position in positions] == [b"[%d]" % n for n in range(20)]


def test_a_frame_that_never_was_is_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        ledger.append(b"[1]")
        with pytest.raises(DataDirDamagedError):
            ledger.read_frame(FramePosition(2, 1, 220, 3))
        with pytest.raises(StorageFailedError):
            ledger.read_frame(FramePosition(9, 9, 116, 3))


class Breakable(RealFiles):
    """Fails the named call from the moment ``number`` is set."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.number = 0

    def _maybe(self, call: str) -> None:
        if self.number and call == self.call:
            raise OSError(self.number, os.strerror(self.number))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._maybe("pwrite")
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        self._maybe("fdatasync")
        super().fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._maybe("rename")
        super().rename(source, target)

    def allocate(self, fd: int, size: int) -> None:
        self._maybe("allocate")
        super().allocate(fd, size)

    def open(self, path: Path, mode: OpenMode) -> int:
        self._maybe("open")
        return super().open(path, mode)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EIO, Reason.STORAGE_FAILED),
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EDQUOT, Reason.DISK_FULL),
        (errno.EROFS, Reason.DATA_DIR_UNWRITABLE),
    ],
)
def test_a_failure_poisons_for_good(call: str, number: int, reason: Reason, tmp_path: Path) -> None:
    files = Breakable(call)
    data_dir = tmp_path / "data"
    ledger = open_ledger(data_dir, files)
    position = ledger.append(b"[1]")
    files.number = number
    with pytest.raises(StorageFailedError) as first:
        ledger.append(b"[2]")
    files.number = 0
    assert first.value.reason is reason
    assert str(data_dir) in first.value.message
    for _ in range(3):
        with pytest.raises(StorageFailedError) as later:
            ledger.append(b"[3]")
        assert (later.value.message, later.value.reason) == (first.value.message, reason)
    with pytest.raises(StorageFailedError):
        ledger.begin_checkpoint(HEADER)
    assert ledger.failure is not None
    assert ledger.last_lsn == 1
    assert ledger.read_frame(position) == b"[1]"
    assert (data_dir / "reserve").exists() == (reason is not Reason.DISK_FULL)
    ledger.close()
    with open_ledger(data_dir) as again:
        assert payloads(again)[:1] == [b"[1]"]
        assert again.append(b"[9]").lsn == again.last_lsn


def test_a_failed_rename_of_a_checkpoint_poisons(tmp_path: Path) -> None:
    files = Breakable("rename")
    ledger = open_ledger(tmp_path / "data", files)
    ledger.append(b"[1]")
    files.number = errno.EIO
    with pytest.raises(StorageFailedError):
        checkpoint(ledger, [b'["one"]'])
    with pytest.raises(StorageFailedError):
        ledger.append(b"[2]")
    files.number = 0
    ledger.close()
    with open_ledger(tmp_path / "data") as again:
        assert payloads(again) == [b"[1]"]


def test_an_interrupted_append_poisons(tmp_path: Path) -> None:
    class Interrupted(RealFiles):
        def fdatasync(self, fd: int) -> None:
            raise KeyboardInterrupt

    ledger = open_ledger(tmp_path / "data", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        ledger.append(b"[1]")
    with pytest.raises(StorageFailedError, match="interrupted"):
        ledger.append(b"[2]")
    ledger.close()


def test_refused_payloads_poison_nothing(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        for payload in (b"", b"a\nb"):
            with pytest.raises(RefusedError):
                ledger.append(payload)
        assert ledger.append(b"[1]").lsn == 1


def test_a_full_disk_at_the_start_says_so_and_opens_later(tmp_path: Path) -> None:
    files = Breakable("allocate")
    files.number = errno.ENOSPC
    with pytest.raises(StorageFailedError, match="free some space") as refusal:
        open_ledger(tmp_path / "data", files)
    assert refusal.value.reason is Reason.DISK_FULL
    files.number = 0
    with open_ledger(tmp_path / "data", files) as ledger:
        ledger.append(b"[1]")


class NearlyFull(RealFiles):
    """A disk with ``free`` bytes left."""

    free = 0

    def free_bytes(self, path: Path) -> int:
        return self.free


def test_a_full_disk_is_announced(tmp_path: Path) -> None:
    files = NearlyFull()
    with open_ledger(tmp_path / "data", files) as ledger:
        files.free = DISK_FREE_LOW_BYTES
        assert ledger.disk_space() == (DISK_FREE_LOW_BYTES, False)
        files.free -= 1
        assert ledger.disk_space().is_low
        assert (tmp_path / "data" / "reserve").stat().st_size == RESERVE_BYTES
        files.free = DISK_FREE_LOW_BYTES
        ledger.release_reserve()
        ledger.release_reserve()
        assert ledger.disk_space().is_low


def test_readers_in_other_threads_see_only_whole_frames(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data") as ledger:
        positions: list[FramePosition] = []
        done = threading.Event()
        wrong: list[object] = []
        reads = [0, 0]

        def read(reader: int) -> None:
            while not done.is_set() or reads[reader] == 0:
                for number, position in enumerate(list(positions)):
                    if ledger.read_frame(position) != b"[%d]" % number:
                        wrong.append(position)
                    reads[reader] += 1
                numbers = [frame.lsn for frame in ledger.frames_after(0)]
                if numbers != list(range(1, len(numbers) + 1)):
                    wrong.append(numbers)

        threads = [threading.Thread(target=read, args=(reader,)) for reader in range(2)]
        for thread in threads:
            thread.start()
        for number in range(120):
            positions.append(ledger.append(b"[%d]" % number))
            if number % 10 == 0:
                checkpoint(ledger)
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert min(reads) > 0


def test_a_second_opener_is_told_who_holds_it(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "data"), pytest.raises(DataDirBusyError, match=f"node test with pid {os.getpid()}"):
        open_ledger(tmp_path / "data")


def test_a_lock_that_is_handed_in_is_released_on_failure_and_on_close(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"

    def lock() -> DirLock:
        return DirLock.acquire(FILES, data_dir / "lock", LockRole.COMMAND, program="test", now_ms=1)

    Ledger.open(data_dir, files=FILES, now_ms=1, role=LockRole.COMMAND, lock=lock()).close()
    (data_dir / "state.json").write_text('{"format":"crabnet-state","version":9}')
    with pytest.raises(DataDirDamagedError):
        Ledger.open(data_dir, files=FILES, now_ms=1, role=LockRole.COMMAND, lock=lock())
    lock().release()


def test_inspecting_needs_no_lock_and_changes_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        ledger.append(b"[1]")
        before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
        found = Ledger.inspect(data_dir, files=FILES)
        assert (found.rule.action, found.journal.last_lsn, found.damages()) == (Action.REPLAY_ALL, 1, [])
        assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before
    assert Ledger.inspect(tmp_path / "nothing", files=FILES).rule.action is Action.START_FRESH
    assert not (tmp_path / "nothing").exists()


def test_a_killed_life_is_a_notice_and_not_an_alert(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        ledger.append(b"[1]")
    (data_dir / "sealed").unlink()
    with open_ledger(data_dir) as ledger:
        assert ledger.recovery.is_clean
        assert NoticeCode.UNCLEAN_SHUTDOWN in {notice.code for notice in ledger.recovery.notices}


def test_an_import_is_remembered_for_ever(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    baseline = b'{"identity":{"node_id":"n","alias":"a"},"seeds":{"s":{}},"bids":{}}'
    (data_dir / "state.json").write_bytes(baseline)
    for _ in range(2):
        with open_ledger(data_dir) as ledger:
            assert ledger.recovery.baseline() == baseline
            assert list(ledger.recovery.rows()) == []
    with open_ledger(data_dir) as ledger:
        for _ in range(3):
            ledger.append(b"[1]")
            checkpoint(ledger)
    (data_dir / "state.json").unlink()
    (data_dir / "state.json.bak").unlink()
    with open_ledger(data_dir) as ledger:
        assert ledger.recovery.baseline() == baseline
        assert payloads(ledger) == [b"[1]"] * 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["lock", "state.json", "state.json.bak", "sealed"])
def test_a_named_pipe_in_the_place_of_a_file_does_not_hang(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    open_ledger(data_dir).close()
    (data_dir / name).unlink(missing_ok=True)
    os.mkfifo(data_dir / name)
    with pytest.raises((StorageFailedError, DataDirDamagedError), match=name):
        open_ledger(data_dir)


@pytest.mark.parametrize("name", ["state.json", "state.json.bak", "journal", "history", "sealed", "reserve"])
def test_something_else_in_the_place_of_a_file_is_an_error_with_a_name(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with open_ledger(data_dir) as ledger:
        ledger.append(b"[1]")
    path = data_dir / name
    if path.is_dir():
        for each in path.iterdir():
            each.unlink()
        path.rmdir()
        path.write_text("")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to("/nonexistent/elsewhere")
    with pytest.raises((StorageFailedError, DataDirDamagedError), match=name):
        open_ledger(data_dir)
