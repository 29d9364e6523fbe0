"""Relay: the node passes a live envelope on, unchanged, to a few neighbours that may not get it otherwise (ADR 19).

Each envelope is passed on at most once, when it enters its feed. If a neighbour gets an author's envelopes by another
path, the node stops relaying that author to it: a neighbour answers an unneeded copy with ``RelayPrune``. So about one
path to every node remains (after "Epidemic Broadcast Trees", Leitão et al. 2007). Sync brings what a broken path loses.
A node that requests an author's envelopes from a neighbour gets them relayed by it again.

All libp2p peers together are one neighbour, ``GOSSIP``. Between a network of datagrams and libp2p, a node that is in
both so passes each envelope on once, unless another such node was quicker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.protocol.sync import RelayPrune
from crabnet.source import GOSSIP


class _Link(NamedTuple):
    """A neighbour's address and an author."""

    address: str
    author: str


class _Open(NamedTuple):
    """The neighbours to which an author is relayed, and until when (ms) this list is valid."""

    addresses: list[str]
    until_ms: int


class Relay:
    """Decides to which neighbours envelopes are relayed. ``entropy`` returns random integers up to 2^53-1."""

    def __init__(self, fanout: int, entropy: Callable[[], int]) -> None:
        self._fanout = fanout
        self._entropy = entropy
        self._served: BoundedTable[_Link, int] = BoundedTable(limits.RELAY_LINKS_MAX)
        """Links that need no relay, and until when (ms)."""
        self._providers: BoundedTable[str, tuple[str, int]] = BoundedTable(limits.RELAY_PROVIDERS_MAX)
        """author -> the address that brought its last envelope first, and when (ms)."""
        self._excess: BoundedTable[_Link, None] = BoundedTable(limits.RELAY_LINKS_MAX)
        self._told: BoundedTable[_Link, int] = BoundedTable(limits.RELAY_LINKS_MAX)
        self._neighbours: list[tuple[str, str]] = []
        self._open: BoundedTable[str, _Open] = BoundedTable(limits.RELAY_PROVIDERS_MAX)
        self._tell_at_ms = 0
        self.relayed = 0

    def surrounded_by(self, neighbours: list[tuple[str, str]]) -> None:
        """Set the present neighbours: (address, node id or "" while it is not known)."""
        if neighbours != self._neighbours:
            self._neighbours = neighbours
            self._open.clear()

    def provider(self, author: str) -> str:
        """The address that brought an author's last live envelope first, "" if it is not known."""
        known = self._providers.get(author)
        return "" if known is None else known[0]

    def targets(self, author: str, source: str, now_ms: int) -> list[str]:
        """The neighbours, at most ``fanout``, to which an author's live envelope from ``source`` is passed on."""
        if not self._fanout:
            return []
        provider = self._providers.get(author)
        if provider is None or provider[0] != source or now_ms - provider[1] > limits.RELAY_REFRESH_MS:
            self._provided(author, source, now_ms)
        open_links = self._open.get(author)
        if open_links is None or now_ms >= open_links.until_ms:
            open_links = self._find_open(author, now_ms)
        left = [each for each in open_links.addresses if each not in (source, GOSSIP)]
        if len(left) <= self._fanout:
            chosen = left
        else:
            chosen = [left.pop(self._entropy() % len(left)) for _ in range(self._fanout)]
        if GOSSIP in open_links.addresses and source != GOSSIP:
            chosen.append(GOSSIP)
        self.relayed += len(chosen)
        return chosen

    def _provided(self, author: str, source: str, now_ms: int) -> None:
        self._providers.put(author, (source, now_ms))
        self._serve(_Link(source, author), now_ms)

    def _find_open(self, author: str, now_ms: int) -> _Open:
        """Find the neighbours to which an author is relayed. The list is kept, so most envelopes need no search."""
        found = [
            address
            for address, node_id in self._neighbours
            if node_id != author and not self._is_served(_Link(address, author), now_ms)
        ]
        made = _Open(found, now_ms + limits.RELAY_REFRESH_MS)
        self._open.put(author, made)
        return made

    def repeated(self, author: str, source: str, now_ms: int, *, own: bool = False) -> None:
        """Record an unrequested envelope from a neighbour that was held already. ``own``: the author itself sent it.

        The later path is the unneeded one, but never the path from the author, which sends in any case.
        """
        if not self._fanout:
            return
        link = _Link(source, author)
        self._serve(link, now_ms)
        if source == GOSSIP:
            return  # gossipsub has prunes of its own
        provider, at_ms = self._providers.get(author) or (source, 0)
        if provider == source or now_ms - at_ms > limits.RELAY_PROVIDER_MS:
            return
        if own:
            self._provided(author, source, now_ms)
            link = _Link(provider, author)
            if provider == GOSSIP:
                return
        if now_ms < (self._told.get(link) or 0):
            return
        self._excess.put(link, None)

    def pruned(self, prune: RelayPrune, source: str, now_ms: int) -> None:
        """Record that a neighbour gets the envelopes of these authors by another path."""
        for author in prune.authors:
            self._serve(_Link(source, author), now_ms)

    def asked(self, author: str, source: str) -> None:
        """Relay an author to a neighbour again, because the neighbour requested envelopes of it."""
        if self._served.pop(_Link(source, author)) is not None:
            self._open.pop(author)

    def prunes(self, now_ms: int, interval_ms: int) -> list[tuple[str, RelayPrune]]:
        """The messages, as (address, message), to neighbours whose relaying is not needed. At most once an interval."""
        if now_ms < self._tell_at_ms or not self._excess:
            return []
        self._tell_at_ms = now_ms + interval_ms
        by_address: dict[str, list[str]] = {}
        for link in self._excess:
            authors = by_address.setdefault(link.address, [])
            if len(authors) < limits.RELAY_PRUNES_PER_MESSAGE_MAX:
                authors.append(link.author)
                self._told.put(link, now_ms + limits.RELAY_PRUNE_AGAIN_MS)
        self._excess.clear()
        return [(address, RelayPrune(authors)) for address, authors in by_address.items()]

    def _serve(self, link: _Link, now_ms: int) -> None:
        if link not in self._served:
            self._open.pop(link.author)
        self._served.put(link, now_ms + limits.RELAY_SERVED_MS)

    def _is_served(self, link: _Link, now_ms: int) -> bool:
        until_ms = self._served.get(link)
        if until_ms is None or now_ms < until_ms:
            return until_ms is not None
        self._served.pop(link)
        return False
