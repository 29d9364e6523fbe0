"""Data dirs for `crabnet fsck`: sound ones, ways to damage them, and the looks and repairs of the tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from crabnet.domain.model import SeedStatus
from crabnet.node.node import Node
from crabnet.operator.fsck import Examination, examine, fsck_lock
from crabnet.operator.repair import apply_pending, prepare
from crabnet.operator.transfer import ImportTotals
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.segment import HEADER_BYTES
from tests.operator.support import START_MS, publish, settings_of, whole_job, work

FILES = RealFiles()
BASELINE = Path(__file__).parents[1] / "vectors" / "baseline_state" / "state.json"


@dataclass(frozen=True)
class Made:
    """A data dir: three sessions with a checkpoint after each, envelopes of strangers, own tasks."""

    path: Path
    seeds: dict[str, SeedStatus]


def seeds_of(data_dir: Path, **flags: str | bool) -> dict[str, SeedStatus]:
    found: dict[str, SeedStatus] = {}

    async def look(node: Node) -> None:
        found.update({key: record.progress.status for key, record in node.core.replica.state.records.items()})

    work(data_dir, look, None, **flags)
    return found


async def own_job(node: Node) -> None:
    await whole_job(node)
    await publish(node)


def copy_of(made: Made, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(made.path, target))


def looked_at(data_dir: Path) -> Examination:
    with fsck_lock(FILES, data_dir, START_MS):
        return examine(FILES, settings_of(data_dir))


def repaired(data_dir: Path, **flags: str | bool) -> ImportTotals:
    settings = settings_of(data_dir, **flags)
    with fsck_lock(FILES, data_dir, START_MS) as lock:
        examination = examine(FILES, settings)
        assert not examination.report.obstacle
        prepare(FILES, settings, examination, lock, START_MS)
        pending = examine(FILES, settings).pending
    return apply_pending(FILES, settings, pending)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def segments(data_dir: Path) -> list[Path]:
    return sorted([*(data_dir / "history").glob("*.log"), *(data_dir / "journal").glob("*.log")], key=lambda p: p.name)


def broken_in_the_middle(data_dir: Path) -> Path:
    """No checkpoint, and a flipped byte in the first of several frames with strangers' envelopes."""
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    path = segments(data_dir)[1]
    flip(path, HEADER_BYTES + 300)
    return path
