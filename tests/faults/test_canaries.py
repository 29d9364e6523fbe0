"""Bugs planted on purpose. A suite that misses one would miss it in earnest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import msgspec
import pytest

from crabnet.errors import DataDirDamagedError
from crabnet.storage import ledger
from crabnet.storage.files import Files, OpenMode, write_all
from crabnet.storage.journal import reading as segments
from crabnet.storage.journal import segment as journal
from crabnet.storage.journal.segment import Frame, SegmentWriter
from crabnet.storage.layout import list_segments, segment_name
from tests.faults.powercut import TracingFiles, power_cuts, record
from tests.faults.seam import FaultyFiles
from tests.faults.suites import CaughtError, paired_faults, single_faults
from tests.faults.workload import Trail, put, recover, run_to_the_end, scratch, take

Plant = Callable[[pytest.MonkeyPatch], None]
Hunt = Callable[[Path], None]


def hunt_single(data_dir: Path) -> None:
    single_faults(data_dir, hunting=True)


def hunt_pairs(data_dir: Path) -> None:
    paired_faults(data_dir, share=15, hunting=True)


def hunt_power_cut(data_dir: Path) -> None:
    power_cuts(data_dir, record(data_dir, 1), hunting=True)


def hunt_power_cut_after_failed_fsync(data_dir: Path) -> None:
    for number in range(2, record(data_dir, 1).syncs + 1):
        power_cuts(data_dir, record(data_dir, 2, frozenset({number})), share=3, hunting=True)


def hunt_tampering(data_dir: Path) -> None:
    """Rewrite a payload, drop a frame, double a frame, add an empty frame: a refusal or a prefix, nothing else."""
    put(data_dir, {})
    run_to_the_end(FaultyFiles(), data_dir, Trail(), ("append",) * 5)
    (data_dir / "sealed").unlink()
    snapshot = take(data_dir)
    name = f"journal/{segment_name(1)}"
    content = snapshot[name] or b""
    lines = content.splitlines(keepends=True)
    rest = b"%08x %016x %s \n" % (0, 6, journal.hash_line(lines[-1]).encode())
    variants = {
        "a rewritten payload": content.replace(b'"n":5', b'"n":4'),
        "a dropped frame": b"".join(lines[:3] + lines[4:]),
        "a doubled frame": b"".join([*lines[:3], lines[2], *lines[3:]]),
        "an empty frame": content + b"%08x %s" % (google_crc32c.value(rest), rest),
    }
    for what, variant in variants.items():
        put(data_dir, {**snapshot, name: variant})
        try:
            numbers = recover(data_dir).numbers
        except DataDirDamagedError:
            continue
        except msgspec.DecodeError as error:
            raise CaughtError(f"{what} was taken for a frame") from error
        if numbers != [1, 2, 3, 4, 5][: len(numbers)]:
            raise CaughtError(f"{what} gave {numbers}")


def plant_no_directory_fsync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TracingFiles, "fsync_dir", lambda self, path: None)


def plant_fsync_retried(patch: pytest.MonkeyPatch) -> None:
    def append(self: SegmentWriter, line: bytes) -> int:
        offset = self.end
        self.end = write_all(self._files, self._fd, line, offset)
        try:
            self._files.fdatasync(self._fd)
        except OSError:
            self._files.fdatasync(self._fd)
        return offset

    patch.setattr(SegmentWriter, "append", append)


def plant_append_not_synced(patch: pytest.MonkeyPatch) -> None:
    def append(self: SegmentWriter, line: bytes) -> int:
        offset = self.end
        self.end = write_all(self._files, self._fd, line, offset)
        return offset

    patch.setattr(SegmentWriter, "append", append)


def plant_short_write_ignored(patch: pytest.MonkeyPatch) -> None:
    def careless(files: Files, fd: int, data: bytes, offset: int) -> int:
        files.pwrite(fd, data, offset)
        return offset + len(data)

    patch.setattr(journal, "write_all", careless)


def plant_going_on_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    def check(self: ledger.Ledger) -> None:
        self._failure = None

    patch.setattr(ledger.Ledger, "_check", check)


def plant_torn_tail_not_cut(patch: pytest.MonkeyPatch) -> None:
    def reopen(
        cls: type[SegmentWriter], files: Files, path: Path, first_lsn: int, end: int, *, renew: bool
    ) -> SegmentWriter:
        return cls(files, path, files.open(path, OpenMode.WRITE), first_lsn, files.size(path) or end)

    patch.setattr(SegmentWriter, "reopen", classmethod(reopen))


def plant_unsynced_tail_trusted(patch: pytest.MonkeyPatch) -> None:
    real = SegmentWriter.reopen

    def reopen(
        cls: type[SegmentWriter], files: Files, path: Path, first_lsn: int, end: int, *, renew: bool
    ) -> SegmentWriter:
        fd = files.open(path, OpenMode.WRITE)
        files.truncate(fd, end)
        files.fsync(fd)
        files.close(fd)
        return real(files, path, first_lsn, end, renew=False)

    patch.setattr(SegmentWriter, "reopen", classmethod(reopen))


def plant_segments_deleted_too_early(patch: pytest.MonkeyPatch) -> None:
    def retire(self: ledger.Ledger) -> None:
        for first, path in list_segments(self._files, self._layout):
            if first < self._writer.first_lsn:
                self._files.unlink(path)

    patch.setattr(ledger.Ledger, "_retire", retire)


def plant_checkpoint_not_synced(patch: pytest.MonkeyPatch) -> None:
    real = TracingFiles.fsync

    def fsync(self: TracingFiles, fd: int) -> None:
        if not Path(f"/proc/self/fd/{fd}").readlink().name.startswith("state.json"):
            real(self, fd)

    patch.setattr(TracingFiles, "fsync", fsync)


def plant_segment_after_the_rename(patch: pytest.MonkeyPatch) -> None:
    real = SegmentWriter.create.__func__  # type: ignore[attr-defined]

    def create(
        cls: type[SegmentWriter], files: Files, directory: Path, first_lsn: int, previous_hash: str
    ) -> SegmentWriter:
        if first_lsn == 1:
            return real(cls, files, directory, first_lsn, previous_hash)  # type: ignore[no-any-return]
        path = directory / segment_name(first_lsn)
        writer = cls(files, path, files.open(path, OpenMode.CREATE), first_lsn, 0)
        writer.end = write_all(files, writer._fd, journal.encode_header(first_lsn, previous_hash), 0)
        return writer

    patch.setattr(SegmentWriter, "create", classmethod(create))


def plant_crc_not_checked(patch: pytest.MonkeyPatch) -> None:
    class Blind:
        @staticmethod
        def value(data: bytes) -> int:
            return Blind.stored

        stored = 0

    real = journal.parse_frame

    def parse(data: bytes, at: int, segment_lsn: int, base: int = 0) -> Frame | None:
        match = journal.FRAME_PREFIX.match(data, at)
        Blind.stored = int(match[1], 16) if match else 0
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(journal, "google_crc32c", Blind)
            return real(data, at, segment_lsn, base)

    patch.setattr(segments, "parse_frame", parse)


def plant_hash_chain_not_checked(patch: pytest.MonkeyPatch) -> None:
    real = segments._Window.frame_at
    reached: list[Frame] = []

    def frame_at(self: segments._Window, offset: int, segment_lsn: int) -> Frame | None:
        frame = real(self, offset, segment_lsn)
        if frame is None:
            return None
        if offset != journal.HEADER_BYTES:
            before = reached[-1]
            frame = frame._replace(position=frame.position._replace(lsn=before.lsn + 1), previous_hash=before.hash)
        reached.append(frame)
        return frame

    patch.setattr(segments._Window, "frame_at", frame_at)


def plant_empty_frame_accepted(patch: pytest.MonkeyPatch) -> None:
    real = journal.parse_frame

    def parse(data: bytes, at: int, segment_lsn: int, base: int = 0) -> Frame | None:
        match = journal.FRAME_PREFIX.match(data, at)
        if match is None or int(match[2], 16):
            return real(data, at, segment_lsn, base)
        line = data[at : at + journal.FRAME_OVERHEAD_BYTES]
        position = journal.FramePosition(int(match[3], 16), segment_lsn, base + at, 0)
        return Frame(position, b"", match[4].decode(), journal.hash_line(line))

    patch.setattr(segments, "parse_frame", parse)


CANARIES: list[tuple[Plant, Hunt]] = [
    (plant_no_directory_fsync, hunt_power_cut),
    (plant_fsync_retried, hunt_single),
    (plant_append_not_synced, hunt_power_cut),
    (plant_short_write_ignored, hunt_single),
    (plant_going_on_after_a_failure, hunt_single),
    (plant_torn_tail_not_cut, hunt_pairs),
    (plant_unsynced_tail_trusted, hunt_power_cut_after_failed_fsync),
    (plant_segments_deleted_too_early, hunt_single),
    (plant_checkpoint_not_synced, hunt_power_cut),
    (plant_segment_after_the_rename, hunt_power_cut),
    (plant_crc_not_checked, hunt_tampering),
    (plant_hash_chain_not_checked, hunt_tampering),
    (plant_empty_frame_accepted, hunt_tampering),
]


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "data"


@pytest.mark.parametrize(
    ("plant", "hunt"),
    [pytest.param(*each, marks=[pytest.mark.deep] if number % 4 else []) for number, each in enumerate(CANARIES)],
    ids=[plant.__name__ for plant, _ in CANARIES],
)
def test_the_planted_bug_is_caught(plant: Plant, hunt: Hunt, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(CaughtError) as caught:
        hunt(data_dir)
    print(f"{plant.__name__}: {caught.value}")


@pytest.mark.parametrize(
    "hunt", [hunt_single, *(pytest.param(each, marks=pytest.mark.deep) for each in (hunt_power_cut, hunt_tampering))]
)
def test_without_a_planted_bug_nothing_is_caught(hunt: Hunt, data_dir: Path) -> None:
    hunt(data_dir)
