"""Faults and power cuts while the archive is written: acknowledged segments stay, others are whole or not there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crabnet.errors import CrabnetError, DataDirDamagedError, StorageFailedError
from crabnet.storage.archive import segment as archive_segment
from crabnet.storage.archive.archive import Archive, ArchiveRow, SegmentInfo, verify_archive
from crabnet.storage.files import Files, OpenMode, RealFiles
from tests.faults.powercut import TracingFiles, _Disk, states_after
from tests.faults.seam import Fault, FaultyFiles, KilledError
from tests.faults.suites import CaughtError, Report, plans
from tests.faults.workload import Snapshot, put, scratch, take

SEGMENTS = [
    [ArchiveRow("a", 1, "done", "alice", b"1" * 300), ArchiveRow("b", 2, "gone", "bob", b"1")],
    [ArchiveRow("a", 3, "gone", "alice", b"2")],
    [ArchiveRow("c", 0, "done", "bob", b"3"), ArchiveRow("b", 2, "done", "bob", b"3" * 500)],
]
SHORT = (Fault.SHORT, Fault.SHORT_THEN_ERROR)
KEYS = ("a", "b", "c", "never")


@dataclass
class Life:
    """Which segments were acknowledged, and what went wrong with the promises."""

    acknowledged: list[SegmentInfo] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def expected_data(segments: int) -> dict[str, bytes | None]:
    return dict.fromkeys(KEYS) | {row.key: row.data for rows in SEGMENTS[:segments] for row in rows}


def live(files: Files, data_dir: Path, life: Life, until: int = len(SEGMENTS)) -> Snapshot:
    """Open and write the segments that are missing; returns the data dir as it was then, before anything is closed."""
    try:
        archive = Archive.open(files, data_dir, life.acknowledged)
    except (StorageFailedError, DataDirDamagedError, KilledError):
        return take(data_dir)
    try:
        for rows in SEGMENTS[len(life.acknowledged) : until]:
            life.acknowledged.append(archive.write_segment(rows))
    except StorageFailedError:
        life.broken += _expect_poisoned(archive, len(life.acknowledged))
    except KilledError:
        pass
    snapshot = take(data_dir)
    with suppress(KilledError):
        archive.close()
        snapshot = take(data_dir)
    return snapshot


def _expect_poisoned(archive: Archive, acknowledged: int) -> list[str]:
    try:
        archive.write_segment(SEGMENTS[-1])
    except StorageFailedError:
        pass
    except KilledError:
        return []
    else:
        return ["a segment was acknowledged after a failure"]
    for key, data in expected_data(acknowledged).items():
        try:
            found = archive.get(key)
        except CrabnetError:
            continue
        except KilledError:
            return []
        if found not in {data, expected_data(acknowledged + 1)[key]}:
            return [f"{key} is {found!r} after a failure"]
    return []


def judge(data_dir: Path, acknowledged: list[SegmentInfo], whole: Snapshot) -> list[str]:
    """Open twice and go on: everything acknowledged is there, and every other segment is whole or not there."""
    broken: list[str] = []
    for path in (data_dir / "archive").glob("*.seg"):
        number = int(path.stem)
        if number <= len(acknowledged) and path.read_bytes() != whole[f"archive/{path.name}"]:
            broken.append(f"{path.name} has changed")
    for _ in range(2):
        with Archive.open(RealFiles(), data_dir, acknowledged) as archive:
            broken += [str(each) for each in archive.verify()]
            broken += [
                f"{key} is wrong" for key, data in expected_data(len(acknowledged)).items() if archive.get(key) != data
            ]
            if len(archive.page(limit=9)) != sum(archive.count_by_tag().values()):
                broken.append("the page and the counts differ")
    life = Life(list(acknowledged))
    live(RealFiles(), data_dir, life)
    broken += [str(each) for each in verify_archive(RealFiles(), data_dir, life.acknowledged)]
    if len(life.acknowledged) != len(SEGMENTS):
        broken.append("it could not go on")
    return broken


def half_there(snapshot: Snapshot, whole: Snapshot) -> list[str]:
    return [
        f"{name} is there by half"
        for name, content in snapshot.items()
        if name.startswith("archive/") and name.endswith(".seg") and content != whole[name]
    ]


def record_whole(data_dir: Path) -> tuple[Snapshot, list[tuple[str, Path]]]:
    put(data_dir, {})
    files = FaultyFiles()
    life = Life()
    snapshot = live(files, data_dir, life)
    assert len(life.acknowledged) == len(SEGMENTS)
    return snapshot, files.calls


def one_fault(
    data_dir: Path, before: Snapshot, known: list[SegmentInfo], number: int, fault: Fault
) -> tuple[Life, Snapshot]:
    put(data_dir, before)
    files = FaultyFiles({number: fault})
    life = Life(list(known))
    snapshot = live(files, data_dir, life)
    files.abandon()
    return life, snapshot


def single_faults(
    data_dir: Path, *, only: Collection[Fault] = tuple(Fault), hunting: bool = False
) -> tuple[Report, list[tuple[str, Life, Snapshot]]]:
    """Every fault at every file call of a life; also what they leave behind."""
    whole, calls = record_whole(data_dir)
    report = Report(hunting=hunting)
    sites: dict[tuple[object, ...], tuple[str, Life, Snapshot]] = {}
    for number, name, fault in plans(calls):
        if fault not in only:
            continue
        case = f"{fault.value} at call {number} ({name})"
        life, snapshot = one_fault(data_dir, {}, [], number, fault)
        put(data_dir, snapshot)
        report.add(case, life.broken + half_there(snapshot, whole) + judge(data_dir, life.acknowledged, whole))
        stable = {each: content for each, content in snapshot.items() if not each.startswith("archive.sqlite")}
        sites.setdefault((len(life.acknowledged), tuple(stable.items())), (case, life, snapshot))
    return report, list(sites.values())


def paired_faults(data_dir: Path, sites: list[tuple[str, Life, Snapshot]], share: int = 1) -> Report:
    """After each of ``sites`` a second fault at every file call of the next life."""
    whole, _ = record_whole(data_dir)
    report = Report()
    for index, (first, before, snapshot) in enumerate(sites):
        put(data_dir, snapshot)
        files = FaultyFiles()
        live(files, data_dir, Life(list(before.acknowledged)))
        for turn, (number, name, fault) in enumerate(plans(files.calls)):
            if (turn + index) % share:
                continue
            life, after = one_fault(data_dir, snapshot, before.acknowledged, number, fault)
            put(data_dir, after)
            case = f"{first}, then {fault.value} at call {number} ({name})"
            report.add(case, life.broken + half_there(after, whole) + judge(data_dir, life.acknowledged, whole))
    return report


class ArchiveTracing(TracingFiles):
    """A trace in which SQLite's own files have no content: so a power cut always costs the index."""

    def _inode(self, fd: int) -> int:
        try:
            return super()._inode(fd)
        except KeyError:
            return -1


def power_cuts(data_dir: Path, files: ArchiveTracing, *, hunting: bool = False) -> Report:
    whole, _ = record_whole(data_dir)
    put(data_dir, {})
    acknowledged: list[SegmentInfo] = []
    life = Life()
    for until in range(1, len(SEGMENTS) + 1):
        live(files, data_dir, life, until)
        files.trail.acknowledged.append(until)
    acknowledged = life.acknowledged
    report = Report(hunting=hunting)
    disk = _Disk()
    seen: set[tuple[object, ...]] = set()
    for index, event in enumerate(files.events):
        disk.feed(event)
        following = files.events[index + 1] if index + 1 < len(files.events) else event
        for label, snapshot in states_after(disk):
            key = (following.acknowledged, tuple(snapshot.items()))
            if key not in seen:
                seen.add(key)
                put(data_dir, snapshot)
                try:
                    broken = judge(data_dir, acknowledged[: following.acknowledged], whole)
                except CrabnetError as error:
                    broken = [error.message]
                report.add(f"power cut after call {index}, {label}", broken)
    return report


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "data"


def check(report: Report, what: str, cases_min: int) -> None:
    print(f"{what}: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= cases_min


def test_the_enumeration_meets_every_kind_of_call_and_fault(data_dir: Path) -> None:
    _, calls = record_whole(data_dir)
    assert {name for name, _ in calls} >= {"open", "close", "pread", "pwrite", "fsync", "rename", "mkdir", "fsync_dir"}
    assert {fault for _, _, fault in plans(calls)} == set(Fault)


@pytest.mark.deep
def test_faults_alone_and_in_pairs(data_dir: Path) -> None:
    report, sites = single_faults(data_dir)
    check(report, "archive, single faults", 400)
    check(paired_faults(data_dir, sites, share=61), "archive, pairs of faults, a sample", 100)


@pytest.mark.deep
@pytest.mark.timeout(1_200)
def test_all_pairs_of_faults(data_dir: Path) -> None:
    check(paired_faults(data_dir, single_faults(data_dir)[1]), "archive, pairs of faults", 6_000)


def test_power_cuts(data_dir: Path) -> None:
    check(power_cuts(data_dir, ArchiveTracing(data_dir)), "archive, power cuts", 50)


# Bugs planted on purpose: the suites above must catch them.


class NoFileSync(ArchiveTracing):
    def fsync(self, fd: int) -> None:
        pass


class NoDirSync(ArchiveTracing):
    def fsync_dir(self, path: Path) -> None:
        pass


@pytest.mark.parametrize("tracing", [NoFileSync, NoDirSync])
def test_a_missing_sync_is_caught(tracing: type[ArchiveTracing], data_dir: Path) -> None:
    with pytest.raises(CaughtError):
        power_cuts(data_dir, tracing(data_dir), hunting=True)


def test_a_name_before_the_bytes_is_caught(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InPlace(FaultyFiles):
        def open(self, path: Path, mode: OpenMode) -> int:
            return super().open(path.with_name(path.name.replace(".seg.tmp", ".seg")), mode)

        def rename(self, source: Path, target: Path) -> None:
            if target.suffix != ".seg":
                super().rename(source, target)

    monkeypatch.setattr("tests.faults.test_archive_faults.FaultyFiles", InPlace)
    with pytest.raises(CaughtError, match="by half"):
        single_faults(data_dir, hunting=True)


def test_an_ignored_short_write_is_noticed_when_the_segment_is_read_back(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(files: Files, fd: int, data: bytes, offset: int) -> int:
        files.pwrite(fd, data, offset)
        return offset + len(data)

    monkeypatch.setattr(archive_segment, "write_all", careless)
    check(single_faults(data_dir, only=SHORT)[0], "archive, short writes that are ignored", 10)


def test_trusting_a_segment_without_reading_it_back_is_caught(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(files: Files, fd: int, data: bytes, offset: int) -> int:
        files.pwrite(fd, data, offset)
        return offset + len(data)

    monkeypatch.setattr(archive_segment, "write_all", careless)
    monkeypatch.setattr(archive_segment, "reads_back", lambda *_: True)
    with pytest.raises((CaughtError, DataDirDamagedError)):
        single_faults(data_dir, only=SHORT, hunting=True)


def test_a_full_disk_is_named(data_dir: Path) -> None:
    _, calls = record_whole(data_dir)
    number = next(n for n, (name, path) in enumerate(calls, start=1) if name == "pwrite" and ".seg" in path.name)
    put(data_dir, {})
    with Archive.open(FaultyFiles({number: Fault.ENOSPC}), data_dir, []) as archive:
        with pytest.raises(StorageFailedError, match="free some space"):
            archive.write_segment(SEGMENTS[0])
        with pytest.raises(StorageFailedError, match="free some space"):
            archive.write_segment(SEGMENTS[0])
        assert archive.get("a") is None
