"""Which address is dialled when: configured ones always, the others while peers are wanted. Pure.

An address that fails is tried again after a pause that doubles, with a random part, so that it costs little; the
addresses that are known to work come first (roadmap task "Bootstrap and listener validation with fallback").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.transport.p2p_wire import Known, Learnt


class Entry(Struct):
    """What is known of one address. ``peer`` is "" while it is not known. Times are steady, but ``succeeded_s``."""

    address: str
    peer: str
    learnt: Learnt
    succeeded_s: int = 0
    failures: int = 0
    try_ms: int = 0
    is_trying: bool = False

    @property
    def is_set_aside(self) -> bool:
        """True for an address that failed so often that others are tried before it."""
        return self.failures >= limits.P2P_FAILURES_ASIDE


class DialBook:
    """Addresses of peers. Configured ones always have room; of the others at most ``capacity`` are kept."""

    def __init__(self, own: str, capacity: int, random: Callable[[], float]) -> None:
        """``own`` is this node's peer id. ``random`` returns numbers from 0 to 1."""
        self._own = own
        self._random = random
        self._configured: dict[str, Entry] = {}
        self._others: BoundedTable[str, Entry] = BoundedTable(capacity)

    def configure(self, address: str, peer: str) -> None:
        """Add an address of the operator."""
        self._configured[address] = Entry(address, peer, Learnt.CONFIGURED)

    def load(self, known: Iterable[Known]) -> None:
        """Add addresses of an earlier life."""
        for each in known:
            if each.peer != self._own and each.address not in self._configured:
                self._others.put(
                    each.address,
                    Entry(each.address, each.peer, Learnt.REMEMBERED, each.succeeded_s, each.failures),
                )

    def learn(self, address: str, peer: str, learnt: Learnt, now_ms: int) -> None:
        """Add an address that somebody has told. One that is known keeps what is known of it."""
        if peer == self._own or address in self._configured or address in self._others:
            return
        of_peer = [each for each in self._others.values() if each.peer == peer]
        if len(of_peer) >= limits.P2P_ADDRESSES_PER_PEER_MAX:
            worst = max(of_peer, key=lambda entry: (entry.failures, -entry.succeeded_s))
            self._others.pop(worst.address)
        self._others.put(address, Entry(address, peer, learnt, try_ms=now_ms))

    def entry(self, address: str) -> Entry | None:
        """What is known of an address."""
        return self._configured.get(address) or self._others.get(address)

    def entries(self) -> list[Entry]:
        """All addresses, the configured ones first."""
        return [*self._configured.values(), *self._others.values()]

    def peers(self) -> set[str]:
        """The ids of all peers of which an address is known."""
        return {each.peer for each in self.entries() if each.peer}

    def succeeded(self, address: str, peer: str, now_ms: int, now_s: int) -> None:
        """Record a connection to an address, and who is there."""
        entry = self.entry(address)
        if entry is None:
            return
        entry.peer, entry.succeeded_s, entry.failures, entry.is_trying = peer, now_s, 0, False
        entry.try_ms = now_ms + limits.P2P_REDIAL_MS
        if address in self._others:
            self._others.touch(address)

    def failed(self, address: str, now_ms: int, *, for_good: bool = False) -> Entry | None:
        """Record a failed try. Returns the entry if the address is set aside from now on.

        ``for_good``: what was found there makes another try pointless. A configured address is still kept.
        """
        entry = self.entry(address)
        if entry is None:
            return None
        entry.is_trying = False
        entry.failures += 1
        configured = address in self._configured
        if not configured and (for_good or entry.failures >= limits.P2P_FAILURES_MAX):
            self._others.pop(address)
            return None
        longest_ms = limits.P2P_REDIAL_CONFIGURED_MS_MAX if configured else limits.P2P_REDIAL_MS_MAX
        pause_ms = longest_ms if for_good else min(limits.P2P_REDIAL_MS << min(entry.failures - 1, 20), longest_ms)
        entry.try_ms = now_ms + round(pause_ms * (1 + self._random()) / 2)
        return entry if entry.failures == limits.P2P_FAILURES_ASIDE else None

    def lost(self, peer: str, now_ms: int) -> None:
        """Record that a peer is not connected any more: its addresses that worked are tried at once."""
        for entry in self.entries():
            if entry.peer == peer and not entry.failures:
                entry.try_ms = now_ms

    def due(self, now_ms: int, connected: set[str], wanted: int) -> list[Entry]:
        """The addresses to dial now. They count as being tried until ``succeeded`` or ``failed``.

        ``connected`` are the ids of the peers that need no dialling, ``wanted`` is how many more peers the node would
        like to have.
        """
        trying = {each.peer for each in self.entries() if each.is_trying and each.peer}
        chosen: list[Entry] = []

        def choose(entries: Iterable[Entry], most: int) -> None:
            for entry in entries:
                if len(chosen) >= most:
                    return
                busy = entry.peer and (entry.peer in connected or entry.peer in trying)
                if entry.is_trying or busy or now_ms < entry.try_ms:
                    continue
                entry.is_trying = True
                if entry.peer:
                    trying.add(entry.peer)
                chosen.append(entry)

        choose(self._configured.values(), len(self._configured))
        others = sorted(self._others.values(), key=lambda entry: (entry.failures, -entry.succeeded_s))
        choose(others, len(chosen) + max(0, wanted - sum(each.is_trying for each in self._others.values())))
        return chosen

    def known(self) -> list[Known]:
        """What to remember over restarts: addresses that have worked once, the newest last."""
        kept = [each for each in self.entries() if each.succeeded_s and each.peer]
        kept.sort(key=lambda entry: entry.succeeded_s)
        return [
            Known(each.address, each.peer, each.learnt, each.succeeded_s, each.failures)
            for each in kept[-limits.PEERS_REMEMBERED_MAX :]
        ]
