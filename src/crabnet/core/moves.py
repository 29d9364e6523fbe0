"""A step that the node takes by itself."""

from __future__ import annotations

from typing import NamedTuple

from crabnet.core.commands import Operation, Publish
from crabnet.core.effects import CheckOrder, Notice
from crabnet.core.mending import Part


class Move(NamedTuple):
    """An operation for the node to do by itself, the part that wants it, and the notice to emit once it is done.

    Without an operation there is only something to tell, or a ``check`` to run.
    """

    wish: Operation | None
    by: Part
    notice: Notice | None = None
    check: CheckOrder | None = None

    @property
    def seed_id(self) -> str:
        """The seed that it is about. For a new one that is the seed that it follows, or ""."""
        if isinstance(self.wish, Publish):
            return self.wish.follows or ""
        return "" if self.wish is None else self.wish.seed_id
