"""The checkpoint ``state.json``: a JSON file with one row per line, which is written and read as a stream.

::

    {"format":"crabnet-state","version":1,"lsn":7,"journal_head":"…","state_hash":"…",…,"rows":[
    ["kind",{…}],
    ["kind",{…}]
    ],"row_count":2,
    "checksum":"sha256:<64 hex: over every byte before this line>"}

Rows are opaque JSON without line feeds. The ``state.json`` of the Rust baseline counts as version 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

CHECKPOINT_VERSION: Final = 1
CHECKPOINT_FORMAT: Final = "crabnet-state"
ROWS_BEGIN: Final = b',"rows":[\n'

JsonScalar = str | int | bool | None


class Condition(StrEnum):
    """The condition of a stored part. The recovery table has one such dimension for each part."""

    OK = "ok"
    DAMAGED = "damaged"
    ABSENT = "absent"
    OLDER = "older"
    NEWER = "newer"


class CheckpointHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The description of a checkpoint in its first line. The ledger fills in ``lsn`` and ``journal_head``.

    The caller may use ``extra`` freely. ``created_at_ms`` is in milliseconds since 1970.
    """

    format: str = CHECKPOINT_FORMAT
    version: int = CHECKPOINT_VERSION
    lsn: int = 0
    journal_head: str = ""
    state_hash: str
    created_at_ms: int
    node_id: str
    extra: dict[str, JsonScalar] = {}


@dataclass(frozen=True, slots=True)
class CheckpointFinding:
    """The finding at the place of a checkpoint, after its checksum was verified.

    ``digest`` is the SHA-256 in the file. For an older file it is the SHA-256 of the whole file.
    """

    path: Path
    condition: Condition
    header: CheckpointHeader | None = None
    row_count: int = 0
    digest: str = ""
    offset: int = 0
    detail: str = ""

    @property
    def lsn(self) -> int:
        """The last lsn that the checkpoint covers, 0 for a baseline file."""
        return 0 if self.header is None else self.header.lsn
