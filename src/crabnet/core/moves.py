"""A step that the node takes by itself."""

from __future__ import annotations

from typing import NamedTuple

from crabnet.core.commands import Operation
from crabnet.core.effects import Notice
from crabnet.core.mending import Part


class Move(NamedTuple):
    """An operation for the node to do by itself, the part that wants it, and the notice to emit once it is done.

    Without an operation there is only something to tell.
    """

    wish: Operation | None
    by: Part
    notice: Notice | None = None

    @property
    def seed_id(self) -> str:
        """The seed that it is about; "" for a new one."""
        return getattr(self.wish, "seed_id", "")
