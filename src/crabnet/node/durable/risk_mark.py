"""Remembers over restarts that the end of the node's own feed is not confirmed (docs/adr/0006-feed-risk.md).

The repair that made it doubtful leaves a data dir that looks clean at the next start, hence a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from crabnet.storage.files import Files, guarded, replace_file

RISK_FILE: Final = "feed-risk"
_TEXT: Final = b"The end of this node's own feed is to be confirmed by a peer before the node writes to it.\n"


class RiskMark:
    """The file ``feed-risk`` in a data dir, durable before ``keep`` returns. May raise StorageFailedError."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self._path = data_dir / RISK_FILE
        with guarded("look for the mark", self._path):
            self.present = files.size(self._path) is not None

    def keep(self, at_risk: bool) -> None:
        """Put the mark there, or take it away."""
        if at_risk == self.present:
            return
        with guarded("change the mark", self._path):
            if at_risk:
                replace_file(self._files, self._path, _TEXT)
            else:
                self._files.unlink(self._path)
                self._files.fsync_dir(self._path.parent)
        self.present = at_risk
