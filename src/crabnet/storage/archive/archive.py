"""The archive: rows that were moved out of memory, in immutable segments that form a hash chain.

The archive stores only rows. The journal and its checkpoints record which segments belong to it. A later row replaces
an earlier one with the same key. docs/STORAGE.md describes the format and what happens when something is damaged.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, StorageFailedError
from crabnet.limits import ARCHIVE_PAGE_ROWS_MAX
from crabnet.storage.archive.index import ArchiveIndex, Entry, IndexDamagedError, Pointer
from crabnet.storage.archive.segment import (
    FIRST_PREVIOUS,
    ArchiveRow,
    PlacedRow,
    SegmentInfo,
    check_segment,
    damaged,
    is_newer,
    parse_row,
    refuse_newer,
    scan_segment,
    segment_number,
    segment_path,
    validate_rows,
    write_segment,
)
from crabnet.storage.files import Files, OpenMode, guarded, make_dir, move_file, opened
from crabnet.storage.journal.survey import Damage
from crabnet.storage.layout import Layout

__all__ = ["Archive", "ArchiveRow", "SegmentInfo", "verify_archive"]

T = TypeVar("T")

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def verify_archive(files: Files, data_dir: Path, known: Sequence[SegmentInfo]) -> Iterator[Damage]:
    """Read all segments in ``known``, which the journal has recorded, and yield all damage with file and offset.

    Every CRC, row count, SHA-256 and link between segments is checked. It changes nothing and needs no lock. A part of
    the medium that cannot be read counts as damage. Raises ``StorageFailedError``, and ``DataDirDamagedError`` when
    the segments in ``known`` do not form a chain.
    """
    for info, previous in _chained(known):
        path = segment_path(_directory(data_dir), info.number)
        with guarded("read the archive", path):
            yield from (each for each in scan_segment(files, path, info, previous) if isinstance(each, Damage))


def check_archive(files: Files, data_dir: Path, known: Sequence[SegmentInfo]) -> None:
    """Check the first and last line and the size of every segment in ``known``, as ``Archive.open`` does.

    Raises ``DataDirDamagedError`` and ``StorageFailedError``.
    """
    directory = _directory(data_dir)
    for info, previous in _chained(known):
        check_segment(files, segment_path(directory, info.number), info, previous)


class Archive:
    """An open archive. Get one from ``Archive.open``, and ``close`` it or use it as a context manager.

    It is safe to use from several threads. Every call may block on the disk, ``write_segment`` for long. Methods raise
    ``DataDirDamagedError`` when bytes that they need are damaged, and ``StorageFailedError`` when the disk fails. The
    archive rebuilds a damaged index without a notice, because the segments contain everything that was in it.
    """

    def __init__(self, files: Files, data_dir: Path, segments: tuple[SegmentInfo, ...]) -> None:
        self._files = files
        self._directory = _directory(data_dir)
        self._index_path = data_dir / "archive.sqlite"
        self._segments = segments
        self._write_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._failure: StorageFailedError | None = None
        self._closed = False
        self._forgotten: dict[str, str] = {}
        self._leftovers: tuple[Path, ...] = ()
        self._damaged_keys: set[str] = set()
        self._index: ArchiveIndex

    @classmethod
    def open(cls, files: Files, data_dir: Path, known: Sequence[SegmentInfo], *, forgotten: Iterable[str] = ()) -> Self:
        """Open the archive that consists of the segments in ``known``, in order.

        Only the first and last line and the size of every segment are checked. ``verify`` checks everything. Segments
        that are not in ``known`` were never acknowledged. They are moved to ``damaged/`` (see ``leftovers``).
        ``forgotten`` are keys to ``forget``, because the archive does not store which keys are forgotten. Raises
        ``DataDirDamagedError`` (nothing was changed) and ``StorageFailedError``.
        """
        check_archive(files, data_dir, known)
        directory = _directory(data_dir)
        archive = cls(files, data_dir, tuple(known))
        with guarded("open the archive", directory):
            make_dir(files, directory)
        archive._index = archive._open_index()
        try:
            with guarded("open the archive", directory):
                archive._leftovers = archive._clear_away(data_dir)
            for key in forgotten:
                archive.forget(key)
        except BaseException:
            archive._index.close()
            raise
        return archive

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments in order, including those written since ``open``."""
        return self._segments

    @property
    def leftovers(self) -> tuple[Path, ...]:
        """The paths to which ``open`` moved segments that were not in ``known``. They deserve an alert."""
        return self._leftovers

    def write_segment(self, rows: Sequence[ArchiveRow]) -> SegmentInfo:
        """Write rows as the next segment, which is durable and read back on return.

        The segment counts once the caller has recorded it. Until then the caller must keep the rows elsewhere, because
        the next ``open`` does not use a segment that is not in ``known``. Raises ``RefusedError`` for rows out of
        bounds or a key twice. After a ``StorageFailedError`` every further call fails.
        """
        with self._write_lock:
            self._check()
            validate_rows(rows)
            number = len(self._segments) + 1
            path = segment_path(self._directory, number)
            previous = self._segments[-1].sha256 if self._segments else FIRST_PREVIOUS
            with self._fatal(path):
                with guarded("write an archive segment", path):
                    info, places = write_segment(self._files, self._directory, number, previous, rows)
                entries = (_entry(number, PlacedRow(*place, row)) for place, row in zip(places, rows, strict=True))
                self._segments = (*self._segments, info)
                try:
                    self._index.add(info, entries)
                except IndexDamagedError:
                    self._rebuild()
            with self._state_lock:
                for row in rows:
                    self._forgotten.pop(row.key, None)
            return info

    def get(self, key: str) -> bytes | None:
        """Return the data of the latest row of a key after checking its CRC, ``None`` if the archive never had the key.

        It also finds forgotten keys.
        """

        def ask(index: ArchiveIndex) -> bytes | None:
            pointer = index.find(key)
            return None if pointer is None else self._read(pointer).data

        return self._ask(ask)

    def page(
        self, *, tag: str | None = None, owner: str | None = None, limit: int, after: tuple[int, str] | None = None
    ) -> list[ArchiveRow]:
        """Return the latest row of each key that is not forgotten, by ``created_at``, newest first, and then by key.

        ``tag`` and ``owner`` select rows. ``after`` is ``(created_at, key)`` of the last row of the previous page. One
        page has at most ``ARCHIVE_PAGE_ROWS_MAX`` rows. Damaged rows are omitted (see ``unreadable``).
        """
        bounded = max(0, min(limit, ARCHIVE_PAGE_ROWS_MAX))
        with self._state_lock:
            skip = frozenset(self._forgotten)

        def ask(index: ArchiveIndex) -> list[ArchiveRow]:
            rows: list[ArchiveRow] = []
            place, missing = after, bounded
            while missing:
                pointers = index.page(tag, owner, missing, place, skip)
                rows += (row for each in pointers if (row := self._sound(each)) is not None)
                if len(pointers) < missing:
                    break
                place, missing = (pointers[-1].created_at, pointers[-1].key), bounded - len(rows)
            return rows

        return self._ask(ask)

    def starting_with(self, prefix: str, limit: int) -> list[ArchiveRow]:
        """Return the latest rows of at most ``limit`` keys that begin with ``prefix`` and are not forgotten, by key.

        Damaged rows are omitted.
        """
        with self._state_lock:
            skip = frozenset(self._forgotten)
        pointers = self._ask(lambda index: index.starting_with(prefix, min(limit, ARCHIVE_PAGE_ROWS_MAX), skip))
        return [row for each in pointers if (row := self._sound(each)) is not None]

    @property
    def unreadable(self) -> int:
        """The number of rows that were found damaged and omitted so far."""
        return len(self._damaged_keys)

    def forget(self, key: str) -> None:
        """Omit a key from ``page`` and ``count_by_tag`` until it is archived again or the archive is opened again.

        This is for keys that the caller holds in memory again. A key that the archive never had is ignored.
        """
        tag = self._ask(lambda index: index.tag_of(key))
        if tag is not None:
            with self._state_lock:
                self._forgotten[key] = tag

    def count_by_tag(self) -> dict[str, int]:
        """Return how many keys ``page`` lists with each tag."""
        counts = Counter(self._ask(lambda index: index.count_by_tag()))
        with self._state_lock:
            counts.subtract(self._forgotten.values())
        return {tag: count for tag, count in sorted(counts.items()) if count > 0}

    def rows(self, segment: SegmentInfo) -> Iterator[ArchiveRow]:
        """Yield all rows of one segment in the order in which they were written, including replaced ones.

        At the end of the iteration, everything that ``verify`` checks in a segment has been checked.
        """
        for placed in self._placed_rows(segment):
            yield placed.row

    def verify(self) -> Iterator[Damage]:
        """Read everything and yield all damage, as ``verify_archive`` does."""
        return verify_archive(self._files, self._directory.parent, self._segments)

    def close(self) -> None:
        """Close the archive. Closing twice is harmless. If sealing the index fails, the next ``open`` rebuilds it."""
        if not self._closed:
            self._closed = True
            try:
                if self._failure is None:
                    with suppress(StorageFailedError, IndexDamagedError):
                        self._index.seal()
            finally:
                self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageFailedError(self._failure.message, self._failure.reason)
        if self._closed:
            raise StorageFailedError(f"{self._directory} is closed", Reason.UNAVAILABLE)

    @contextmanager
    def _fatal(self, path: Path) -> Iterator[None]:
        """Allow no further segment when the block fails or is interrupted half-way."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, StorageFailedError):
                self._failure = error
            else:
                detail = error.message if isinstance(error, CrabnetError) else "interrupted"
                self._failure = StorageFailedError(f"cannot write an archive segment: {path}: {detail}; start again")
            raise

    def _ask(self, question: Callable[[ArchiveIndex], T]) -> T:
        """Query the index. If it turns out to be damaged, rebuild it once and query again."""
        index = self._index
        try:
            return question(index)
        except IndexDamagedError:
            if self._closed:
                raise StorageFailedError(f"{self._directory} is closed", Reason.UNAVAILABLE) from None
        with self._write_lock:
            if self._index is index:
                self._rebuild()
        try:
            return question(self._index)
        except IndexDamagedError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: IndexDamagedError) -> StorageFailedError:
        return StorageFailedError(f"cannot use the index of the archive: {self._index_path}: {error}; check the disk")

    def _open_index(self) -> ArchiveIndex:
        try:
            index = ArchiveIndex.open(self._files, self._index_path)
        except IndexDamagedError:
            return self._build_index()
        try:
            indexed = index.segments()
            if indexed == list(self._segments[: len(indexed)]):
                for info in self._segments[len(indexed) :]:
                    index.add(info, self._entries(info))
                return index
        except IndexDamagedError:
            pass
        except BaseException:
            index.close()
            raise
        index.close()
        return self._build_index()

    def _build_index(self) -> ArchiveIndex:
        segments = ((info, self._entries(info)) for info in self._segments)
        try:
            return ArchiveIndex.build(self._files, self._index_path, segments)
        except IndexDamagedError as error:
            raise self._unusable(error) from error

    def _rebuild(self) -> None:
        self._index.close()
        self._index = self._build_index()

    def _entries(self, info: SegmentInfo) -> Iterator[Entry]:
        return (_entry(info.number, placed) for placed in self._placed_rows(info))

    def _placed_rows(self, info: SegmentInfo) -> Iterator[PlacedRow]:
        path = segment_path(self._directory, info.number)
        previous = self._segments[info.number - 2].sha256 if info.number > 1 else FIRST_PREVIOUS
        with guarded("read the archive", path):
            for each in scan_segment(self._files, path, info, previous):
                if isinstance(each, Damage):
                    raise damaged(each)
                yield each

    def _sound(self, pointer: Pointer) -> ArchiveRow | None:
        try:
            return self._read(pointer)
        except DataDirDamagedError:
            self._damaged_keys.add(pointer.key)
            return None

    def _read(self, pointer: Pointer) -> ArchiveRow:
        """Return the row that the index points to. If it is not there, find out which is damaged: segment or index."""
        path = segment_path(self._directory, pointer.segment)
        with guarded("read the archive", path):
            try:
                with opened(self._files, path, OpenMode.READ) as fd:
                    row = parse_row(self._files.pread(fd, pointer.length, pointer.offset))
            except FileNotFoundError:
                row = None
        if row is not None and row.key == pointer.key:
            return row
        if 1 <= pointer.segment <= len(self._segments):
            for _ in self._placed_rows(self._segments[pointer.segment - 1]):
                pass
        raise IndexDamagedError(f"row {pointer.key!r} is not at the place that the index has for it")

    def _clear_away(self, data_dir: Path) -> tuple[Path, ...]:
        """Remove half-written files that a crash left, and move segments that are not in ``known`` to damaged/."""
        files, vouched = self._files, len(self._segments)
        names = files.listdir(self._directory)
        unknown = [self._directory / name for name in names if (segment_number(name) or 0) > vouched]
        unknown += [self._directory / name for name in names if segment_number(name) == 0]
        for path in unknown:
            if is_newer(files, path):
                refuse_newer(path)
        for name in names:
            if name.endswith(".tmp") and segment_number(name.removesuffix(".tmp")) is not None:
                files.unlink(self._directory / name)
        moved: list[Path] = []
        for path in unknown:
            directory = Layout(data_dir).damaged
            make_dir(files, directory)
            target, attempt = directory / f"{path.name}.leftover", 0
            while files.size(target) is not None:
                attempt += 1
                target = directory / f"{path.name}.leftover.{attempt}"
            move_file(files, path, target)
            moved.append(target)
        return tuple(moved)


def _directory(data_dir: Path) -> Path:
    return data_dir / "archive"


def _entry(number: int, placed: PlacedRow) -> Entry:
    row = placed.row
    return Entry(row.key, row.created_at, row.tag, row.owner, number, placed.offset, placed.length)


def _chained(known: Sequence[SegmentInfo]) -> Iterator[tuple[SegmentInfo, str]]:
    """Yield every segment with the SHA-256 of the one before. Raises ``DataDirDamagedError`` if they form no chain."""
    for number, info in enumerate(known, start=1):
        if info.number != number or info.rows < 1 or not _SHA256.fullmatch(info.sha256):
            raise DataDirDamagedError(
                f"the journal has recorded archive segments that form no chain: number {info.number} in place {number}"
            )
    previous = FIRST_PREVIOUS
    for info in known:
        yield info, previous
        previous = info.sha256
