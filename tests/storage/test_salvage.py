"""What fsck saves: the checkpoint and the unbroken chain after it; the rest is kept aside, and the next start tells."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crabnet.errors import DataDirBusyError, DataDirDamagedError, Reason
from crabnet.storage.layout import segment_name
from crabnet.storage.opening.recovery import NoticeCode
from crabnet.storage.opening.salvage import plan_salvage, salvage
from tests.faults.seam import Fault, FaultyFiles, KilledError
from tests.faults.suites import plans
from tests.faults.workload import put, scratch, take
from tests.storage.support import FILES, checkpoint, open_ledger, payloads

ROWS = [b'["%d"]' % number for number in range(1, 5)]


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    """Frames 1 to 8: checkpoints after 2 and 4, 5 to 8 in the last segment."""
    with scratch() as directory:
        data_dir = directory / "data"
        with open_ledger(data_dir) as ledger:
            for number in range(1, 9):
                ledger.append(b"[%d]" % number)
                if number in {2, 4}:
                    checkpoint(ledger, ROWS[:number])
        yield data_dir


def change(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def spoil(data_dir: Path) -> None:
        path = data_dir / name
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return spoil


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(data_dir: Path) -> None:
        for name in names:
            shutil.rmtree(data_dir / name) if (data_dir / name).is_dir() else (data_dir / name).unlink()

    return spoil


def both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(data_dir: Path) -> None:
        first(data_dir)
        second(data_dir)

    return spoil


LAST, BEFORE, FIRST = (f"journal/{segment_name(5)}", f"journal/{segment_name(3)}", f"history/{segment_name(1)}")
CASES = {
    "a frame in the middle": (change(LAST, b"[7]", b"[X]"), 6),
    "the first frame after the checkpoint": (change(LAST, b"[5]", b"[X]"), 4),
    "the last frame, sealed": (change(LAST, b"[8]", b"[X]"), 7),
    "the last segment is gone": (remove(LAST), 4),
    "the journal is gone": (remove("journal", "history"), 4),
    "state.json and a frame": (both(remove("state.json"), change(BEFORE, b"[4]", b"[X]")), 3),
    "no checkpoint, a frame in the history": (
        both(remove("state.json", "state.json.bak"), change(FIRST, b"[2]", b"[X]")),
        1,
    ),
}


@pytest.mark.parametrize(("spoil", "kept"), list(CASES.values()), ids=list(CASES))
def test_what_is_sound_is_kept(spoil: Callable[[Path], None], kept: int, data_dir: Path) -> None:
    spoil(data_dir)
    before = {path.read_bytes() for path in data_dir.rglob("*.log")}
    with pytest.raises(DataDirDamagedError):
        open_ledger(data_dir)
    untouched = take(data_dir)
    plan = plan_salvage(FILES, data_dir)
    assert plan.is_needed
    assert plan.damages
    assert plan.kept_lsn == kept
    assert plan.lost_lsn is not None
    assert plan.lost_lsn > kept
    assert take(data_dir) == untouched
    assert salvage(data_dir, files=FILES, now_ms=7) == plan
    kept_aside = {path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    assert before <= kept_aside
    for _ in range(2):
        with open_ledger(data_dir) as ledger:
            numbers = [*ledger.recovery.rows(), *payloads(ledger)]
            assert [number.strip(b'[]"') for number in numbers] == [b"%d" % n for n in range(1, kept + 1)]
            assert NoticeCode.REPAIRED in {notice.code for notice in ledger.recovery.notices}
            assert not ledger.recovery.is_clean
    with open_ledger(data_dir) as ledger:
        ledger.append(b"[9]")
        checkpoint(ledger, [b'["9"]'] * (kept + 1))
        checkpoint(ledger, [b'["9"]'] * (kept + 1))
    with open_ledger(data_dir) as ledger:
        assert NoticeCode.REPAIRED not in {notice.code for notice in ledger.recovery.notices}
        assert ledger.last_lsn == kept + 1


def test_a_data_dir_that_opens_is_left_alone(data_dir: Path) -> None:
    before = take(data_dir)
    assert not salvage(data_dir, files=FILES, now_ms=7).is_needed
    before.pop("lock")
    after = take(data_dir)
    after.pop("lock")
    assert after == before


def test_a_newer_version_is_not_repaired(data_dir: Path) -> None:
    (data_dir / "state.json").write_text('{"format":"crabnet-state","version":2}')
    with pytest.raises(DataDirDamagedError, match="upgrade") as refusal:
        salvage(data_dir, files=FILES, now_ms=7)
    assert refusal.value.reason is Reason.DATA_DIR_NEWER


def test_nothing_to_start_from_is_said(data_dir: Path) -> None:
    remove("state.json", "state.json.bak", "history", BEFORE)(data_dir)
    with pytest.raises(DataDirDamagedError, match="backup"):
        salvage(data_dir, files=FILES, now_ms=7)


def test_a_data_dir_in_use_is_not_touched(data_dir: Path) -> None:
    with open_ledger(data_dir), pytest.raises(DataDirBusyError):
        salvage(data_dir, files=FILES, now_ms=7)


@pytest.mark.parametrize("case", ["a frame in the middle", "the last segment is gone", "state.json and a frame"])
def test_a_repair_that_is_killed_can_be_done_again(case: str, data_dir: Path) -> None:
    spoil, kept = CASES[case]
    spoil(data_dir)
    damaged = take(data_dir)
    counting = FaultyFiles()
    salvage(data_dir, files=counting, now_ms=7)
    counting.abandon()
    kills = [plan for plan in plans(counting.calls) if plan[2] in {Fault.KILL_AFTER, Fault.HALF_THEN_KILL}]
    for number, _, fault in kills:
        put(data_dir, damaged)
        files = FaultyFiles({number: fault})
        with pytest.raises(KilledError):
            salvage(data_dir, files=files, now_ms=7)
        files.abandon()
        salvage(data_dir, files=FILES, now_ms=8)
        with open_ledger(data_dir) as ledger:
            assert ledger.last_lsn == kept
            assert not ledger.recovery.is_clean
    print(f"killed repairs: {len(kills)} cases")
    assert len(kills) > 10
