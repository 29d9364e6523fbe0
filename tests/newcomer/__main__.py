"""Write the screens anew: ``python -m tests.newcomer``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.newcomer.script import write_all

with tempfile.TemporaryDirectory(prefix="crabnet-newcomer-") as directory:
    write_all(Path(directory))
