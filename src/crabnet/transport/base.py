"""What all transports share: addresses, and the operations the node uses."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from crabnet.settings import split_address

BROADCAST_HOST: Final = "255.255.255.255"
"""Everybody on the link, nobody in particular."""


class Address(msgspec.Struct, frozen=True, order=True):
    """Where datagrams go or come from. ``host`` is an IPv4 or IPv6 address (``%zone`` allowed) or a host name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``1.2.3.4:9012``, ``[::1]:9012`` or ``host.example:9012``; nothing is looked up.

    Raises UsageError (ADDRESS_INVALID).
    """
    host, port = split_address(text)
    return Address(host, port)


class Transport(Protocol):
    """Sends and receives datagrams, without any promise that they arrive, once or in order."""

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams and return all that are there (bounded), at least one, each with its source.

        One task at a time. Raises trio.ClosedResourceError once the transport is closed.
        """
        ...

    async def send(self, data: bytes, to: Address) -> None:
        """Send one datagram. Raises NetworkError when it certainly did not leave; silence promises nothing."""
        ...

    async def aclose(self) -> None:
        """Release the sockets; waiting tasks get trio.ClosedResourceError. May be called again."""
        ...
