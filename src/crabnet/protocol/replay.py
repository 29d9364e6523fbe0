"""The window of seen messages. It is bounded by age and by number. The oldest are evicted first."""

from __future__ import annotations

from collections.abc import Iterable

from crabnet.bounded import BoundedTable


class SeenWindow:
    """Ids of verified messages with the second of their arrival.

    Feeds protect their own envelopes permanently against replays. This window protects messages outside feeds. It also
    lets the node drop duplicates before it checks their signature.
    """

    def __init__(self, *, ttl_s: int, capacity: int) -> None:
        self._ttl_s = ttl_s
        self._seen: BoundedTable[str, int] = BoundedTable(capacity)

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, message_id: str) -> bool:
        return self._seen.get(message_id) is not None

    def add(self, message_id: str, now_s: int) -> None:
        """Add an id. Evicts the oldest id if the window is full."""
        self._seen.put(message_id, now_s)

    def prune(self, now_s: int) -> int:
        """Remove the ids that are older than the TTL. Returns their number."""
        horizon = now_s - self._ttl_s
        pruned = 0
        while (oldest := self._seen.first()) is not None and oldest[1] < horizon:
            self._seen.pop_first()
            pruned += 1
        return pruned

    def entries(self) -> Iterable[tuple[str, int]]:
        """(id, second of arrival), oldest first, for the checkpoint."""
        return self._seen.items()

    def load(self, entries: Iterable[tuple[str, int]]) -> None:
        """Add the entries of a checkpoint, oldest first."""
        for message_id, seen_at in entries:
            self.add(message_id, seen_at)
