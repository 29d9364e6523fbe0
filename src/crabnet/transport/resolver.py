"""Converts addresses to the form that the kernel takes: literal addresses at once, host names in a thread and with a
cache.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple, cast

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.errors import NetworkError, Reason
from crabnet.transport.base import Address


class Endpoint(NamedTuple):
    """An address in the form of the socket API. ``family`` is AF_INET or AF_INET6."""

    family: int
    sockaddr: tuple[str | int, ...] | tuple[int, bytes]

    @property
    def address(self) -> Address:
        """The source address of datagrams from this endpoint."""
        return address_of(cast("tuple[str, int] | tuple[str, int, int, int]", self.sockaddr))


def address_of(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """The written form of an address. A link-local address includes the name of its interface."""
    if len(sockaddr) == 4 and sockaddr[3]:
        try:
            zone = socket.if_indextoname(sockaddr[3])
        except OSError:
            zone = str(sockaddr[3])
        return Address(f"{sockaddr[0].partition('%')[0]}%{zone}", sockaddr[1])
    return Address(sockaddr[0], sockaddr[1])


Lookup = Callable[[str, int], list[Endpoint]]


def look_up(host: str, port: int) -> list[Endpoint]:
    """The endpoints of a host name, best first (RFC 6724). Blocks. Raises OSError or UnicodeError."""
    return _endpoints(host, port, 0)


def literal_endpoint(address: Address) -> Endpoint | None:
    """The endpoint of a literal address; None for a host name. Does not block."""
    try:
        return _endpoints(address.host, address.port, socket.AI_NUMERICHOST)[0]
    except (OSError, UnicodeError, OverflowError, IndexError):
        return None


def _endpoints(host: str, port: int, flags: int) -> list[Endpoint]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags | socket.AI_NUMERICSERV)
    return [Endpoint(family, sockaddr) for family, _, _, _, sockaddr in found]


class _Entry:
    """The cached results for one host name. Times are those of ``trio.current_time``, in seconds."""

    __slots__ = ("endpoints", "error", "lock", "looked_up_at", "refresh_at")

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.error = ""
        self.looked_up_at = 0.0
        self.refresh_at = float("-inf")
        self.lock = trio.Lock()


class Resolver:
    """Caches the endpoints of host names for RESOLVE_TTL_MS. After a failure it retries RESOLVE_RETRY_MS later.

    While a name cannot be looked up again, its previous endpoints stay in use. Literal addresses have a table of their
    own, because strangers can cause many of them.
    """

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._literals: BoundedTable[Address, Endpoint] = BoundedTable(limits.RESOLVE_CACHE_MAX)
        self._names: BoundedTable[Address, _Entry] = BoundedTable(limits.RESOLVE_CACHE_MAX)
        self._limiter = trio.CapacityLimiter(limits.RESOLVE_LOOKUPS_MAX)

    async def resolve(self, address: Address, family: int | None = None) -> Endpoint:
        """The endpoint to send to, one of ``family`` if there is a choice. Raises the errors of ``endpoints``."""
        endpoints = await self.endpoints(address)
        return next((found for found in endpoints if found.family == family), endpoints[0])

    async def endpoints(self, address: Address) -> list[Endpoint]:
        """All endpoints of an address, best first; at least one.

        Raises NetworkError (ADDRESS_INVALID) if the name has no address or the look-up takes too long.
        """
        literal = self._literals.get(address) or literal_endpoint(address)
        if literal is not None:
            self._literals.put(address, literal)
            return [literal]
        entry = self._names.get(address) or _Entry()
        self._names.put(address, entry)
        if trio.current_time() >= entry.refresh_at:
            async with entry.lock:
                if trio.current_time() >= entry.refresh_at:
                    await self._refresh(entry, address)
        if not entry.endpoints:
            raise NetworkError(f"the host of {address} cannot be found: {entry.error}", Reason.ADDRESS_INVALID)
        return entry.endpoints

    def failed(self, address: Address) -> None:
        """Note that a send has failed, so that a host name is looked up again before its cache entry expires."""
        entry = self._names.get(address)
        if entry is not None:
            entry.refresh_at = min(entry.refresh_at, entry.looked_up_at + limits.RESOLVE_RETRY_MS / 1000)

    async def _refresh(self, entry: _Entry, address: Address) -> None:
        endpoints: list[Endpoint] = []
        entry.error = f"no answer within {limits.RESOLVE_TIMEOUT_MS} ms"
        with trio.move_on_after(limits.RESOLVE_TIMEOUT_MS / 1000):
            try:
                endpoints = await trio.to_thread.run_sync(
                    self._lookup, address.host, address.port, abandon_on_cancel=True, limiter=self._limiter
                )
                entry.error = "the name has no address"
            except (OSError, UnicodeError, OverflowError) as error:
                entry.error = getattr(error, "strerror", None) or str(error)
        entry.endpoints = endpoints or entry.endpoints
        entry.looked_up_at = trio.current_time()
        wait_ms = limits.RESOLVE_TTL_MS if endpoints else limits.RESOLVE_RETRY_MS
        entry.refresh_at = entry.looked_up_at + wait_ms / 1000
