"""Short ways to open a ledger and to make a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crabnet.storage.checkpoint.format import CheckpointHeader
from crabnet.storage.files import Files, RealFiles
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole

FILES = RealFiles()
HEADER = CheckpointHeader(
    state_hash="hash", created_at_ms=5, node_id="node", extra={"text": "ä", "flag": True, "no": None}
)


def open_ledger(data_dir: Path, files: Files = FILES) -> Ledger:
    return Ledger.open(data_dir, files=files, now_ms=1_000, role=LockRole.NODE, program="test")


def checkpoint(ledger: Ledger, rows: Iterable[bytes] = ()) -> CheckpointHeader:
    writer = ledger.begin_checkpoint(HEADER)
    writer.write_rows(rows)
    return writer.commit()


def payloads(ledger: Ledger) -> list[bytes]:
    return [frame.payload for frame in ledger.recovery.frames()]
