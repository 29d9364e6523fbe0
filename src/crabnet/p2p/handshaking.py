"""noise with bounds: what a stranger sends before it has proved who it is (ADR 43)."""

from __future__ import annotations

from libp2p.abc import IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import MessageTooLarge
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport
from multiaddr import Multiaddr

from crabnet import limits


class Bounded(IRawConnection):
    """A connection of which only so many bytes are read until ``release``."""

    def __init__(self, inner: IRawConnection, bytes_max: int) -> None:
        self._inner = inner
        self._left: int | None = bytes_max
        self.is_initiator = inner.is_initiator

    def release(self) -> None:
        """Read without a bound from now on."""
        self._left = None

    async def read(self, n: int | None = None) -> bytes:
        """Raises MessageTooLarge (an IOException) beyond the bound, and what the connection raises."""
        if self._left is not None and (n is None or n > self._left):
            raise MessageTooLarge("a handshake of more bytes than any needs")
        data = await self._inner.read(n)
        if self._left is not None:
            self._left -= len(data)
        return data

    async def write(self, data: bytes) -> None:
        """See ``IRawConnection``."""
        await self._inner.write(data)

    async def close(self) -> None:
        """See ``IRawConnection``."""
        await self._inner.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """See ``IRawConnection``."""
        return self._inner.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """See ``IRawConnection``."""
        return self._inner.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """See ``IRawConnection``."""
        return self._inner.get_connection_type()


class Noise(Transport):
    """The library reads handshakes of 64 KiB, in which a key of RSA can hold up the process for minutes."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Have a peer prove who it is. Raises what the library raises."""
        bounded = Bounded(conn, limits.P2P_HANDSHAKE_BYTES_MAX)
        secured = await super().secure_inbound(bounded)
        bounded.release()
        return secured

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Have the peer that was called prove who it is. Raises what the library raises."""
        bounded = Bounded(conn, limits.P2P_HANDSHAKE_BYTES_MAX)
        secured = await super().secure_outbound(bounded, peer_id)
        bounded.release()
        return secured
