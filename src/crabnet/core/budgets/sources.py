"""Step 1 of verification: rates, penalties and blocks by source, in bounded memory (docs/PROTOCOL.md, section 9).

An address that has proved itself, or is configured, has a row of its own. It is never blocked completely, because junk
from it may be forged. Misuse slows it down to a small rate. All other sources are strangers. They are counted by IP
address and share one budget. After misuse their datagrams are dropped unread for a while, for longer each time. A host
that has sent acceptable messages keeps its row even if many strangers send.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import Reason
from crabnet.source import host_of, is_p2p


class SourceRates(Struct, frozen=True, kw_only=True):
    """Rates of datagrams, and the lengths of blocks after misuse. 0 turns a rate off."""

    threshold_per_s: int = 0
    """Datagrams in a second from a stranger's IP address after which it is blocked."""
    rejects_per_s: int = 0
    """Rejected messages a second after which a source is blocked or, if it has proved itself, slowed down."""
    block_ms: int = 3_000
    block_ms_max: int = 300_000
    """Each block is twice as long as the one before, up to this."""
    strangers_per_s: int = 0
    """Datagrams of all strangers together."""
    peer_per_s: int = 0
    """Datagrams of one source that has proved itself. Further ones are dropped, without a block."""
    total_per_s: int = 0
    """Datagrams of all sources. Each proven source has a small share beside that."""


class Block(NamedTuple):
    """A source that is blocked or slowed down from now on."""

    source: str
    reason: Reason
    duration_ms: int


class _Row:
    """The state of one source."""

    __slots__ = ("blocked_until_ms", "datagrams", "forgiven_ms", "good", "score", "scored_ms", "strikes", "window_s")

    def __init__(self) -> None:
        self.window_s = 0
        self.datagrams = 0
        self.score = 0.0
        self.scored_ms = 0
        self.good = 0
        self.strikes = 0
        self.forgiven_ms = 0
        self.blocked_until_ms = 0


class _PeerRow(_Row):
    """The state of a source that has proved itself, with its own rates, also for the time of a block."""

    __slots__ = ("rate", "share", "trickle")

    def __init__(self, rates: SourceRates) -> None:
        super().__init__()
        self.rate = TokenBucket(rates.peer_per_s)
        self.share = TokenBucket(limits.SOURCE_SHARE_PER_S)
        self.trickle = TokenBucket(limits.SOURCE_TRICKLE_PER_S)


ELSEWHERE: Final = "others"
"""Stands for all sources that are not reported by name."""


class SourceGate:
    """Counts, scores and blocks sources. A source is ``host:port``. The caller knows whether it is ``proven``."""

    def __init__(self, rates: SourceRates) -> None:
        self._rates = rates
        self._strangers: BoundedTable[str, _Row] = BoundedTable(limits.SOURCES_MAX)
        self._good: BoundedTable[str, _Row] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self._peers: BoundedTable[str, _PeerRow] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self._of_strangers = TokenBucket(rates.strangers_per_s)
        self._total = TokenBucket(rates.total_per_s)
        self._dropped: Counter[tuple[str, Reason]] = Counter()
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return len(self._strangers) + len(self._good) + len(self._peers)

    @property
    def blocked(self) -> bool:
        """True if ``take_blocks`` would return anything."""
        return bool(self._blocks)

    def check(
        self, source: str, now_ms: int, *, proven: bool = False, size_bytes: int = 0, crowded: bool = False
    ) -> Reason | None:
        """Call this once for each datagram. Returns None if the node may read it, else why it is dropped.

        A large datagram counts as several of the usual size, because reading it costs as much. While the socket is
        ``crowded``, more arrives than is read. Strangers may then send less, or proven peers would wait behind them.
        """
        weight = 1 + size_bytes // (limits.DATAGRAM_BYTES_MAX + 1)
        host = host_of(source)
        if is_p2p(source):
            refused = self._check_p2p(source, now_ms, weight)
        elif proven:
            refused = self._check_peer(source, now_ms, weight)
        else:
            price = weight * limits.SOURCE_CROWDED_WEIGHT if crowded else weight
            refused = self._check_stranger(host, now_ms, weight, price)
        if refused is not None:
            name = (source if proven else host, refused)
            if name not in self._dropped and len(self._dropped) >= limits.SOURCES_REPORTED_MAX:
                name = (ELSEWHERE, refused)
            self._dropped[name] += 1
        return refused

    def _check_p2p(self, source: str, now_ms: int, weight: int) -> Reason | None:
        """A libp2p peer cannot be forged. Its process holds it to its rate, and a stream waits instead of losing."""
        if now_ms < self._p2p_row(source).blocked_until_ms:
            return Reason.SOURCE_BLOCKED
        self._total.take(now_ms, weight)
        return None

    def _p2p_row(self, source: str) -> _Row:
        """The row of a libp2p peer. One that sends nothing but garbage is known by what its process says of it."""
        row = self._good.get(source) or self._strangers.get(source)
        if row is None:
            row = _Row()
            self._strangers.put(source, row)
        return row

    def overran(self, source: str, now_ms: int, count: int) -> None:
        """Count messages of a libp2p peer that were over its rate. Many in a row are misuse."""
        row = self._p2p_row(source)
        if self._rates.threshold_per_s and count > self._rates.threshold_per_s and now_ms >= row.blocked_until_ms:
            self._block(row, source, Reason.RATE_LIMITED, now_ms, self._rates.block_ms_max)

    def _check_stranger(self, host: str, now_ms: int, weight: int, price: int) -> Reason | None:
        rates = self._rates
        good = self._good.get(host)
        row = good or self._strangers.get(host)
        if row is None:
            row = _Row()
            self._strangers.put(host, row)
        elif now_ms < row.blocked_until_ms:
            return Reason.SOURCE_BLOCKED
        else:
            (self._strangers if good is None else self._good).touch(host)
        if rates.threshold_per_s:
            window_s = now_ms // 1000
            row.datagrams = row.datagrams + 1 if row.window_s == window_s else 1
            row.window_s = window_s
            if row.datagrams > rates.threshold_per_s:
                self._block(row, host, Reason.RATE_LIMITED, now_ms, rates.block_ms_max)
                return Reason.RATE_LIMITED
        if good is None and not self._of_strangers.take(now_ms, price):
            return Reason.RATE_LIMITED
        return None if self._total.take(now_ms, weight) else Reason.RATE_LIMITED

    def _check_peer(self, source: str, now_ms: int, weight: int) -> Reason | None:
        row = self._peer(source)
        if now_ms < row.blocked_until_ms and not row.trickle.take(now_ms):
            return Reason.SOURCE_BLOCKED
        if not row.rate.take(now_ms, weight):
            return Reason.RATE_LIMITED
        if self._total.take(now_ms, weight) or row.share.take(now_ms, weight):
            return None
        return Reason.RATE_LIMITED

    def _peer(self, source: str) -> _PeerRow:
        row = self._peers.get(source)
        if row is None:
            row = _PeerRow(self._rates)
        self._peers.put(source, row)
        return row

    def reject(self, source: str, now_ms: int, *, proven: bool = False, count: int = 1) -> None:
        """Count hostile or broken messages of this source, of a kind that no honest node passes on."""
        if not self._rates.rejects_per_s:
            return
        if proven and not is_p2p(source):
            self._penalise(self._peer(source), source, now_ms, self._rates.block_ms * limits.SOURCE_SLOWED_FACTOR_MAX)
            return
        host = host_of(source)
        row = self._good.pop(host)
        if row is not None:  # misuse ends the privilege of a good history
            self._strangers.put(host, row)
        row = row or (self._p2p_row(host) if is_p2p(source) else self._strangers.get(host))
        if row is not None:
            self._penalise(row, host, now_ms, self._rates.block_ms_max, count)

    def _penalise(self, row: _Row, name: str, now_ms: int, block_ms_max: int, count: int = 1) -> None:
        allowed = self._rates.rejects_per_s
        row.score = max(0.0, row.score - max(0, now_ms - row.scored_ms) * allowed / 1000) + count
        row.scored_ms = now_ms
        row.good = 0
        if row.score > allowed and now_ms >= row.blocked_until_ms:
            row.score = 0
            self._block(row, name, Reason.MISUSE, now_ms, block_ms_max)

    def _block(self, row: _Row, name: str, reason: Reason, now_ms: int, block_ms_max: int) -> None:
        forgiven = max(0, now_ms - row.forgiven_ms) // limits.SOURCE_FORGIVE_MS
        row.strikes = max(0, row.strikes - forgiven)
        longest_ms = max(block_ms_max, self._rates.block_ms)
        duration_ms = min(self._rates.block_ms << min(row.strikes, 20), longest_ms)
        row.strikes = min(row.strikes + 1, 20)
        row.blocked_until_ms = row.forgiven_ms = now_ms + duration_ms
        if duration_ms and len(self._blocks) < limits.SOURCES_REPORTED_MAX:
            self._blocks.append(Block(name, reason, duration_ms))

    def praise(self, source: str, *, proven: bool = False) -> None:
        """Count an accepted message of this source. It makes up for misuse and earns a stranger a lasting row."""
        row: _Row | None
        proven = proven and not is_p2p(source)
        host = source if proven else host_of(source)
        row = self._peers.get(source) if proven else self._good.get(host) or self._strangers.get(host)
        if row is None or (not row.score and not row.strikes and (proven or host in self._good)):
            return
        row.good += 1
        if row.score:
            row.score = max(0.0, row.score - 1)
        if row.good % limits.SOURCE_GOOD_MIN:
            return
        row.strikes = max(0, row.strikes - 1)
        row.blocked_until_ms = 0
        if not proven and self._strangers.pop(host) is not None:
            self._good.put(host, row)

    def take_dropped(self) -> list[tuple[str, Reason, int]]:
        """(source, reason, datagrams) dropped unread since the last call."""
        dropped, self._dropped = self._dropped, Counter()
        return [(source, reason, count) for (source, reason), count in dropped.items()]

    def blocked_peers(self, now_ms: int) -> list[Block]:
        """The libp2p peers that are blocked at the moment, each with what is left of its time."""
        rows = (*self._strangers.items(), *self._good.items())
        return [
            Block(source, Reason.SOURCE_BLOCKED, row.blocked_until_ms - now_ms)
            for source, row in rows
            if is_p2p(source) and now_ms < row.blocked_until_ms
        ]

    def take_blocks(self) -> list[Block]:
        """The blocks that began since the last call."""
        blocks, self._blocks = self._blocks, []
        return blocks
