"""The clock of this process."""

from __future__ import annotations

import trio


def steady_ms() -> int:
    """Milliseconds of trio's clock, which never goes back."""
    return int(trio.current_time() * 1000)
