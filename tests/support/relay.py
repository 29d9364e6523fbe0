"""A UDP network that loses, doubles and reorders datagrams, between real nodes on loopback.

A route is one front port that forwards to one target. Each client of a route (a source address that sends to the
front) gets a socket of its own towards the target, as behind a NAT: the target answers to that socket, and the
answer leaves the front towards the client, through the same faults. A node that is to talk to another only through the
relay is given ``relay.address(route)`` in place of the other's address.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from crabnet.errors import NetworkError
from crabnet.transport.base import Address
from crabnet.transport.udp import UdpTransport

_CLIENTS_MAX = 64
_HELD_BACK_MS = (5, 40)


@dataclass
class RelayCounts:
    """What happened to the datagrams of one route, both directions together."""

    received: int = 0
    delivered: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0


@dataclass(frozen=True)
class Faults:
    """Probabilities, 0 to 1, for each datagram alone. ``reorder`` holds it back while later ones pass."""

    loss: float
    duplicate: float
    reorder: float


class _Route:
    """One front, its target, and the sockets of its clients towards the target."""

    def __init__(self, front: UdpTransport, target: Address, faults: Faults, chance: random.Random) -> None:
        self.front = front
        self.target = target
        self.faults = faults
        self.chance = chance
        self.counts = RelayCounts()
        self.cut = False
        self.backs: dict[Address, UdpTransport] = {}


class LossyRelay:
    """``async with LossyRelay({"ab": address_of_b, "ba": address_of_a}) as relay``: see the module.

    The fate of the n-th datagram of a route depends on ``seed``, the name of the route and n alone.
    """

    def __init__(
        self,
        routes: Mapping[str, Address],
        *,
        loss: float = 0.2,
        duplicate: float = 0.1,
        reorder: float = 0.2,
        seed: int = 0,
    ) -> None:
        self._targets = dict(routes)
        self._faults = Faults(loss, duplicate, reorder)
        self._seed = seed
        self._routes: dict[str, _Route] = {}
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            for name, target in self._targets.items():
                front = await stack.enter_async_context(await UdpTransport.open(_loopback(target)))
                route = _Route(front, target, self._faults, random.Random(f"{self._seed}/{name}"))
                self._routes[name] = route
                self._nursery.start_soon(self._serve_front, route)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        # Not told of the error: the nursery would wrap it in a group.
        await self._stack.aclose()

    def address(self, route: str) -> Address:
        """Where to send so that the relay forwards to the target of ``route``."""
        address = self._routes[route].front.local_address
        if address is None:
            raise RuntimeError("the relay is not running")
        return address

    def counts(self, route: str) -> RelayCounts:
        """What happened on ``route`` so far."""
        return self._routes[route].counts

    def total(self) -> RelayCounts:
        """What happened on all routes so far."""
        total = RelayCounts()
        for route in self._routes.values():
            for name, value in vars(route.counts).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def cut(self, *routes: str) -> None:
        """Drop everything on these routes, or on all when none is named, until ``mend``."""
        for name in routes or self._routes:
            self._routes[name].cut = True

    def mend(self, *routes: str) -> None:
        """Undo ``cut``."""
        for name in routes or self._routes:
            self._routes[name].cut = False

    def set_faults(self, *, loss: float, duplicate: float = 0.0, reorder: float = 0.0) -> None:
        """Change the probabilities of all routes from now on."""
        for route in self._routes.values():
            route.faults = Faults(loss, duplicate, reorder)

    async def _serve_front(self, route: _Route) -> None:
        with suppress(trio.ClosedResourceError):
            while True:
                for data, client in await route.front.receive():
                    back = route.backs.get(client)
                    if back is None:
                        back = await self._open_back(route, client)
                    await self._pass_on(route, data, back, route.target)

    async def _open_back(self, route: _Route, client: Address) -> UdpTransport:
        if len(route.backs) >= _CLIENTS_MAX:
            oldest = next(iter(route.backs))
            await route.backs.pop(oldest).aclose()
        listen = Address(_loopback(route.target).host, 0)
        back = route.backs[client] = await self._stack.enter_async_context(await UdpTransport.open(listen))
        if self._nursery is not None:
            self._nursery.start_soon(self._serve_back, route, back, client)
        return back

    async def _serve_back(self, route: _Route, back: UdpTransport, client: Address) -> None:
        with suppress(trio.ClosedResourceError):
            while True:
                for data, _ in await back.receive():
                    await self._pass_on(route, data, route.front, client)

    async def _pass_on(self, route: _Route, data: bytes, sender: UdpTransport, to: Address) -> None:
        counts, chance, faults = route.counts, route.chance, route.faults
        counts.received += 1
        lost, doubled, held = (chance.random() < p for p in (faults.loss, faults.duplicate, faults.reorder))
        held_ms = chance.uniform(*_HELD_BACK_MS)
        if lost or route.cut or self._nursery is None:
            counts.dropped += 1
            return
        counts.duplicated += doubled
        counts.reordered += held
        if doubled:
            self._nursery.start_soon(self._deliver_later, route, data, sender, to, held_ms)
        if held:
            self._nursery.start_soon(self._deliver_later, route, data, sender, to, held_ms)
        else:
            await self._deliver(route, data, sender, to)

    async def _deliver_later(
        self, route: _Route, data: bytes, sender: UdpTransport, to: Address, held_ms: float
    ) -> None:
        await trio.sleep(held_ms / 1000)
        await self._deliver(route, data, sender, to)

    async def _deliver(self, route: _Route, data: bytes, sender: UdpTransport, to: Address) -> None:
        with suppress(trio.ClosedResourceError, NetworkError):
            await sender.send(data, to)
            route.counts.delivered += 1


def _loopback(target: Address) -> Address:
    """A free port on the loopback address of the target's family."""
    return Address("::1" if ":" in target.host else "127.0.0.1", 0)
