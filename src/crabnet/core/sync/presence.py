"""Which peers are there: reports when one is found, and when one has been silent for too long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable


class Met(NamedTuple):
    """A peer that was found or lost. ``silent_ms``: milliseconds since its last message."""

    address: str
    node_id: str
    silent_ms: int


class _Peer(Struct):
    node_id: str
    heard_ms: int
    patience_ms: int
    lost: bool = False


class Presence:
    """The peers that this node has told its operator about. ``patience_ms`` is how long a peer may be silent.

    The patience with a peer doubles each time that it returns. So a peer that speaks seldom is not lost and found
    forever.
    """

    def __init__(self, patience_ms: int) -> None:
        self._patience_ms = patience_ms
        self._peers: BoundedTable[str, _Peer] = BoundedTable(2 * limits.PEERS_MAX)
        self._look_at_ms = 0

    def due(self, now_ms: int) -> bool:
        """True once in PRESENCE_LOOK_MS. Not at the first call, which only sets the time of the first look."""
        if not self._look_at_ms:
            self._look_at_ms = now_ms + limits.PRESENCE_LOOK_MS
        if now_ms < self._look_at_ms:
            return False
        self._look_at_ms = now_ms + limits.PRESENCE_LOOK_MS
        return True

    def look(self, heard: Iterable[tuple[str, str, int]], now_ms: int) -> tuple[list[Met], list[Met]]:
        """The peers that were found and those that were lost since the last look.

        ``heard`` holds (address, node id, time of the last message) of all present peers.
        """
        found = [
            Met(address, node_id, max(0, now_ms - heard_ms))
            for address, node_id, heard_ms in heard
            if self._is_new(address, node_id, heard_ms)
        ]
        lost = []
        for address, peer in self._peers.items():
            silent_ms = now_ms - peer.heard_ms
            if not peer.lost and silent_ms >= peer.patience_ms:
                peer.lost = True
                lost.append(Met(address, peer.node_id, silent_ms))
        return found, lost

    def _is_new(self, address: str, node_id: str, heard_ms: int) -> bool:
        peer = self._peers.get(address)
        if peer is None:
            self._peers.put(address, _Peer(node_id, heard_ms, self._patience_ms))
            return True
        if heard_ms <= peer.heard_ms:
            return False
        self._peers.touch(address)
        replaced = peer.node_id != node_id
        peer.node_id, peer.heard_ms = node_id, heard_ms
        if peer.lost:
            peer.lost = False
            peer.patience_ms = min(2 * peer.patience_ms, limits.PEER_SILENCE_MS_MAX)
            return True
        return replaced

    def lose(self, address: str) -> bool:
        """Record that a peer was forgotten. False if it was already lost."""
        peer = self._peers.get(address)
        if peer is None:
            return True
        news, peer.lost = not peer.lost, True
        return news
