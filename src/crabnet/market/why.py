"""Why a task is where it is."""

from __future__ import annotations

from typing import NamedTuple


class HeardDecline(NamedTuple):
    """What a worker says about why it does not bid. ``reason`` may be a word of a later version."""

    author: str
    reason: str
    price: int | None
    at_ms: int

    def says(self, other: HeardDecline) -> bool:
        """True if the other one says the same."""
        return (self.reason, self.price) == (other.reason, other.price)
