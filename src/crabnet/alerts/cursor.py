"""The file ``alerts.cursor`` of a data dir: how far each target is. It contains digests of targets, not targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.alerts.desk import Cursors
from crabnet.errors import DataDirDamagedError
from crabnet.storage.files import Files, guarded, read_whole, replace_file

CURSOR_FILE: Final = "alerts.cursor"
_FORMAT: Final = "crabnet-alerts-1"
_EventId = Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)]


class _Stored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    targets: dict[str, dict[str, _EventId]]


class CursorFile:
    """Reads and replaces the file. Methods block."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self.path = data_dir / CURSOR_FILE

    def read(self) -> Cursors:
        """The cursors; none if there is no file. Raises DataDirDamagedError and StorageFailedError."""
        with guarded("read the cursor of the alerts", self.path):
            content = read_whole(self._files, self.path, limits.ALERT_CURSOR_BYTES_MAX)
        if content is None:
            return {}
        try:
            stored = msgspec.json.decode(content, type=_Stored)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            stored = None
        if stored is None or stored.format != _FORMAT:
            raise DataDirDamagedError(f"{self.path} is not a cursor of alerts")
        return stored.targets

    def write(self, cursors: Cursors) -> None:
        """Replace the file durably. Raises StorageFailedError; then the old file or the new one is there, whole."""
        content = msgspec.json.encode(_Stored(format=_FORMAT, targets=cursors)) + b"\n"
        with guarded("write the cursor of the alerts", self.path):
            replace_file(self._files, self.path, content)
