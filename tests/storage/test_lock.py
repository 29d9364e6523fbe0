"""One owner of a data dir; whoever comes second is told who it is; a killed owner leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.errors import DataDirBusyError, Reason, StorageFailedError
from crabnet.storage.files import RealFiles
from crabnet.storage.lock import DirLock, LockHolder, LockRole, acquire_with_wait, read_holder

FILES = RealFiles()
HOLD = """
import sys
from pathlib import Path
from crabnet.storage.files import RealFiles
from crabnet.storage.lock import DirLock, LockRole
DirLock.acquire(RealFiles(), Path(sys.argv[1]), LockRole(sys.argv[2]), program="holder", now_ms=1_700_000_000_000)
print("held", flush=True)
sys.stdin.read()
"""


def take(path: Path, role: LockRole = LockRole.NODE) -> DirLock:
    return DirLock.acquire(FILES, path, role, program="test", now_ms=1_700_000_000_000)


def test_a_second_owner_is_told_the_first(tmp_path: Path) -> None:
    path = tmp_path / "data" / "lock"
    lock = take(path)
    with pytest.raises(DataDirBusyError, match=f"node test with pid {os.getpid()}, since 2023-11-14T22:13:20"):
        take(path)
    lock.release()
    lock.release()
    take(path).release()
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), "node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirBusyError, match=f"node holder with pid {holder.pid}"):
            take(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    lock = take(path)
    assert read_holder(FILES, path) == LockHolder(os.getpid(), 1_700_000_000_000, LockRole.NODE, "test")
    lock.release()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 512, b"garbage", b'{"pid":"x"}', b"\xff" * 100, b"[" * 400, b"1" * 9_000]
)
def test_the_hint_may_be_anything(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    assert read_holder(FILES, path) is None
    lock = take(path)
    path.write_bytes(content)
    with pytest.raises(DataDirBusyError, match="in use by another process"):
        take(path)
    lock.release()


def test_a_hint_with_an_impossible_time_is_still_readable(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hint = {"pid": 1, "started_at_ms": 10**18, "role": "node", "program": "p"}
    path.write_text(json.dumps(hint))
    assert "unknown time" in str(read_holder(FILES, path))


class NoLocks(RealFiles):
    """A file system that answers flock with an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def try_lock(self, fd: int) -> bool:
        raise OSError(self._number, os.strerror(self._number))


class LooseLocks(RealFiles):
    """A file system that gives the same lock to everybody."""

    def try_lock(self, fd: int) -> bool:
        return True


@pytest.mark.parametrize(
    "files", [NoLocks(errno.ENOLCK), NoLocks(errno.EOPNOTSUPP), NoLocks(errno.ENOSYS), LooseLocks()]
)
def test_a_file_system_without_locks_is_refused(files: RealFiles, tmp_path: Path) -> None:
    with pytest.raises(StorageFailedError, match="no working file locks") as refusal:
        DirLock.acquire(files, tmp_path / "lock", LockRole.NODE, program="test", now_ms=1)
    assert refusal.value.reason is Reason.LOCKS_UNSUPPORTED


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StorageFailedError, match="lock"):
        take(tmp_path / "lock")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailedError) as refusal:
        take(tmp_path / "file" / "lock")
    assert refusal.value.reason is Reason.DATA_DIR_UNWRITABLE


class Clock:
    """Time that passes only in ``sleep_ms``; ``events`` happen when it is reached."""

    def __init__(self, events: dict[int, DirLock] | None = None) -> None:
        self.now_ms = 0
        self._events = events or {}

    def read_ms(self) -> int:
        return self.now_ms

    def sleep_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms
        for at_ms, lock in self._events.items():
            if at_ms <= self.now_ms:
                lock.release()


def wait(path: Path, clock: Clock, wait_ms: int) -> DirLock:
    return acquire_with_wait(
        FILES,
        path,
        LockRole.COMMAND,
        program="waiter",
        clock_ms=clock.read_ms,
        wait_ms=wait_ms,
        sleep_ms=clock.sleep_ms,
    )


def test_commands_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    clock = Clock({900: take(path, LockRole.COMMAND)})
    lock = wait(path, clock, 5_000)
    assert 900 <= clock.now_ms < 1_000
    lock.release()


def test_waiting_ends_at_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = take(path, LockRole.COMMAND)
    clock = Clock()
    with pytest.raises(DataDirBusyError):
        wait(path, clock, 2_000)
    assert 2_000 <= clock.now_ms < 2_100
    lock.release()


def test_a_node_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = take(path)
    clock = Clock()
    with pytest.raises(DataDirBusyError, match="node test"):
        wait(path, clock, 60_000)
    assert clock.now_ms < 1_000
    lock.release()


def test_the_hint_of_a_killed_node_does_not_stop_commands(tmp_path: Path) -> None:
    """A command holds the lock, but has not yet overwritten what a node left there."""
    path = tmp_path / "lock"
    take(path).release()
    left_behind = path.read_bytes()
    lock = take(path, LockRole.COMMAND)
    path.write_bytes(left_behind)
    clock = Clock({100: lock})
    wait(path, clock, 60_000).release()
