"""An observer to which nothing matters, for those to which few things do."""

from __future__ import annotations

from crabnet.core.commands import Received
from crabnet.core.effects import Effects, FeedPlace, Send
from tests.sim.world import SimNode


class Idle:
    """See ``node.Observer``."""

    def stepped(self, node: SimNode, effects: Effects) -> None:
        """Nothing to note."""

    def received(self, node: SimNode, given: Received, effects: Effects) -> None:
        """Nothing to note."""

    def durable(self, node: SimNode, effects: Effects) -> None:
        """Nothing to note."""

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None:
        """Nothing to note."""

    def sent(self, node: SimNode, send: Send) -> None:
        """Nothing to note."""

    def started(self, node: SimNode) -> None:
        """Nothing to note."""
