"""How far neighbours are behind this node, according to what they said and asked for last. For gauges only."""

from __future__ import annotations

from collections.abc import Callable

from crabnet import limits
from crabnet.bounded import BoundedTable


class _Neighbour:
    """The feeds in which a neighbour is behind, and up to where it holds them."""

    def __init__(self) -> None:
        self.feeds: BoundedTable[str, int] = BoundedTable(limits.REACH_FEEDS_MAX)


class Reach:
    """The feeds of which a neighbour held less than this node when it last spoke of them.

    A neighbour that asks for entries from a place on is taken to hold those before it. Of a neighbour that is behind in
    very many feeds only the latest are kept, so the numbers are then too low.
    """

    def __init__(self) -> None:
        self._behind: BoundedTable[str, _Neighbour] = BoundedTable(limits.REACH_NEIGHBOURS_MAX)

    def told(self, source: str, author: str, seq: int, held: int) -> None:
        """Record that ``source`` holds the author's feed up to ``seq``, and this node up to ``held``."""
        neighbour = self._behind.get(source)
        if seq >= held:
            if neighbour is not None:
                neighbour.feeds.pop(author)
            return
        if neighbour is None:
            neighbour = _Neighbour()
            self._behind.put(source, neighbour)
        neighbour.feeds.put(author, seq)

    def level(self, source: str) -> None:
        """Record that ``source`` holds exactly what this node holds."""
        self._behind.put(source, _Neighbour())

    def behind(self, source: str, head_of: Callable[[str], int]) -> tuple[int, int] | None:
        """In how many feeds, and by how many envelopes, ``source`` is behind. None if it has said nothing about that.

        ``head_of`` returns the seq of the head that this node holds of a feed.
        """
        neighbour = self._behind.get(source)
        if neighbour is None:
            return None
        lacks = [lack for author, seq in neighbour.feeds.items() if (lack := head_of(author) - seq) > 0]
        return len(lacks), sum(lacks)
