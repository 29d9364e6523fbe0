"""What the fault suites do to a ledger, and the promises that they hold it to.

The state is the list of numbers that were appended; a checkpoint has one row per number. So every checkpoint and every
replay shows at once whether something is lost, doubled or out of order.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from crabnet.errors import CrabnetError, DataDirDamagedError, RefusedError, StorageFailedError
from crabnet.storage.checkpoint.format import CheckpointHeader
from crabnet.storage.files import Files, RealFiles
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from crabnet.storage.opening.recovery import NoticeCode
from tests.faults.seam import FaultyFiles, KilledError
from tests.support.leftovers import MEMORY_DIR

APPEND, CHECKPOINT, CHECKPOINT_WITH_APPEND = "append", "checkpoint", "checkpoint with an append in between"
STEPS = (
    *(APPEND,) * 2,
    CHECKPOINT,
    *(APPEND,) * 2,
    CHECKPOINT_WITH_APPEND,
    APPEND,
    CHECKPOINT,
    APPEND,
)
RESERVE = "reserve"

Snapshot = dict[str, bytes | None]
"""Relative path to content, ``None`` for a directory."""


@dataclass
class Trail:
    """What was asked of the ledger, and what it acknowledged."""

    attempted: list[int] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Content:
    """What recovery gave."""

    numbers: list[int]
    notices: list[NoticeCode]


def payload(number: int) -> bytes:
    return b'[{"n":%d,"fill":"%s"}]' % (number, b"x" * (number % 7))


def row(number: int) -> bytes:
    return b'["n",%d]' % number


def open_ledger(files: Files, data_dir: Path) -> Ledger:
    return Ledger.open(data_dir, files=files, now_ms=1_000, role=LockRole.NODE, expected_node_id="node")


def numbers_of(ledger: Ledger) -> list[int]:
    rows = [msgspec.json.decode(each, type=tuple[str, int])[1] for each in ledger.recovery.rows()]
    frames = [msgspec.json.decode(each.payload, type=list[dict[str, int | str]]) for each in ledger.recovery.frames()]
    return rows + [int(record["n"]) for records in frames for record in records]


def _step(ledger: Ledger, step: str, state: list[int], trail: Trail) -> None:
    def append() -> None:
        number = (state[-1] if state else 0) + 1
        trail.attempted.append(number)
        ledger.append(payload(number))
        trail.acknowledged.append(number)
        state.append(number)

    if step == APPEND:
        append()
        return
    rows = [row(number) for number in state]
    header = CheckpointHeader(state_hash=str(len(state)), created_at_ms=1, node_id="node")
    writer = ledger.begin_checkpoint(header)
    writer.write_rows(rows[:1])
    if step == CHECKPOINT_WITH_APPEND:
        append()
    writer.write_rows(rows[1:])
    writer.commit()


def run(files: Files, data_dir: Path, trail: Trail, steps: tuple[str, ...] = STEPS) -> None:
    """Open, work, close. A failure must poison the ledger; ``KilledError`` passes through."""
    try:
        ledger = open_ledger(files, data_dir)
    except (StorageFailedError, DataDirDamagedError):
        return
    try:
        state = numbers_of(ledger)
    except (StorageFailedError, DataDirDamagedError):
        steps = ()
    try:
        for step in steps:
            _step(ledger, step, state, trail)
        ledger.close()
    except StorageFailedError:
        _expect_poisoned(ledger, trail)


def _expect_poisoned(ledger: Ledger, trail: Trail) -> None:
    for number in (900, 901):
        try:
            ledger.append(payload(number))
            trail.violations.append("a poisoned ledger acknowledged an append")
        except StorageFailedError:
            continue
    with suppress(StorageFailedError, RefusedError):
        ledger.begin_checkpoint(CheckpointHeader(state_hash="", created_at_ms=1, node_id="node"))
        trail.violations.append("a poisoned ledger began a checkpoint")
    with suppress(StorageFailedError):
        ledger.close()


def run_to_the_end(files: FaultyFiles, data_dir: Path, trail: Trail, steps: tuple[str, ...] = STEPS) -> None:
    """``run`` as a process that may be killed; its files and locks are gone afterwards."""
    try:
        run(files, data_dir, trail, steps)
    except KilledError:
        pass
    finally:
        files.abandon()


def recover(data_dir: Path) -> Content:
    """Open without faults, read everything, close."""
    files = FaultyFiles()
    try:
        with open_ledger(files, data_dir) as ledger:
            return Content(numbers_of(ledger), [notice.code for notice in ledger.recovery.notices])
    finally:
        files.abandon()


DAMAGE = frozenset({NoticeCode.STATE_DAMAGED, NoticeCode.BAK_DAMAGED, NoticeCode.SEAL_DAMAGED})


def judge(data_dir: Path, trail: Trail, *, damage_allowed: bool = False) -> list[str]:
    """Every broken promise of a data dir after ``trail``: acknowledged ⊆ recovered ⊆ attempted, in order, no doubles,
    the second recovery identical, the same without state.json, and work can go on."""
    found = list(trail.violations)
    try:
        first = recover(data_dir)
        if missing := set(trail.acknowledged) - set(first.numbers):
            found.append(f"lost {sorted(missing)}")
        if phantoms := set(first.numbers) - set(trail.attempted):
            found.append(f"never written {sorted(phantoms)}")
        if first.numbers != list(range(1, len(first.numbers) + 1)):
            found.append(f"out of order or doubled {first.numbers}")
        if not damage_allowed and (damaged := DAMAGE & set(first.notices)):
            found.append(f"damaged files {sorted(damaged)}")
        if recover(data_dir).numbers != first.numbers:
            found.append("the second recovery differs")
        later = Trail(list(trail.attempted), list(first.numbers))
        run_to_the_end(FaultyFiles(), data_dir, later, (APPEND,))
        if recover(data_dir).numbers != [*first.numbers, len(first.numbers) + 1]:
            found.append("work after the recovery is lost")
        state = data_dir / "state.json"
        if state.exists():
            state.unlink()
            if recover(data_dir).numbers != [*first.numbers, len(first.numbers) + 1]:
                found.append("without state.json something is lost")
    except CrabnetError as error:
        found.append(f"refused: {error}")
    except ArithmeticError as error:
        found.append(f"traceback: {error!r}")
    return found


def take(data_dir: Path) -> Snapshot:
    """The content of a data dir; the reserve only by its name."""
    found: Snapshot = {}
    for path in sorted(data_dir.rglob("*")) if data_dir.exists() else []:
        name = str(path.relative_to(data_dir))
        found[name] = None if path.is_dir() else b"" if name == RESERVE else path.read_bytes()
    return found


def put(data_dir: Path, snapshot: Mapping[str, bytes | None]) -> None:
    """Make ``data_dir`` hold exactly a snapshot."""
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(mode=0o700)
    for name, content in snapshot.items():
        path = data_dir / name
        if content is None:
            path.mkdir(mode=0o700)
        else:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, content)
            if name == RESERVE:
                os.ftruncate(fd, 1024 * 1024)
            os.close(fd)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory when there is one: these suites make thousands of data dirs."""
    memory = Path(os.environ.get(MEMORY_DIR, "/dev/shm"))
    usable = memory.is_dir() and os.access(memory, os.W_OK) and RealFiles().free_bytes(memory) > 256 * 1024 * 1024
    with tempfile.TemporaryDirectory(prefix="crabnet-faults-", dir=memory if usable else None) as name:
        yield Path(name)
