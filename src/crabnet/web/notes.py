"""Lines for the operator on stderr."""

from __future__ import annotations

import sys
from contextlib import suppress


def note(line: str) -> None:
    """Write a line. A closed stream does not end the process."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
