"""`crabnet audit verify`: sound data dirs pass, and every changed byte is found and located."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import UsageError
from crabnet.node.node import Node
from crabnet.operator.audit import LivePoint
from tests.operator.support import Clock, ledger_files, publish, verify, whole_job, work


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a settled seed, three sessions, two checkpoints and history."""
    data_dir = tmp_path_factory.mktemp("audit") / "data"
    work(data_dir, publish_one)
    work(data_dir, finish_one)
    work(data_dir, publish_one)
    return data_dir


async def publish_one(node: Node) -> None:
    await publish(node)


async def finish_one(node: Node) -> None:
    await whole_job(node)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a seed in the archive, one that came back from it, and one that never went."""
    data_dir = tmp_path_factory.mktemp("audit") / "data"
    clock = Clock()
    work(data_dir, finish_one, clock)
    work(data_dir, finish_one, clock)
    clock.now_ms += 30 * 24 * 3_600_000
    work(data_dir, archive_all, clock)
    work(data_dir, finish_one, clock)
    return data_dir


async def archive_all(node: Node) -> None:
    while await node.archivist.archive_due():
        pass
    assert not node.core.replica.state.records


def copy_of(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy", dirs_exist_ok=True, symlinks=True))


def flips(path: Path, step: int) -> Iterator[tuple[int, bytes]]:
    content = path.read_bytes()
    for at in range(0, len(content), step):
        yield at, content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_archived_seeds_are_part_of_the_hash(archived: Path, start: str) -> None:
    report = verify(archived, start)
    assert report.ok, report.findings
    assert report.comparisons


def test_changed_bytes_of_the_archive_are_found_and_located(archived: Path, tmp_path: Path) -> None:
    data_dir = copy_of(archived, tmp_path)
    (segment,) = (data_dir / "archive").glob("*.seg")
    original = segment.read_bytes()
    for at, changed in flips(segment, 61):
        segment.write_bytes(changed)
        located = [each for each in verify(data_dir).findings if each.path == segment]
        assert located, f"the flip at {at} was not located"
    segment.write_bytes(original)
    segment.unlink()
    assert segment in [each.path for each in verify(data_dir).findings]


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_a_sound_data_dir_passes_and_its_hashes_agree(sound: Path, start: str) -> None:
    report = verify(sound, start)
    assert report.ok, report.findings
    assert (report.frames, report.envelopes, report.unsigned) == (8, 8, 0)
    assert report.comparisons
    assert all(each.equal for each in report.comparisons)


def test_it_changes_nothing(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    verify(data_dir)
    assert {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()} == before


def check_flips(sound: Path, tmp_path: Path, step: int) -> int:
    data_dir = copy_of(sound, tmp_path)
    cases = 0
    for path in ledger_files(data_dir):
        original = path.read_bytes()
        for at, changed in flips(path, step):
            path.write_bytes(changed)
            report = verify(data_dir)
            assert not report.ok, f"{path.name}: the flip at {at} was not found"
            located = [each for each in report.findings if each.path == path]
            assert located, f"{path.name}: the flip at {at} was located in {report.findings}"
            assert all(each.offset <= at for each in located[:1])
            cases += 1
        path.write_bytes(original)
    assert verify(data_dir).ok
    return cases


def test_changed_bytes_are_found_and_located(sound: Path, tmp_path: Path) -> None:
    print(check_flips(sound, tmp_path, 61), "flips")


@pytest.mark.deep
def test_every_changed_byte_is_found_and_located(sound: Path, tmp_path: Path) -> None:
    print(check_flips(sound, tmp_path, 1), "flips")


def test_the_word_of_a_running_node_is_compared(sound: Path) -> None:
    state_hash = verify(sound).state_hash
    assert verify(sound, live=LivePoint(state_hash, 8)).ok
    lying = verify(sound, live=LivePoint("0" * 64, 8))
    assert [each.lsn for each in lying.findings] == [8]
    assert not verify(sound, live=LivePoint(state_hash, 9)).ok


def test_frames_behind_what_the_running_node_calls_durable_do_not_count(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    state_hash = verify(sound).state_hash
    last = max((data_dir / "journal").glob("*.log"))
    last.write_bytes(last.read_bytes() + b"0000")
    assert verify(data_dir, live=LivePoint(state_hash, 8)).ok
    torn = verify(data_dir)
    assert [each.path for each in torn.findings] == [last]


def test_a_start_that_is_no_checkpoint_is_refused(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        verify(sound, str(tmp_path / "none"))
    with pytest.raises(UsageError):
        verify(tmp_path / "none")
