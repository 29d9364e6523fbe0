"""Peers find each other by their namespace: each asks servers of the DHT who provides the namespace's key, and tells
them that it does, too (ADR 43). So neighbours tell each other of further peers.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import trio
from libp2p.peer.id import ID
from msgspec import Struct
from multiaddr import Multiaddr as Address

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import NetworkError
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.kad import KadNode
from crabnet.p2p.kad_messages import Named, name_of
from crabnet.p2p.kad_tables import place
from crabnet.p2p.network import Network
from crabnet.p2p.scope import Scope, told
from crabnet.transport.p2p_wire import Learnt

OFF: Final = "off"


class Surroundings(Protocol):
    """What the search needs to know of this node and its peers."""

    def wanted(self) -> int:
        """How many more peers the node would like to have."""
        ...

    def scope(self, peer: ID) -> Scope:
        """The scope of the address of a connected peer."""
        ...

    def own_addresses(self) -> list[str]:
        """The addresses at which others may reach this node."""
        ...

    def addresses_of(self, peer: ID) -> list[str]:
        """The addresses that a connected peer tells of itself, as far as they count."""
        ...

    def is_reachable(self) -> bool:
        """True if others can probably connect to this node."""
        ...

    def learn(self, address: str, peer: str, learnt: Learnt) -> None:
        """Take an address of a peer that provides the key."""
        ...

    def is_provider(self, peer: ID) -> bool:
        """True if an address of this peer was taken."""
        ...


class _Candidate(Struct):
    """A server that may be asked."""

    peer: ID
    addresses: list[str]


class Rendezvous:
    """Searches now and then: often while peers are wanted, rarely otherwise."""

    def __init__(self, mode: str, key: bytes, kad: KadNode, network: Network, around: Surroundings) -> None:
        """``mode`` is that of the setting ``dht_rendezvous``. ``key`` stands for the namespace."""
        self._mode = mode
        self._key = key
        self._kad = kad
        self._network = network
        self._around = around
        self._allowances: BoundedTable[ID, TokenBucket] = BoundedTable(limits.P2P_CONNECTIONS_MAX)
        self._meeting = trio.CapacityLimiter(limits.KAD_ASKED_AT_ONCE)
        self._wake = trio.Event()
        self.searches = 0

    def new_mode(self) -> None:
        """Be a server of the DHT, or not: as the setting says, or as far as others can reach this node."""
        reachable = self._mode == "auto" and self._around.is_reachable()
        self._kad.serve(wanted=self._mode == "server" or reachable)

    async def run(self) -> None:
        """Search until cancelled."""
        if self._mode == OFF:
            return
        pause_ms = limits.RENDEZVOUS_FEW_MS
        while True:
            self.new_mode()
            await self.search()
            few = self._around.wanted() > 0
            pause_ms = min(2 * pause_ms, limits.RENDEZVOUS_MS) if few else limits.RENDEZVOUS_MS
            with trio.move_on_after(pause_ms * (1 + random.random()) / 2000) as waiting:  # noqa: S311 - spreads load
                await self._wake.wait()
            if not waiting.cancelled_caught:
                pause_ms = limits.RENDEZVOUS_FEW_MS
                self._wake = trio.Event()
                await trio.sleep(limits.RENDEZVOUS_FEW_MS / 1000)

    def lost(self) -> None:
        """A peer is gone: search soon if that leaves too few."""
        if self._around.wanted() > 0:
            self._wake.set()

    async def met(self, peer: ID) -> None:
        """Ask a peer that has just been connected."""
        if self._mode != OFF:
            async with self._meeting:
                await self._ask(peer, Learnt.TOLD)

    # --- a search --------------------------------------------------------------------------------------

    async def search(self) -> None:
        """Ask the servers that are closest to the key, those that they name, and so on."""
        self.searches += 1
        with trio.move_on_after(limits.KAD_SEARCH_MS / 1000):
            await _Search(self._kad, self._network, self._key, self._ask, self._around.is_provider).run()

    async def _ask(self, peer: ID, learnt: Learnt = Learnt.RENDEZVOUS) -> list[_Candidate] | None:
        """Ask one connected peer. Returns the servers that it names; None if it is no server."""
        provided = self._around.own_addresses()
        answer = await self._kad.ask(peer, self._key, provided)
        if answer is None:
            return None
        self._kad.is_known(peer, self._around.addresses_of(peer))
        scope = self._around.scope(peer)
        for named in answer.providers:
            name = name_of(named.peer)
            for address in told(named.addresses, name, scope):
                if self.allows(peer):
                    self._around.learn(address, name, learnt)
        return [found for each in answer.closer if (found := _candidate(each, scope)) is not None]

    def allows(self, teller: ID) -> bool:
        """Count one address that a peer tells. False if it tells too many."""
        most = limits.RENDEZVOUS_TOLD_PER_MINUTE
        allowance = self._allowances.get(teller) or TokenBucket(most / 60, most)
        self._allowances.put(teller, allowance)
        return allowance.take(steady_ms())


class _Search:
    """One search: which servers are to be asked, and which are connected only for it."""

    def __init__(
        self,
        kad: KadNode,
        network: Network,
        key: bytes,
        ask: Callable[[ID], Awaitable[list[_Candidate] | None]],
        stays: Callable[[ID], bool],
    ) -> None:
        self._kad = kad
        self._network = network
        self._ask = ask
        self._stays = stays
        self._target = place(key)
        self._known: dict[ID, _Candidate] = {peer: _Candidate(peer, []) for peer in network.connections}
        for server in kad.servers.closest(key, limits.KAD_BUCKET):
            peer = ID(server.peer)
            self._known.setdefault(peer, _Candidate(peer, server.addresses))
        self._asked: set[ID] = set()
        self._dialled: list[ID] = []
        self._dials = 0

    async def run(self) -> None:
        """Ask until the closest are asked, or the bounds are reached."""
        try:
            while batch := self._next():
                async with trio.open_nursery() as nursery:
                    for candidate in batch:
                        nursery.start_soon(self._visit, candidate)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._leave()

    def _next(self) -> list[_Candidate]:
        left = min(limits.KAD_ASKED_AT_ONCE, limits.KAD_ASKED_MAX - len(self._asked))
        ready = [each for each in self._known.values() if each.peer not in self._asked and self._can_ask(each)]
        ready.sort(key=lambda each: self._target ^ place(each.peer.to_bytes()))
        chosen = ready[: max(0, left)]
        self._asked |= {each.peer for each in chosen}
        return chosen

    def _can_ask(self, candidate: _Candidate) -> bool:
        if not self._kad.may_ask(candidate.peer):
            return False
        if candidate.peer in self._network.connections:
            return True
        return bool(candidate.addresses) and self._dials < limits.KAD_DIALS_MAX

    async def _visit(self, candidate: _Candidate) -> None:
        if candidate.peer not in self._network.connections and not await self._connect(candidate):
            return
        for named in await self._ask(candidate.peer) or ():
            if len(self._known) < limits.KAD_CANDIDATES_MAX and named.peer.to_bytes() != self._kad.own:
                self._known.setdefault(named.peer, named)

    async def _connect(self, candidate: _Candidate) -> bool:
        for address in candidate.addresses[: limits.KAD_DIALS_PER_SERVER_MAX]:
            if self._dials >= limits.KAD_DIALS_MAX:
                return False
            self._dials += 1
            try:
                await self._network.dial(Address(address), candidate.peer)
            except NetworkError:
                continue
            self._dialled.append(candidate.peer)
            return True
        self._kad.servers.failed(candidate.peer.to_bytes())
        return False

    async def _leave(self) -> None:
        """Disconnect the servers that were connected for this search, but for those of the namespace."""
        for peer in self._dialled:
            if not self._stays(peer):
                for connection in self._network.get_connections(peer):
                    with suppress(Exception):
                        await connection.close()


def _candidate(named: Named, scope: Scope) -> _Candidate | None:
    addresses = told(named.addresses, name_of(named.peer), scope)
    return _Candidate(ID(named.peer), addresses) if addresses else None
