"""Damaged bytes: exact recovery or a refusal that names the file, never a wrong state; and the audit locates them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import DataDirDamagedError
from crabnet.storage.opening.recovery import NoticeCode
from tests.faults.rot import CLOSED_AFTER_APPENDS, CLOSED_AFTER_CHECKPOINT, Victim, cuts, flips, make_victim, rot
from tests.faults.workload import APPEND, CHECKPOINT, put, recover, scratch

VICTIMS = [CLOSED_AFTER_CHECKPOINT, CLOSED_AFTER_APPENDS]
IDS = ["closed after a checkpoint", "closed after appends"]


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "data"


@pytest.mark.parametrize(
    "steps", [CLOSED_AFTER_CHECKPOINT, pytest.param(CLOSED_AFTER_APPENDS, marks=pytest.mark.deep)], ids=IDS
)
def test_bit_rot(data_dir: Path, steps: tuple[str, ...]) -> None:
    report = rot(data_dir, steps, bit_share=31, cut_share=5)
    print(f"bit rot: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 900


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", VICTIMS, ids=IDS)
def test_every_bit_and_every_length(data_dir: Path, steps: tuple[str, ...]) -> None:
    report = rot(data_dir, steps, bit_share=1, cut_share=1)
    print(f"bit rot: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 18_000


def _killed(data_dir: Path) -> tuple[Victim, str]:
    """A data dir whose node was killed: not closed, with frames after the checkpoint."""
    victim = make_victim(data_dir, (APPEND, CHECKPOINT, APPEND, APPEND, APPEND))
    del victim.snapshot["sealed"]
    return victim, max(name for name in victim.snapshot if name.startswith("journal/"))


def test_damage_after_a_kill_costs_the_last_frame_at_most(data_dir: Path) -> None:
    """What is damaged in the last frame of a journal that was never closed cannot be told from a torn write."""
    victim, name = _killed(data_dir)
    content = victim.snapshot[name] or b""
    refused = recovered = 0
    for _, changed in flips(content, 7):
        put(data_dir, {**victim.snapshot, name: changed})
        try:
            numbers = recover(data_dir).numbers
        except DataDirDamagedError:
            refused += 1
            continue
        recovered += 1
        assert numbers in (victim.numbers, victim.numbers[:-1])
    for _, changed in cuts(content, 1):
        put(data_dir, {**victim.snapshot, name: changed})
        try:
            numbers = recover(data_dir).numbers
        except DataDirDamagedError:
            refused += 1
            continue
        recovered += 1
        assert numbers == victim.numbers[: len(numbers)]
    print(f"bit rot after a kill: {refused} refused, {recovered} recovered")
    assert refused > 0
    assert recovered > 0


@pytest.mark.parametrize("length", [1, 50, 120, 5_000])
def test_a_tail_of_zeros_is_torn_and_kept_aside(data_dir: Path, length: int) -> None:
    victim, name = _killed(data_dir)
    put(data_dir, {**victim.snapshot, name: (victim.snapshot[name] or b"") + bytes(length)})
    content = recover(data_dir)
    assert content.numbers == victim.numbers
    assert NoticeCode.JOURNAL_TORN in content.notices
    assert [path.read_bytes() for path in (data_dir / "damaged").iterdir()] == [bytes(length)]
    assert NoticeCode.JOURNAL_TORN not in recover(data_dir).notices


def test_a_refusal_changes_nothing(data_dir: Path) -> None:
    victim, name = _killed(data_dir)
    content = bytearray(victim.snapshot[name] or b"")
    content[250] ^= 1
    put(data_dir, {**victim.snapshot, name: bytes(content)})
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(DataDirDamagedError, match="offset"):
        recover(data_dir)
    after = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
