"""The tables of a Kademlia server: which servers exist, and who provides which key. Pure, and bounded.

The rules are those of the libp2p specification "Kademlia DHT", with the bounds of ``crabnet.limits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable

_MULTIHASH_SHA256: Final = b"\x12\x20"


def rendezvous_key(namespace: str, network_key: bytes) -> bytes:
    """The key under which the nodes of a namespace provide themselves: a multihash, as other implementations demand.

    With the key of a private network nobody else can compute it.
    """
    digest = hashlib.sha256(b"crabnet rendezvous 1\0" + network_key + b"\0" + namespace.encode()).digest()
    return _MULTIHASH_SHA256 + digest


def place(key: bytes) -> int:
    """Where a key, or the bytes of a peer id, is in the space of keys."""
    return int.from_bytes(hashlib.sha256(key).digest())


class Server(Struct):
    """A peer that answered as a server, and the addresses to tell others."""

    peer: bytes
    addresses: list[str]
    asked_ms: int


class Servers:
    """Servers that this node has asked, at most ``KAD_BUCKET`` for each distance, and so some hundred in all."""

    def __init__(self, own: bytes) -> None:
        self._own = place(own)
        self._buckets: dict[int, BoundedTable[bytes, Server]] = {}

    def answered(self, server: Server) -> None:
        """Keep a server that has just answered. If its bucket is full, the one that answered longest ago goes."""
        bucket = (self._own ^ place(server.peer)).bit_length()
        if bucket:
            self._buckets.setdefault(bucket, BoundedTable(limits.KAD_BUCKET)).put(server.peer, server)

    def failed(self, peer: bytes) -> None:
        """Forget a server that does not answer."""
        for bucket in self._buckets.values():
            bucket.pop(peer)

    def closest(self, key: bytes, most: int) -> list[Server]:
        """The known servers that are closest to a key, the closest first."""
        target = place(key)
        found = [server for bucket in self._buckets.values() for server in bucket.values()]
        return sorted(found, key=lambda server: target ^ place(server.peer))[:most]

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))


class Provider(Struct):
    """A peer that provides a key."""

    peer: bytes
    addresses: list[str]
    until_ms: int


class _Key:
    """The providers of one key."""

    def __init__(self) -> None:
        self.providers: BoundedTable[bytes, Provider] = BoundedTable(limits.KAD_PROVIDERS_PER_KEY_MAX)


class Providers:
    """Who provides which key. One peer may provide a few keys; a key has room for some providers."""

    def __init__(self, random: Callable[[list[Provider], int], list[Provider]]) -> None:
        """``random`` chooses so many of a list."""
        self._random = random
        self._keys: BoundedTable[bytes, _Key] = BoundedTable(limits.KAD_KEYS_MAX)
        self._of_peer: BoundedTable[bytes, list[bytes]] = BoundedTable(limits.KAD_KEYS_MAX)

    def add(self, key: bytes, peer: bytes, addresses: Iterable[str], now_ms: int) -> bool:
        """Keep a provider for ``KAD_PROVIDER_S``. False if the peer provides too many keys, or the key is none."""
        if not 0 < len(key) <= limits.KAD_KEY_BYTES_MAX:
            return False
        keys = [each for each in self._of_peer.get(peer) or [] if each in self._keys]
        if key not in keys:
            if len(keys) >= limits.KAD_KEYS_PER_PEER_MAX:
                return False
            keys.append(key)
        self._of_peer.put(peer, keys)
        found = self._keys.get(key) or _Key()
        found.providers.put(peer, Provider(peer, list(addresses), now_ms + limits.KAD_PROVIDER_S * 1000))
        self._keys.put(key, found)
        return True

    def of(self, key: bytes, now_ms: int) -> list[Provider]:
        """Some providers of a key, chosen at random."""
        found = self._keys.get(key)
        if found is None:
            return []
        known = list(found.providers.values())
        for each in known:
            if each.until_ms <= now_ms:
                found.providers.pop(each.peer)
        known = [each for each in known if each.until_ms > now_ms]
        return known if len(known) <= limits.KAD_TOLD_MAX else self._random(known, limits.KAD_TOLD_MAX)

    def __len__(self) -> int:
        return sum(len(found.providers) for found in self._keys.values())
