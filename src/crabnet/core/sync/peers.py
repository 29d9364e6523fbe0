"""Neighbours: which addresses have proved that they receive what is sent to them.

Whoever sends us a verified envelope is challenged once in a while; whoever echoes the challenge from the same address
is a confirmed peer, gets announcements and is served. So a forged source address earns its victim one small hello, no
more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable


def for_everybody(address: str) -> bool:
    """True for the broadcast address and for multicast addresses of IPv6: nobody in particular is there."""
    return address.startswith(("255.255.255.255:", "[ff"))


class Refused(Struct, frozen=True, gc=False):
    """The last message of an address that was not taken, and why."""

    at_ms: int
    reason: str
    detail: str


class _Peer(Struct):
    heard_ms: int
    challenge: str = ""
    challenged_ms: int = -limits.PEER_CHALLENGE_INTERVAL_MS
    confirmed: bool = False
    node_id: str = ""
    credit: bool = True
    tells_digests: bool = False
    invited: bool = False
    answers: float = limits.SYNC_ANSWERS_BURST
    answered_ms: int = 0


class LostPeer(NamedTuple):
    """An address that had proved itself and is forgotten."""

    address: str
    node_id: str


class Heard(Struct, frozen=True, gc=False):
    """What was so of an address until now: it was ``present``, or ``returns`` after a long silence, or is new."""

    present: bool
    returns: bool


class Peers:
    """Addresses heard of lately. Those that nobody vouches for displace one another only, however many they are."""

    def __init__(self) -> None:
        self._strangers: BoundedTable[str, _Peer] = BoundedTable(limits.PEERS_MAX)
        self._lasting: BoundedTable[str, _Peer] = BoundedTable(limits.PEERS_MAX)
        """Those that have proved themselves, and configured ones that have said something."""
        self._refused: BoundedTable[str, Refused] = BoundedTable(limits.PEERS_MAX)
        self._warned: BoundedTable[tuple[str, str], None] = BoundedTable(limits.PEERS_MAX)

    def _get(self, address: str) -> _Peer | None:
        return self._lasting.get(address) or self._strangers.get(address)

    def _keep(self, address: str, peer: _Peer) -> list[LostPeer]:
        """The address is no stranger any more; who was heard longest ago of those alike makes room, if need be."""
        self._strangers.pop(address)
        gone = self._lasting.put(address, peer)
        return [LostPeer(other, each.node_id) for other, each in gone if each.confirmed]

    def heard(self, address: str, now_ms: int) -> Heard:
        """A verified envelope came from this address."""
        table = self._lasting
        peer = table.get(address)
        if peer is None:
            table = self._strangers
            peer = table.get(address)
        present = peer is not None and not peer.invited
        returns = peer is None or now_ms - peer.heard_ms >= limits.PEER_RETURN_MS
        if peer is None:
            peer = _Peer(now_ms)
            table.put(address, peer)
        else:
            table.touch(address)
        peer.heard_ms = now_ms
        peer.invited = False
        peer.credit = True
        return Heard(present, returns)

    def refused(self, address: str, refused: Refused) -> bool:
        """A message of somebody whose word counts was not taken. True if that is new: to be warned of once."""
        self._refused.put(address, refused)
        new = (address, refused.reason) not in self._warned
        self._warned.put((address, refused.reason), None)
        return new

    def last_refused(self, address: str) -> Refused | None:
        """Of an address that is configured or has proved itself."""
        return self._refused.get(address)

    def invite(self, address: str, draw: Callable[[], str], now_ms: int) -> str:
        """The challenge for a remembered address that has not been heard of, or "" if one is on its way."""
        if self._get(address) is None:
            self._strangers.put(address, _Peer(now_ms, credit=False, invited=True))
        return self.due_challenge(address, draw, now_ms)

    def spend_credit(self, address: str) -> bool:
        """True once after each message from this address: an answer to it costs nobody more than the message."""
        peer = self._get(address)
        if peer is None or not peer.credit:
            return False
        peer.credit = False
        return True

    def spend_answer(self, address: str, now_ms: int) -> bool:
        """True while the address has not had too many answers about buckets lately."""
        peer = self._get(address)
        if peer is None:
            return False
        earned = max(0, now_ms - peer.answered_ms) * limits.SYNC_ANSWERS_PER_S / 1000
        peer.answers = min(float(limits.SYNC_ANSWERS_BURST), peer.answers + earned)
        peer.answered_ms = now_ms
        if peer.answers < 1:
            return False
        peer.answers -= 1
        return True

    def note_digests(self, address: str) -> None:
        """Whoever is at this address compares version vectors by digests."""
        peer = self._get(address)
        if peer is not None:
            peer.tells_digests = True

    def tells_digests(self, address: str) -> bool:
        """True if it is known to do so."""
        peer = self._get(address)
        return peer is not None and peer.tells_digests

    def last_heard_ms(self, address: str) -> int | None:
        """When an address was heard last, proved or not; None for one that was not."""
        peer = self._get(address)
        return None if peer is None or peer.invited else peer.heard_ms

    def heard_ms(self, address: str) -> int | None:
        """When an address that has proved itself was heard last; None for others."""
        peer = self._get(address)
        return peer.heard_ms if peer is not None and peer.confirmed else None

    def due_challenge(self, address: str, draw: Callable[[], str], now_ms: int) -> str:
        """The challenge to send to this address now, or "". Drawn once, so that a slow echo counts, too."""
        peer = self._get(address)
        if peer is None or peer.confirmed or now_ms - peer.challenged_ms < limits.PEER_CHALLENGE_INTERVAL_MS:
            return ""
        peer.challenge = peer.challenge or draw()
        peer.challenged_ms = now_ms
        return peer.challenge

    def confirm(self, address: str, node_id: str, echo: str) -> list[LostPeer] | None:
        """An echo came back. If it proves the address for the first time: those that make room for it; else None."""
        peer = self._get(address)
        if peer is None or not echo or echo != peer.challenge:
            return None
        new = not peer.confirmed
        peer.confirmed = True
        peer.node_id = node_id
        return self._keep(address, peer) if new else None

    def is_confirmed(self, address: str) -> bool:
        """True if the address has proved itself."""
        peer = self._get(address)
        return peer is not None and peer.confirmed

    def present(self, address: str) -> bool:
        """True if something verified came from this address lately."""
        peer = self._get(address)
        return peer is not None and not peer.invited

    def introduced(self, address: str, node_id: str) -> list[LostPeer]:
        """Talk of this node came from a configured address, which needs no proof. Returns who makes room for it."""
        peer = self._get(address)
        if peer is None:
            return []
        peer.node_id = node_id
        return self._keep(address, peer)

    def node_id(self, address: str) -> str:
        """The node at this address, as far as that is known, else ""."""
        peer = self._get(address)
        return "" if peer is None else peer.node_id

    def confirmed(self) -> list[str]:
        """All addresses that have proved themselves."""
        return [address for address, peer in self._lasting.items() if peer.confirmed]

    def expire(self, now_ms: int) -> list[LostPeer]:
        """Forget addresses that have been silent too long; returns those that had proved themselves."""
        lost = []
        since_ms = now_ms - limits.PEER_SILENCE_MS_MAX
        for table in (self._strangers, self._lasting):
            while (first := table.first()) is not None and first[1].heard_ms < since_ms:
                table.pop_first()
                if first[1].confirmed:
                    lost.append(LostPeer(first[0], first[1].node_id))
        return lost
