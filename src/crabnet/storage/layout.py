"""The places of the ledger's files in a data dir, and the seal, which records the end of a closed journal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from crabnet.storage.files import Files, read_whole

LSN_MAX: Final = 2**63 - 1
"""The highest number of a frame in the journal."""
_SEGMENT_NAME: Final = re.compile(r"(\d{20})\.log")
_SEAL: Final = re.compile(rb"crabnet-sealed 0001 ([0-9a-f]{16}) ([0-9a-f]{64}) ([0-9a-f]{8})\n")
_SEAL_BYTES_MAX: Final = 256


CONTROL_SOCKET: Final = "control.sock"


def segment_name(first_lsn: int) -> str:
    """The file name of a segment."""
    return f"{first_lsn:020d}.log"


def segment_first_lsn(name: str) -> int | None:
    """Return the first lsn from a file name, or ``None`` when it is not the name of a segment."""
    match = _SEGMENT_NAME.fullmatch(name)
    first = int(match[1]) if match else 0
    return first if 1 <= first <= LSN_MAX else None


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths inside a data dir that belong to the ledger."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def state(self) -> Path:
        return self.data_dir / "state.json"

    @property
    def bak(self) -> Path:
        return self.data_dir / "state.json.bak"

    @property
    def temporary(self) -> Path:
        return self.data_dir / "state.json.tmp"

    @property
    def journal(self) -> Path:
        return self.data_dir / "journal"

    @property
    def history(self) -> Path:
        return self.data_dir / "history"

    def places(self, name: str) -> tuple[Path, Path]:
        """Return the places where a segment may be, in the order in which it moves."""
        return self.journal / name, self.history / name

    def is_leftover(self, name: str) -> bool:
        """True if a file name is that of a temporary file of the ledger that was never put in place."""
        if not name.endswith(".tmp"):
            return False
        stem = name.removesuffix(".tmp")
        return (
            stem in {each.name for each in (self.state, self.seal, self.baseline, self.repaired)}
            or segment_first_lsn(stem) is not None
        )

    @property
    def baseline(self) -> Path:
        """The baseline's ``state.json`` that this data dir was started from, if any."""
        return self.history / "baseline-state.json"

    @property
    def seal(self) -> Path:
        """The seal: the last frame of the journal at the last orderly close."""
        return self.data_dir / "sealed"

    @property
    def repaired(self) -> Path:
        """The mark of a repair that may have lost frames. It stays until a checkpoint contains new frames."""
        return self.data_dir / "repaired"

    @property
    def reserve(self) -> Path:
        return self.data_dir / "reserve"

    @property
    def damaged(self) -> Path:
        return self.data_dir / "damaged"


def encode_seal(lsn: int, head_hash: str) -> bytes:
    """Return the content of ``sealed``: the last lsn and the hash of its frame."""
    start = b"crabnet-sealed 0001 %016x %s " % (lsn, head_hash.encode())
    return start + b"%08x\n" % google_crc32c.value(start)


def read_seal(files: Files, path: Path) -> tuple[int, str] | None:
    """Return the last lsn and its hash at the last orderly close, ``None`` if there was no such close.

    Raises ``ValueError`` for damaged content and ``OSError`` when reading fails.
    """
    content = read_whole(files, path, _SEAL_BYTES_MAX)
    if content is None:
        return None
    match = _SEAL.fullmatch(content)
    if match is None or int(match[3], 16) != google_crc32c.value(content[:-9]):
        raise ValueError("it is not a seal, or has damaged bytes")
    return int(match[1], 16), match[2].decode()


def list_segments(files: Files, layout: Layout) -> list[tuple[int, Path]]:
    """Return all segments (first lsn, path) in order, including those in ``history/``. Raises ``OSError``."""
    found: dict[int, Path] = {}
    # This order finds a segment that is moved to history/ meanwhile in at least one of the two.
    for directory in (layout.journal, layout.history):
        for name in files.listdir(directory):
            first = segment_first_lsn(name)
            if first is not None:
                found.setdefault(first, directory / name)
    return sorted(found.items())
