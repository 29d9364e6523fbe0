"""Peers to remember over restarts: addresses that have proved themselves, and how often tries have failed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from crabnet import limits
from crabnet.source import group_of


class RememberedPeer(Struct, frozen=True):
    """An address that proved itself. ``last_seen_s`` is wall time. ``failures`` counts failed tries since then."""

    address: str
    node_id: str
    last_seen_s: int
    failures: int = 0


class _Entry(Struct):
    node_id: str
    last_seen_s: int
    failures: int
    try_ms: int
    tried: bool = False


class AddressBook:
    """At most ``capacity`` addresses. One host or IPv6 /64 network may have a quarter of them, but at least 8."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[str, _Entry] = {}
        self._next_ms = 0
        self.changed = False

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, address: str) -> bool:
        """True if the address is remembered."""
        return address in self._entries

    def load(self, peers: Iterable[RememberedPeer], now_ms: int) -> None:
        """Load remembered peers. All of them are tried soon."""
        newest = sorted(peers, key=lambda peer: peer.last_seen_s, reverse=True)
        for peer in newest[: self._capacity]:
            if peer.address not in self._entries:
                self._entries[peer.address] = _Entry(peer.node_id, peer.last_seen_s, peer.failures, now_ms)

    def peers(self, heard_ms: Callable[[str], int | None]) -> list[RememberedPeer]:
        """The peers to remember. ``heard_ms`` says when a proved address was heard last, None for others."""
        for address, entry in self._entries.items():
            seen_s = (heard_ms(address) or 0) // 1000
            if seen_s >= entry.last_seen_s + limits.PEERS_SEEN_STEP_S:
                entry.last_seen_s = seen_s
                self.changed = True
        return [
            RememberedPeer(address, entry.node_id, entry.last_seen_s, entry.failures)
            for address, entry in self._entries.items()
        ]

    def confirmed(self, address: str, node_id: str, now_ms: int) -> None:
        """Record that the address has just proved itself."""
        if not self._capacity:
            return
        known = self._entries.pop(address, None)
        if known is None:
            self._make_room(address)
        self._entries[address] = _Entry(node_id, now_ms // 1000, 0, now_ms + limits.PEER_RETRY_MS)
        self.changed = True

    def _make_room(self, address: str) -> None:
        group = group_of(address)
        of_group = [each for each in self._entries if group_of(each) == group]
        if len(of_group) >= max(limits.PEERS_PER_GROUP_MIN, self._capacity // 4):
            del self._entries[min(of_group, key=self._worth)]
        elif len(self._entries) >= self._capacity:
            del self._entries[min(self._entries, key=self._worth)]

    def _worth(self, address: str) -> tuple[int, int]:
        entry = self._entries[address]
        return -entry.failures, entry.last_seen_s

    def failures(self, address: str) -> int:
        """The number of failed tries since the address was last confirmed."""
        entry = self._entries.get(address)
        return 0 if entry is None else entry.failures

    def due(self, now_ms: int, is_confirmed: Callable[[str], bool]) -> list[str]:
        """The addresses to try with a hello. Addresses that have failed too often are forgotten."""
        found: list[str] = []
        if now_ms < self._next_ms:
            return found
        self._next_ms = now_ms + limits.PEER_RETRY_MS // 2
        for address, entry in list(self._entries.items()):
            if now_ms < entry.try_ms:
                continue
            if is_confirmed(address):
                entry.tried, entry.failures = False, 0
                entry.try_ms = now_ms + limits.PEER_RETRY_MS
                continue
            if len(found) >= limits.PEERS_TRIED_AT_ONCE:
                self._next_ms = now_ms
                break
            if entry.tried:
                entry.failures += 1
                self.changed = True
            if entry.failures >= limits.PEER_FAILURES_MAX:
                del self._entries[address]
                continue
            entry.tried = True
            entry.try_ms = now_ms + min(limits.PEER_RETRY_MS << entry.failures, limits.PEER_RETRY_MS_MAX)
            found.append(address)
        return found
