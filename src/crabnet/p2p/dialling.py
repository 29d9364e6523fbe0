"""Which address is dialled when: configured ones always, the others while peers are wanted. Pure.

An address that fails is tried again after a pause that doubles, with a random part, so that it costs little; the
addresses that are known to work come first (roadmap task "Bootstrap and listener validation with fallback").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_wire import Known, Learnt

_FAILURES_COUNTED_MAX: Final = 1_000


class Entry(Struct):
    """What is known of one address. Times are steady, but ``succeeded_s`` is wall time."""

    address: str
    expected: str
    """The id that the peer there must prove; "" if any will do."""
    peer: str
    """The peer that was there last, or is expected; "" while it is not known."""
    learnt: Learnt
    succeeded_s: int = 0
    failures: int = 0
    """Failed tries in a row. A connection that ended soon counts as one."""
    try_ms: int = 0
    is_trying: bool = False
    up_ms: int | None = None
    """Since when this node is connected by this address."""
    lost_ms: int | None = None
    """When a connection by this address that had lasted has ended."""

    @property
    def is_set_aside(self) -> bool:
        """True for an address that failed so often that others are tried before it."""
        return self.failures >= limits.P2P_FAILURES_ASIDE


class DialBook:
    """Addresses of peers, bounded so that no stranger can make this node forget an address that works.

    Configured addresses always have room. Those that have worked once have a table of their own, in which one host
    or IPv6 /64 network has a quarter of the room at most. Those that somebody has told have a table for each way of
    learning, until they work.
    """

    def __init__(self, own: str, capacity: int, random: Callable[[], float]) -> None:
        """``own`` is this node's peer id. ``random`` returns numbers from 0 to 1."""
        self._own = own
        self._random = random
        self._configured: dict[str, Entry] = {}
        self._proven: BoundedTable[str, Entry] = BoundedTable(capacity)
        self._of_group_max = max(limits.P2P_ADDRESSES_PER_PEER_MAX, capacity // 4)
        self._hoped: dict[Learnt, BoundedTable[str, Entry]] = {
            learnt: BoundedTable(limits.P2P_HOPED_MAX) for learnt in Learnt if learnt is not Learnt.CONFIGURED
        }

    # --- what is known ---------------------------------------------------------------------------------

    def configure(self, address: str, peer: str) -> None:
        """Add an address of the operator. ``peer`` is "" if any peer may be there."""
        self._configured[address] = Entry(address, peer, peer, Learnt.CONFIGURED)

    def load(self, known: Iterable[Known], now_s: int) -> None:
        """Add addresses of an earlier life, the newest last. Those that have not worked for long are left out."""
        for each in known:
            if each.peer == self._own or each.address in self._configured:
                continue
            if now_s - each.succeeded_s > limits.P2P_REMEMBERED_S and each.failures:
                continue
            learnt = Learnt.REMEMBERED if each.learnt is Learnt.CONFIGURED else each.learnt
            failures = min(each.failures, limits.P2P_FAILURES_ASIDE)  # the network may be another one now
            self._keep(Entry(each.address, each.peer, each.peer, learnt, each.succeeded_s, failures))

    def learn(self, address: str, peer: str, learnt: Learnt, now_ms: int) -> None:
        """Add an address that somebody has told. One that is known keeps what is known of it."""
        if not peer or peer == self._own or self.entry(address) is not None:
            return
        of_peer = [each for each in self._others() if each.peer == peer]
        if len(of_peer) >= limits.P2P_ADDRESSES_PER_PEER_MAX:
            hoped = [each for each in of_peer if not each.succeeded_s and not each.is_trying]
            if not hoped:
                return
            self._forget(max(hoped, key=lambda entry: entry.failures).address)
        self._hoped[learnt].put(address, Entry(address, peer, peer, learnt, try_ms=now_ms))

    def entry(self, address: str) -> Entry | None:
        """What is known of an address."""
        found = self._configured.get(address) or self._proven.get(address)
        return found or next((table.get(address) for table in self._hoped.values() if address in table), None)

    def entries(self) -> list[Entry]:
        """All addresses, the configured ones first."""
        return [*self._configured.values(), *self._others()]

    def knows(self, peer: str) -> bool:
        """True if an address of this peer is known."""
        return any(each.peer == peer for each in self.entries())

    def up(self) -> set[str]:
        """The peers that are connected by an address of this book, as far as it has been told."""
        return {each.peer for each in self.entries() if each.up_ms is not None}

    def _others(self) -> Iterator[Entry]:
        yield from self._proven.values()
        for table in self._hoped.values():
            yield from table.values()

    def _forget(self, address: str) -> None:
        self._proven.pop(address)
        for table in self._hoped.values():
            table.pop(address)

    def _keep(self, entry: Entry) -> None:
        """Put an address that works last among those that do."""
        self._forget(entry.address)
        group = _group(entry.address)
        of_group = [each.address for each in self._proven.values() if _group(each.address) == group]
        if len(of_group) >= self._of_group_max:
            self._proven.pop(of_group[0])
        self._proven.put(entry.address, entry)

    # --- what happened ---------------------------------------------------------------------------------

    def succeeded(self, address: str, peer: str, now_ms: int, now_s: int) -> None:
        """Record a connection to an address, and who is there. Its failures are forgotten once it has lasted."""
        entry = self.entry(address)
        if entry is None:
            return
        entry.peer, entry.succeeded_s, entry.is_trying = peer, max(now_s, 1), False
        entry.up_ms = now_ms
        entry.try_ms = now_ms + limits.P2P_REDIAL_MS
        if address not in self._configured:
            self._keep(entry)

    def failed(self, address: str, now_ms: int, *, for_good: bool = False) -> Entry | None:
        """Record a failed try. Returns the entry if the address is set aside from now on.

        ``for_good``: what was found there makes another try pointless. A configured address is still kept.
        """
        entry = self.entry(address)
        if entry is None:
            return None
        entry.is_trying = False
        if address not in self._configured:
            hopeless = not entry.succeeded_s and entry.failures + 1 >= limits.P2P_FAILURES_HOPED
            if for_good or hopeless:
                self._forget(address)
                return None
        return self._put_off(entry, now_ms, for_good=for_good)

    def _put_off(self, entry: Entry, now_ms: int, *, for_good: bool) -> Entry | None:
        entry.failures = min(entry.failures + 1, _FAILURES_COUNTED_MAX)
        configured = entry.address in self._configured
        longest_ms = limits.P2P_REDIAL_CONFIGURED_MS_MAX if configured else limits.P2P_REDIAL_MS_MAX
        if for_good:
            pause_ms = limits.P2P_REDIAL_MS_MAX
        else:
            pause_ms = min(limits.P2P_REDIAL_MS << min(entry.failures - 1, 20), longest_ms)
            if entry.lost_ms is not None and now_ms - entry.lost_ms < limits.P2P_LOST_MS:
                pause_ms = min(pause_ms, limits.P2P_REDIAL_LOST_MS_MAX)
        entry.try_ms = now_ms + round(pause_ms * (1 + self._random()) / 2)
        return entry if entry.failures == limits.P2P_FAILURES_ASIDE else None

    def lost(self, peer: str, now_ms: int) -> list[Entry]:
        """Record that a peer is not connected any more: its addresses that worked are tried at once, and often for a
        while, because it may be restarting. An address by which the connection ended soon is put off as if it had
        failed; these are returned.
        """
        short: list[Entry] = []
        for entry in self.entries():
            if entry.peer != peer:
                continue
            up_ms, entry.up_ms = entry.up_ms, None
            if up_ms is not None and now_ms - up_ms < limits.P2P_LASTING_MS:
                entry.lost_ms = None
                self._put_off(entry, now_ms, for_good=False)
                short.append(entry)
                continue
            if up_ms is not None:
                entry.failures = 0
                entry.lost_ms = now_ms
            if not entry.failures:
                entry.try_ms = now_ms
        return short

    # --- what to do ------------------------------------------------------------------------------------

    def due(self, now_ms: int, connected: set[str], wanted: int) -> list[Entry]:
        """The addresses to dial now. They count as being tried until ``succeeded`` or ``failed``.

        ``connected`` are the ids of the peers that need no dialling, ``wanted`` is how many more peers the node would
        like to have.
        """
        busy = {*connected, *(each.peer for each in self.entries() if each.is_trying)}
        chosen: list[Entry] = []

        def choose(entries: Iterable[Entry], most: int) -> None:
            for entry in entries:
                if len(chosen) >= most:
                    return
                if entry.is_trying or now_ms < entry.try_ms or (entry.peer and entry.peer in busy):
                    continue
                entry.is_trying = True
                busy.add(entry.peer)
                chosen.append(entry)

        choose(self._configured.values(), len(self._configured))
        room = wanted - sum(each.is_trying for each in self._others())
        if room > 0:
            ready = [each for each in self._others() if not each.is_trying and each.try_ms <= now_ms]
            ready.sort(key=lambda entry: (entry.failures, not entry.succeeded_s, -entry.succeeded_s, self._random()))
            choose(ready, len(chosen) + room)
        return chosen

    def known(self) -> list[Known]:
        """What to remember over restarts: addresses that have worked once, the newest last."""
        kept = [each for each in self.entries() if each.succeeded_s and each.peer]
        kept.sort(key=lambda entry: entry.succeeded_s)
        return [
            Known(each.address, each.peer, each.learnt, each.succeeded_s, each.failures)
            for each in kept[-limits.PEERS_REMEMBERED_MAX :]
        ]


def _group(address: str) -> str:
    """The IPv4 address, the IPv6 /64 network or the name of an address; for a relayed one, that of its relay."""
    try:
        parsed = parse_multiaddr(address)
    except Wrong:
        return ""
    if parsed.family != "ip6":
        return parsed.host
    return ":".join(_exploded(parsed.host)[:4])


def _exploded(host: str) -> list[str]:
    return ipaddress.IPv6Address(host.partition("%")[0]).exploded.split(":")
