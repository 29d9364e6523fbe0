"""Addresses, and the transport operations that the node uses. All transports share them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol

import msgspec

from crabnet import limits
from crabnet.settings import split_address
from crabnet.source import bare, udp_source

BROADCAST_HOST: Final = "255.255.255.255"
"""Stands for everybody on the link."""


class Address(msgspec.Struct, frozen=True, order=True):
    """The target or source of datagrams. ``host`` is an IPv4 or IPv6 address (``%zone`` allowed) or a host name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def source(self) -> str:
        """The name of this address as a source (``crabnet.source``)."""
        return udp_source(str(self))


def parse_address(text: str) -> Address:
    """Parse ``1.2.3.4:9012``, ``[::1]:9012`` or ``host.example:9012``. Host names are not looked up.

    Raises UsageError (ADDRESS_INVALID).
    """
    host, port = split_address(text)
    return Address(host, port)


@lru_cache(maxsize=limits.PEERS_MAX)
def address_of(source: str) -> Address:
    """The address of a source of datagrams. Raises UsageError (ADDRESS_INVALID)."""
    return parse_address(bare(source))


class Transport(Protocol):
    """Sends and receives datagrams. It does not guarantee that they arrive, arrive once, or arrive in order."""

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams. Returns all that have arrived (bounded), at least one, each with its source.

        Only one task at a time may receive. Raises trio.ClosedResourceError once the transport is closed.
        """
        ...

    async def send(self, data: bytes, to: Address) -> None:
        """Send one datagram. Raises NetworkError if it certainly did not leave. Without an error it may be lost too."""
        ...

    async def aclose(self) -> None:
        """Release the sockets. Waiting tasks get trio.ClosedResourceError. May be called again."""
        ...


class Carrier(Protocol):
    """Brings whole messages to single neighbours, whatever it makes of them on the way."""

    def has_room(self, to: str) -> bool:
        """True if ``deliver`` would not wait long for this neighbour, a source (``crabnet.source``)."""
        ...

    async def deliver(self, messages: list[bytes], to: str) -> int:
        """Send whole messages in this order. Returns how many have left, which may be fewer; it does not raise."""
        ...


class Publication(Protocol):
    """What became of a published message."""

    @property
    def peers(self) -> int:
        """To how many peers it goes directly. The network may bring it to further ones."""
        ...

    @property
    def reason(self) -> str:
        """Why it goes to none: a Reason; "" if it goes to some."""
        ...


class Topics(Protocol):
    """Brings whole messages to everybody who reads a topic."""

    async def publish(self, data: bytes, topics: list[str]) -> Publication:
        """Publish one message. Raises trio.BrokenResourceError once the transport is gone."""
        ...
