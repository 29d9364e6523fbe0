"""The connections of a libp2p host: dialled one address at a time, accepted within limits (ADR 43)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
from libp2p.abc import IMuxedConn, INetConn, IRawConnection
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.pnet.protector import new_protected_conn
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.errors import NetworkError, Reason


class Network(Swarm):
    """A swarm that offers TCP, noise and yamux, and nothing else."""

    def __init__(
        self, key_pair: KeyPair, *, network_key: bytes, connections_max: int, host_connections_max: int
    ) -> None:
        peer_id = ID.from_pubkey(key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        super().__init__(
            peer_id,
            peerstore,
            TransportUpgrader({NOISE: noise}, {TProtocol(YAMUX): Yamux}),
            transports=[TCP()],
            connection_config=ConnectionConfig(
                max_connections=connections_max,
                min_connections=0,
                low_watermark=0,  # it does not dial by itself
                high_watermark=connections_max,
                max_connections_per_peer=1,
                inbound_upgrade_timeout=limits.P2P_HANDSHAKE_MS / 1000,
                outbound_upgrade_timeout=limits.P2P_HANDSHAKE_MS / 1000,
            ),
            psk=network_key.hex() or None,
        )
        self._connections_max = connections_max
        self._host_connections_max = host_connections_max
        self._inbound: Counter[str] = Counter()
        """Inbound connections, also those that have not finished their handshake, by IP address or IPv6 network."""
        self.admits: Callable[[ID], bool] = lambda _: True
        """Says whether a peer may be connected."""
        self.refused_connections = 0

    async def dial(self, address: Multiaddr, peer: ID | None) -> INetConn:
        """Connect to one address. With ``peer`` the peer there must prove that id; without, any id will do.

        Raises NetworkError: NODE_UNREACHABLE, TIMEOUT, WRONG_PEER or ADDRESS_INVALID.
        """
        with trio.move_on_after(limits.P2P_DIAL_MS / 1000):
            try:
                return await self._dial(address, peer)
            except NetworkError:
                raise
            except Exception as error:
                raise NetworkError(f"cannot connect to {address}: {brief(error)}", Reason.NODE_UNREACHABLE) from error
        raise NetworkError(f"{address} did not answer within {limits.P2P_DIAL_MS} ms", Reason.TIMEOUT)

    async def _dial(self, address: Multiaddr, peer: ID | None) -> INetConn:
        transport = self.transport_manager.transport_for_dialing(address)
        if transport is None:
            raise NetworkError(f"no transport of this node can dial {address}", Reason.ADDRESS_INVALID)
        raw = await transport.dial(address)
        try:
            muxed = raw if isinstance(raw, IMuxedConn) else await self._upgrade(raw)
        except BaseException:
            with trio.CancelScope(shield=True), suppress(Exception):
                await raw.close()
            raise
        found = muxed.peer_id
        if (peer is not None and found != peer) or found == self.self_id or not self.admits(found):
            with suppress(Exception):
                await muxed.close()
            if found == self.self_id:
                raise NetworkError(f"{address} is this node itself", Reason.OWN_ADDRESS)
            if peer is not None and found != peer:
                raise NetworkError(f"at {address} is {found}, not {peer}", Reason.WRONG_PEER)
            raise NetworkError(f"{found} at {address} is blocked at the moment", Reason.SOURCE_BLOCKED)
        return await self.add_conn(muxed, direction="outbound")

    async def _upgrade(self, raw: IRawConnection) -> IMuxedConn:
        if self.psk is not None:
            raw = new_protected_conn(raw, self.psk)
        # The library would not say who is there if it is not the peer that is expected. `_dial` checks the id instead.
        secured = await self.upgrader.security_multistream.secure_outbound(raw, None)  # type: ignore[arg-type]
        return await self.upgrader.upgrade_connection(secured, secured.get_remote_peer())

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Accept a connection, and keep its place until it is closed. The library keeps the place for ever."""
        group = _group(read_write_closer)
        if self._inbound.total() >= self._connections_max or self._inbound[group] >= self._host_connections_max:
            self.refused_connections += 1
            return
        self._inbound[group] += 1
        try:
            raw = RawConnection(read_write_closer, False)
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            await closed(muxed)
        finally:
            self._inbound[group] -= 1
            if not self._inbound[group]:
                del self._inbound[group]

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """The connections of a peer. The library would dial whatever addresses strangers have told of it.

        Raises SwarmException if there are none.
        """
        found = self.get_connections(peer_id)
        if not found:
            raise SwarmException(f"{peer_id} is not connected")
        return found

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Take a connection that is ready. Raises NetworkError for a peer that is not admitted."""
        if direction != "outbound" and not self.admits(muxed_conn.peer_id):
            with suppress(Exception):
                await muxed_conn.close()
            raise NetworkError(f"{muxed_conn.peer_id} is blocked at the moment", Reason.SOURCE_BLOCKED)
        return await super().add_conn(muxed_conn, direction)


async def closed(muxed: IMuxedConn) -> None:
    """Wait until a connection is closed."""
    event = getattr(muxed, "event_closed", None)
    if isinstance(event, trio.Event):
        await event.wait()
    while not muxed.is_closed:  # noqa: ASYNC110 - the library has no event for it
        await trio.sleep(limits.P2P_LOOK_MS / 1000)


def _group(connection: ReadWriteCloser) -> str:
    """The IPv4 address or the IPv6 network that a connection comes from."""
    remote = connection.get_remote_address()
    if remote is None:
        return ""
    try:
        address = ipaddress.ip_address(remote[0].partition("%")[0])
    except ValueError:
        return remote[0]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def brief(error: BaseException) -> str:
    """The innermost cause of an error of the library, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup) and error.exceptions:
        return brief(error.exceptions[0])
    words = " ".join(str(error).split())
    return (words or type(error).__name__)[: limits.EVENT_DETAIL_CHARS]


def addresses_of(connection: INetConn) -> Sequence[Multiaddr]:
    """The remote addresses of a connection."""
    try:
        return connection.get_transport_addresses()
    except Exception:  # noqa: BLE001 - the library raises what it likes when the socket is gone
        return ()
