"""`crabnet fsck --repair` for every refusing cell of the recovery table, and interrupted at any file call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crabnet.errors import Reason
from crabnet.operator.fsck import examine, fsck_lock
from crabnet.operator.repair import prepare
from crabnet.storage.checkpoint.format import Condition
from crabnet.storage.journal.segment import HEADER_BYTES, seal_header
from crabnet.storage.ledger import Ledger
from crabnet.storage.opening.recovery import Action, cells, decide
from tests.faults.seam import Fault, FaultyFiles, KilledError
from tests.operator.fsckable import (
    BASELINE,
    FILES,
    Made,
    broken_in_the_middle,
    copy_of,
    flip,
    looked_at,
    repaired,
    seeds_of,
    segments,
)
from tests.operator.support import START_MS, settings_of


def put_checkpoint(path: Path, sound: bytes, condition: Condition) -> None:
    if condition is Condition.ABSENT:
        path.unlink(missing_ok=True)
        return
    changed = {
        Condition.OK: sound,
        Condition.DAMAGED: sound[:500] + bytes([sound[500] ^ 1]) + sound[501:],
        Condition.OLDER: BASELINE.read_bytes(),
        Condition.NEWER: b'{"format":"crabnet-state","version":2,"lsn":1}',
    }
    path.write_bytes(changed[condition])


def put_journal(data_dir: Path, condition: Condition) -> None:
    if condition is Condition.ABSENT:
        for path in (data_dir / "journal", data_dir / "history"):
            shutil.rmtree(path)
        (data_dir / "sealed").unlink()
        return
    if condition is Condition.DAMAGED:
        # What a checkpoint covers may be damaged; that the journal has ended before it may not.
        segments(data_dir)[-1].unlink()
        for path in segments(data_dir):
            flip(path, HEADER_BYTES + 300)
            flip(path, len(path.read_bytes()) - 300)
    elif condition in {Condition.OLDER, Condition.NEWER}:
        version = b"0002" if condition is Condition.NEWER else b"0000"
        for path in segments(data_dir):
            content = path.read_bytes()
            path.write_bytes(
                seal_header(content[:16] + version + content[20 : HEADER_BYTES - 9]) + content[HEADER_BYTES:]
            )


REFUSING = [cell for cell in cells() if decide(*cell).action.refuses]


def cell_cases(step: int) -> list[tuple[Condition, Condition, Condition]]:
    return REFUSING[::step]


def check_cell(made: Made, tmp_path: Path, state: Condition, bak: Condition, journal: Condition) -> None:
    data_dir = copy_of(made, tmp_path)
    put_checkpoint(data_dir / "state.json", (made.path / "state.json").read_bytes(), state)
    put_checkpoint(data_dir / "state.json.bak", (made.path / "state.json.bak").read_bytes(), bak)
    put_journal(data_dir, journal)
    found = Ledger.inspect(data_dir, files=FILES)
    assert found.rule.action.refuses, (state, bak, journal, found.rule)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "lock"}
    report = looked_at(data_dir).report
    assert not report.opens
    assert {path: path.read_bytes() for path in before} == before
    if found.rule.action is Action.REFUSE_NEWER:
        assert report.obstacle_reason is Reason.DATA_DIR_NEWER
        assert report.repair == ""
        return
    assert report.repair
    flags: dict[str, str | bool] = {"require_signatures": False}
    totals = repaired(data_dir, **flags)
    assert totals.rejected == {}
    assert (data_dir / "feed-risk").exists()
    after = seeds_of(data_dir, **flags)
    assert looked_at(data_dir).report.opens
    ours = {key: status for key, status in after.items() if key in made.seeds}
    assert set(after) - set(made.seeds) <= set(json.loads(BASELINE.read_bytes())["seeds"])
    if state is Condition.OK:
        assert ours == made.seeds
    content = {path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    for path, original in before.items():
        if path.parent.name in {"journal", "history"} and len(original) > HEADER_BYTES:
            assert original in content, f"{path.name} is not kept anywhere"


@pytest.mark.parametrize(("state", "bak", "journal"), cell_cases(7))
def test_refusing_cells_are_repaired_or_left_alone(
    made: Made, tmp_path: Path, state: Condition, bak: Condition, journal: Condition
) -> None:
    check_cell(made, tmp_path, state, bak, journal)


@pytest.mark.deep
def test_every_refusing_cell_is_repaired_or_left_alone(made: Made, tmp_path: Path) -> None:
    for number, (state, bak, journal) in enumerate(REFUSING):
        check_cell(made, tmp_path / str(number), state, bak, journal)
    print(len(REFUSING), "cells")


def start_over(data_dir: Path) -> None:
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    segments(data_dir)[0].unlink()


SPOILS: dict[str, Callable[[Path], object]] = {"in the middle": broken_in_the_middle, "nothing left": start_over}


def check_interruptions(made: Made, tmp_path: Path, spoil: Callable[[Path], object], step: int) -> int:
    """Kill the repair before each of its file calls; the second repair ends where an undisturbed one does."""
    reference = copy_of(made, tmp_path / "reference")
    spoil(reference)
    repaired(reference)
    expected = seeds_of(reference)
    call, cases = 1, 0
    while True:
        data_dir = copy_of(made, tmp_path)
        spoil(data_dir)
        files = FaultyFiles({call: Fault.KILL_BEFORE})
        settings = settings_of(data_dir)
        try:
            with fsck_lock(FILES, data_dir, START_MS) as lock:
                prepare(files, settings, examine(FILES, settings), lock, START_MS)
        except KilledError:
            files.abandon()
            repaired(data_dir)
            assert seeds_of(data_dir) == expected, f"killed before call {call}"
            cases += 1
        else:
            return cases
        call += step


@pytest.mark.parametrize("spoil", list(SPOILS.values()), ids=list(SPOILS))
def test_a_repair_that_was_interrupted_is_done_again(
    made: Made, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    print(check_interruptions(made, tmp_path, spoil, 17), "kills")


@pytest.mark.deep
@pytest.mark.parametrize("spoil", list(SPOILS.values()), ids=list(SPOILS))
def test_a_repair_can_be_interrupted_anywhere(made: Made, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    print(check_interruptions(made, tmp_path, spoil, 1), "kills")
