"""Compares version vectors with neighbours: from the digest of all heads down to the few buckets that differ (ADR 18).

A node whose digest differs from a neighbour's asks it for the level below, level by level, and gets digests or heads.
The neighbour does the same independently, so each side learns what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.sync.reach import Reach
from crabnet.protocol.digests import DIGITS, DigestTree
from crabnet.protocol.sync import Bucket


class _Descent(Struct):
    """A comparison with one neighbour.

    ``waiting`` holds (prefix, the neighbour's digest) still to request. ``asked`` says when each request is overdue.
    """

    waiting: list[tuple[str, str]]
    asked: dict[str, int]
    until_ms: int
    retries: int = 0


class _Compared(Struct):
    ours: str
    theirs: str
    until_ms: int


def _nobody(_source: str) -> bool:
    return False


class Reconciler:
    """Decides which buckets to request from which neighbours. Bounded in neighbours, in buckets, and in time."""

    def __init__(self, tree: DigestTree) -> None:
        self._tree = tree
        self._descents: dict[str, _Descent] = {}
        self._compared: BoundedTable[str, _Compared] = BoundedTable(limits.PEERS_MAX)
        self._queue: BoundedTable[str, str] = BoundedTable(limits.PEERS_MAX)
        """Sources that wait for their turn, in order of arrival, with their latest digest."""
        self.hungry = False
        self.reach = Reach()

    def __len__(self) -> int:
        return len(self._descents)

    def told_root(self, source: str, theirs: str, now_ms: int) -> bool:
        """Handle a neighbour's digest of all heads. True if it holds exactly what this node holds.

        While the maximum number of comparisons is under way, the neighbour waits in a queue. A neighbour that begins
        another comparison goes to its end.
        """
        ours = self._tree.root()
        if theirs == ours:
            self._queue.pop(source)
            self.reach.level(source)
            return True
        known = self._compared.get(source)
        again = known is not None and (known.ours, known.theirs) == (ours, theirs) and now_ms < known.until_ms
        if not theirs or again or source in self._descents:
            return False
        self._queue.offer(source, theirs)
        self._begin(now_ms)
        return False

    def _begin(self, now_ms: int) -> None:
        while len(self._descents) < limits.SYNC_DESCENTS_MAX and (waiting := self._queue.pop_first()) is not None:
            source, theirs = waiting
            compared = _Compared(self._tree.root(), theirs, now_ms + limits.SYNC_COMPARED_TTL_MS)
            self._compared.put(source, compared)
            self._descents[source] = _Descent([("", theirs)], {}, now_ms + limits.SYNC_DESCENT_MS_MAX)
            self.hungry = True

    def told_bucket(self, source: str, bucket: Bucket) -> None:
        """Handle a neighbour's answer about one bucket. An answer that was not requested is ignored."""
        descent = self._descents.get(source)
        if descent is None or descent.asked.pop(bucket.prefix, None) is None:
            return
        descent.retries = 0
        self.hungry = True
        if len(bucket.prefix) < limits.SYNC_BUCKET_DIGITS_MAX:
            for digit, digest in zip(DIGITS, bucket.digests, strict=False):
                child = bucket.prefix + digit
                if digest and len(descent.waiting) < limits.SYNC_BUCKETS_WAITING_MAX:
                    descent.waiting.append((child, digest))
        if not descent.waiting and not descent.asked:
            del self._descents[source]

    def requests(
        self, now_ms: int, may_ask: Callable[[str], bool], pauses: Callable[[str], bool] = _nobody
    ) -> list[tuple[str, list[str]]]:
        """The requests that are due, as (source, prefixes), to sources that ``may_ask`` allows.

        Comparisons with other sources are ended. A source for which ``pauses`` is true is skipped at the moment.
        """
        self._begin(now_ms)
        self.hungry = False
        found = []
        for source, descent in list(self._descents.items()):
            if now_ms >= descent.until_ms:
                self._give_up(source)
                continue
            if pauses(source):
                continue
            prefixes = [prefix for prefix, due_ms in descent.asked.items() if due_ms <= now_ms]
            if prefixes:
                descent.retries += 1
                for prefix in prefixes:
                    del descent.asked[prefix]
            if descent.retries > limits.SYNC_DESCENT_RETRIES_MAX:
                self._give_up(source)
                continue
            while descent.waiting and len(prefixes) + len(descent.asked) < limits.SYNC_BUCKETS_PER_MESSAGE_MAX:
                prefix, theirs = descent.waiting.pop()
                if self._tree.digest(prefix) != theirs:
                    prefixes.append(prefix)
            if prefixes and may_ask(source):
                wait_ms = limits.SYNC_REQUEST_RETRY_MS << descent.retries
                descent.asked.update(dict.fromkeys(prefixes, now_ms + wait_ms))
                found.append((source, prefixes))
            elif prefixes:
                self._give_up(source)
            elif not descent.asked:
                del self._descents[source]
        return found

    def _give_up(self, source: str) -> None:
        """End an incomplete comparison. The next digest of this neighbour begins another one."""
        del self._descents[source]
        self._compared.pop(source)
