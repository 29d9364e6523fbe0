"""What was refused, counted for each peer and reason, and told to the node now and then: no flood gets through."""

from __future__ import annotations

import time
from collections.abc import Callable

from libp2p.peer.id import ID
from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Verdict
from crabnet.plain import plain
from crabnet.transport.p2p_wire import Misused, Noted, Path, Report


class _Count(Struct):
    detail: str
    count: int = 0
    size_bytes: int = 0
    hostile: bool = False


class Refusals:
    """Refused messages since the last report."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._counts: BoundedTable[tuple[str, Path, str], _Count] = BoundedTable(limits.P2P_REFUSALS_MAX)
        self._topics: BoundedTable[tuple[str, str], None] = BoundedTable(limits.P2P_REFUSALS_MAX)
        self._topic_reports = TokenBucket(limits.P2P_TOPICS_REPORTED_PER_S, limits.P2P_TOPICS_REPORTED_BURST)

    def note(self, peer: ID, path: Path, checked: Checked, size_bytes: int) -> None:
        """Count one refused message."""
        reason = checked.reason or Reason.MALFORMED
        if reason is Reason.DUPLICATE:
            return
        self._add(str(peer), path, reason, checked.detail, size_bytes, hostile=checked.verdict is Verdict.REJECT)

    def stream_failed(self, peer: ID, error: Exception) -> None:
        """Count a stream whose protocol was broken."""
        self.connection(peer, Reason.MALFORMED, f"a stream ended by {type(error).__name__}", hostile=True)

    def connection(self, peer: ID, reason: Reason, detail: str, hostile: bool) -> None:
        """Count something wrong with the connection of a peer."""
        self._add(str(peer), Path.CONNECTION, reason, detail, 0, hostile=hostile)

    def _add(self, peer: str, path: Path, reason: Reason, detail: str, size_bytes: int, *, hostile: bool) -> None:
        key = (peer, path, reason.value)
        found = self._counts.get(key) or _Count(plain(detail)[: limits.EVENT_DETAIL_CHARS])
        found.count += 1
        found.size_bytes += size_bytes
        found.hostile |= hostile
        self._counts.put(key, found)

    def foreign_topic(self, peer: ID, topic: str) -> None:
        """Report a subscription to a topic that this node does not know, once for each peer and topic, and not many."""
        key = (str(peer), plain(topic[: limits.TOPIC_CHARS_MAX]))
        if key in self._topics or not topic.startswith("crabnet"):
            return
        if self._topic_reports.take(int(time.monotonic() * 1000)):
            self._tell(Noted("topic_unknown", {"peer": key[0], "topic": key[1]}))
        self._topics.put(key, None)

    def tell(self) -> None:
        """Tell the node, and begin anew."""
        for (peer, path, reason), found in self._counts.items():
            self._tell(Misused(peer, path, reason, found.detail, found.count, found.size_bytes, found.hostile))
        self._counts.clear()
