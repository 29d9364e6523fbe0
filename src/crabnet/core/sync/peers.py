"""Neighbours: which addresses have proved that they receive what is sent to them.

This node sends a challenge, at most once in an interval, to an address that sent a verified envelope. An address that
echoes the challenge is a confirmed peer: it gets announcements and is served. So the victim of a forged source address
gets only one small hello.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.source import is_p2p


class Refused(Struct, frozen=True, gc=False):
    """The last refused message of an address, and why it was refused."""

    at_ms: int
    reason: str
    detail: str


class Introduction(Struct, frozen=True, gc=False):
    """What a node says of itself: its readable name and its program. It proves nothing."""

    alias: str = ""
    agent: str = ""


class _Peer(Struct):
    heard_ms: int
    challenge: str = ""
    challenged_ms: int = -limits.PEER_CHALLENGE_INTERVAL_MS
    challenges: int = 0
    round_trip_ms: int | None = None
    said: Introduction = Introduction()
    confirmed: bool = False
    node_id: str = ""
    credit: bool = True
    tells_digests: bool = False
    invited: bool = False
    answers: float = limits.SYNC_ANSWERS_BURST
    answered_ms: int = 0


class _Other(NamedTuple):
    said: Introduction
    heard_ms: int


class LostPeer(NamedTuple):
    """An address that had proved itself and was forgotten."""

    address: str
    node_id: str


class Heard(Struct, frozen=True, gc=False):
    """The earlier state of an address. ``present``: it was heard before.

    ``returns``: it was not heard before, or not for a long time.
    """

    present: bool
    returns: bool


class Peers:
    """Recently heard addresses.

    Addresses that have not proved themselves and are not configured evict only one another, however many they are.
    """

    def __init__(self) -> None:
        self._strangers: BoundedTable[str, _Peer] = BoundedTable(limits.PEERS_MAX)
        self._lasting: BoundedTable[str, _Peer] = BoundedTable(limits.PEERS_MAX)
        """Addresses that have proved themselves, and configured ones that have sent a message."""
        self._refused: BoundedTable[str, Refused] = BoundedTable(limits.PEERS_MAX)
        self._warned: BoundedTable[tuple[str, str], None] = BoundedTable(limits.PEERS_MAX)
        self._others: BoundedTable[str, _Other] = BoundedTable(limits.PEERS_MAX)
        """Nodes that are not neighbours, and introduced themselves through neighbours."""

    def _get(self, address: str) -> _Peer | None:
        return self._lasting.get(address) or self._strangers.get(address)

    def _keep(self, address: str, peer: _Peer) -> list[LostPeer]:
        """Make an address a lasting one. If there is no room, the lasting address heard longest ago is evicted."""
        self._strangers.pop(address)
        gone = self._lasting.put(address, peer)
        return [LostPeer(other, each.node_id) for other, each in gone if each.confirmed]

    def heard(self, address: str, now_ms: int) -> Heard:
        """Record a verified envelope from this address. Returns its earlier state."""
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
        """Record a refused message of a configured or proven address. True if the Reason is new for this address."""
        self._refused.put(address, refused)
        new = (address, refused.reason) not in self._warned
        self._warned.put((address, refused.reason), None)
        return new

    def last_refused(self, address: str) -> Refused | None:
        """The last refused message of a configured or proven address, or None."""
        return self._refused.get(address)

    def invite(self, address: str, draw: Callable[[], str], now_ms: int) -> str:
        """The challenge for a remembered address that has not been heard, or "" if one is on its way."""
        if self._get(address) is None:
            self._strangers.put(address, _Peer(now_ms, credit=False, invited=True))
        return self.due_challenge(address, draw, now_ms)

    def spend_credit(self, address: str) -> bool:
        """True once after each message from this address. So answers are no more numerous than messages."""
        peer = self._get(address)
        if peer is None or not peer.credit:
            return False
        peer.credit = False
        return True

    def spend_answer(self, address: str, now_ms: int) -> bool:
        """Charge an answer about buckets to an address. False if it had too many of them recently."""
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
        """Record that the peer at this address compares version vectors by digests."""
        peer = self._get(address)
        if peer is not None:
            peer.tells_digests = True

    def tells_digests(self, address: str) -> bool:
        """True if the peer at this address is known to compare version vectors by digests."""
        peer = self._get(address)
        return peer is not None and peer.tells_digests

    def last_heard_ms(self, address: str) -> int | None:
        """When an address, proved or not, was heard last. None if it was not heard."""
        peer = self._get(address)
        return None if peer is None or peer.invited else peer.heard_ms

    def heard_ms(self, address: str) -> int | None:
        """When an address that has proved itself was heard last. None for others."""
        peer = self._get(address)
        return peer.heard_ms if peer is not None and peer.confirmed else None

    def due_challenge(self, address: str, draw: Callable[[], str], now_ms: int) -> str:
        """The challenge to send to this address, or "" if none is due. It stays the same, so a slow echo counts too."""
        peer = self._get(address)
        if peer is None or peer.confirmed or now_ms - peer.challenged_ms < limits.PEER_CHALLENGE_INTERVAL_MS:
            return ""
        peer.challenge = peer.challenge or draw()
        peer.challenged_ms = now_ms
        peer.challenges += 1
        return peer.challenge

    def confirm(self, address: str, node_id: str, echo: str, now_ms: int) -> list[LostPeer] | None:
        """Handle an echo. If it proves the address for the first time, return the evicted peers, else None.

        If the challenge was sent once, the time to the echo is a round trip. Otherwise nobody knows which of the
        challenges was answered.
        """
        peer = self._get(address)
        if peer is None or not echo or echo != peer.challenge:
            return None
        new = not peer.confirmed
        if new and peer.challenges == 1:
            peer.round_trip_ms = max(0, now_ms - peer.challenged_ms)
        peer.confirmed = True
        peer.node_id = node_id
        return self._keep(address, peer) if new else None

    def joined(self, address: str, node_id: str, now_ms: int) -> list[LostPeer]:
        """Record a connected peer, which needs no challenge. It stays until ``left``. Returns the evicted peers."""
        self.heard(address, now_ms)
        peer = self._get(address)
        if peer is None:
            return []
        peer.confirmed = True
        peer.node_id = node_id
        gone = self._keep(address, peer)
        self._lasting.hold(address)
        return gone

    def left(self, address: str) -> list[LostPeer]:
        """Forget a connected peer. Returns it, if it was known."""
        peer = self._lasting.pop(address)
        return [] if peer is None else [LostPeer(address, peer.node_id)]

    def measured(self, address: str, round_trip_ms: int) -> None:
        """Record the time between a question to this address and the answer. Later values count a quarter."""
        peer = self._get(address)
        if peer is not None:
            known = peer.round_trip_ms
            peer.round_trip_ms = round_trip_ms if known is None else (3 * known + round_trip_ms) // 4

    def round_trip_ms(self, address: str) -> int | None:
        """The time between a question to this address and the answer, in milliseconds. None if it was not measured.

        It includes the time that both nodes take to handle a message, and the commit before a message is sent.
        """
        peer = self._get(address)
        return None if peer is None else peer.round_trip_ms

    def introduces(self, address: str, said: Introduction) -> None:
        """Record what the node at this address says of itself."""
        peer = self._get(address)
        if peer is not None and peer.said != said:
            peer.said = said

    def introduction(self, address: str) -> Introduction:
        """What the node at this address says of itself."""
        peer = self._get(address)
        return Introduction() if peer is None else peer.said

    def is_confirmed(self, address: str) -> bool:
        """True if the address has proved itself."""
        peer = self._get(address)
        return peer is not None and peer.confirmed

    def present(self, address: str) -> bool:
        """True if a verified message came from this address recently."""
        peer = self._get(address)
        return peer is not None and not peer.invited

    def introduced(self, address: str, node_id: str) -> list[LostPeer]:
        """Record the node at a configured address, which needs no proof. Returns the evicted peers."""
        peer = self._get(address)
        if peer is None:
            return []
        peer.node_id = node_id
        return self._keep(address, peer)

    def node_id(self, address: str) -> str:
        """The node at this address, "" if it is not known."""
        peer = self._get(address)
        return "" if peer is None else peer.node_id

    def confirmed(self) -> list[str]:
        """All addresses that have proved themselves."""
        return [address for address, peer in self._lasting.items() if peer.confirmed]

    def expire(self, now_ms: int) -> list[LostPeer]:
        """Forget addresses that have been silent too long. Returns those that had proved themselves."""
        lost = []
        since_ms = now_ms - limits.PEER_SILENCE_MS_MAX
        for table in (self._strangers, self._lasting):
            silent = list(takewhile(lambda row: row[1].heard_ms < since_ms, table.items()))
            for address, peer in silent:
                if is_p2p(address):
                    continue  # it leaves when it is disconnected
                table.pop(address)
                if peer.confirmed:
                    lost.append(LostPeer(address, peer.node_id))
        while (other := self._others.first()) is not None and other[1].heard_ms < since_ms:
            self._others.pop_first()
        return lost

    def passed_on(self, node_id: str, said: Introduction, now_ms: int) -> bool:
        """Record how a node introduced itself that is no neighbour. True if it was not known."""
        new = node_id not in self._others
        self._others.put(node_id, _Other(said, now_ms))
        return new

    def others(self) -> dict[str, Introduction]:
        """The nodes that are no neighbours and introduced themselves lately."""
        return {node_id: other.said for node_id, other in self._others.items()}
