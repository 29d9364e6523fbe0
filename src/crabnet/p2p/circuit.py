"""Connections through a relay, and the messages that set them up (libp2p specification "circuit relay v2")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.abc import INetConn, INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import ConnectionClosedError, MessageTooLarge
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.p2p.network import addresses_of
from crabnet.p2p.prefixed import prefixed

HOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
CIRCUIT: Final = "p2p-circuit"
READ_BYTES: Final = 64 * 1024

M = TypeVar("M", bound=Message)

Handle = Callable[[INetStream], Awaitable[None]]


def is_relayed(connection: INetConn | None) -> bool:
    """True for a connection through a relay, and for one of which nothing is known."""
    if connection is None:
        return True
    addresses = addresses_of(connection)
    return not addresses or any(CIRCUIT in str(each) for each in addresses)


def connection_of(stream: INetStream) -> INetConn | None:
    """The connection of a stream."""
    connection: INetConn | None = getattr(stream, "swarm_conn", None)
    return connection


async def read_message(stream: INetStream, kind: type[M], wait_ms: int = limits.P2P_HANDSHAKE_MS) -> M:
    """Read one message with its length before it, within ``wait_ms``.

    Raises trio.TooSlowError, and whatever the library raises for streams that end and bytes that are no message.
    """
    with trio.fail_after(wait_ms / 1000):
        data = await read_varint_prefixed_bytes_limited(stream, limits.P2P_CONTROL_MESSAGE_BYTES_MAX)
    message = kind()
    message.ParseFromString(data)
    return message


async def write_message(stream: INetStream, message: Message) -> None:
    """Write one message. Raises trio.TooSlowError, and whatever the library raises for streams that have ended."""
    with trio.fail_after(limits.P2P_HANDSHAKE_MS / 1000):
        await stream.write(prefixed(message.SerializeToString()))


def contained(handle: Handle) -> Handle:
    """A handler that raises for bytes that are no message, and ends its stream after any other error: most of them say
    only that somebody is gone.
    """

    async def handled(stream: INetStream) -> None:
        try:
            await handle(stream)
        except (DecodeError, ParseError, MessageTooLarge):
            raise
        except Exception:  # noqa: BLE001 - the library raises many things when a stream ends
            with suppress(Exception):
                await stream.reset()

    return handled


class Circuit(IRawConnection):
    """A stream to a relay as the carrier of a connection with somebody behind it."""

    def __init__(self, stream: INetStream, address: Multiaddr, *, is_initiator: bool) -> None:
        """``address`` is that of the peer at the other end, through the relay."""
        self.is_initiator = is_initiator
        self._stream = stream
        self._address = address
        self._writing = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes; none at the end. Raises ConnectionClosedError."""
        try:
            return await self._stream.read(READ_BYTES if n is None else n)
        except StreamEOF:
            return b""
        except Exception as error:
            raise ConnectionClosedError(f"the circuit has ended: {error}", transport=CIRCUIT) from error

    async def write(self, data: bytes) -> None:
        """Send all bytes, one call at a time. Raises ConnectionClosedError."""
        async with self._writing:
            try:
                await self._stream.write(data)
            except Exception as error:
                raise ConnectionClosedError(f"the circuit has ended: {error}", transport=CIRCUIT) from error

    async def close(self) -> None:
        """End the stream in both directions, so that a pending read ends too."""
        with suppress(Exception):
            await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """None: nobody sees the IP address of a peer behind a relay."""
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The address through the relay."""
        return [self._address]

    def get_connection_type(self) -> ConnectionType:
        """RELAYED."""
        return ConnectionType.RELAYED
