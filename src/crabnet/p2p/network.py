"""The connections of a libp2p host: dialled one address at a time, accepted within limits (ADR 43)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import trio
from libp2p.abc import IMuxedConn, INetConn, IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.handshaking import Noise
from crabnet.p2p.muxing import Misused, Muxers
from crabnet.p2p.negotiating import bound
from crabnet.p2p.private import PrivateSecurity, Strangers


class Idle(AutoConnector):
    """Does not dial. The library's one dials whatever addresses peers have told, up to half of the greatest number of
    connections, whatever the least number is.
    """

    async def maybe_connect(self) -> None:
        """Nothing to do: ``Peers`` dials."""


class Network(Swarm):
    """A swarm that offers TCP, noise and yamux, and nothing else."""

    def __init__(
        self, key_pair: KeyPair, *, network_key: bytes, connections_max: int, host_connections_max: int
    ) -> None:
        peer_id = ID.from_pubkey(key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
        upgrader = TransportUpgrader({NOISE: noise}, {})
        self.strangers = Strangers()
        """Who has connected without the key of this private network."""
        if network_key:
            upgrader.security_multistream = PrivateSecurity({NOISE: noise}, network_key, self.strangers)
        bound(upgrader.security_multistream)
        upgrader.muxer_multistream = Muxers(self._misused)
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[TCP()],
            connection_config=ConnectionConfig(
                max_connections=connections_max,
                min_connections=0,
                low_watermark=0,
                high_watermark=connections_max,
                max_connections_per_peer=1,
                inbound_upgrade_timeout=limits.P2P_HANDSHAKE_MS / 1000,
                outbound_upgrade_timeout=limits.P2P_HANDSHAKE_MS / 1000,
                inbound_stream_protocol_negotiation_timeout=limits.P2P_NEGOTIATION_MS / 1000,
                outbound_stream_protocol_negotiation_timeout=limits.P2P_NEGOTIATION_MS / 1000,
            ),
        )
        self.auto_connector = Idle(self)
        self._inbound_max = connections_max - min(limits.P2P_OUTBOUND_RESERVED, connections_max // 2)
        self._host_connections_max = host_connections_max
        self._inbound: Counter[str] = Counter()
        """Inbound connections, also those that have not finished their handshake, by IP address or IPv6 network."""
        self._accepted: BoundedTable[str, TokenBucket] = BoundedTable(limits.SOURCES_MAX)
        self.misused: Misused = lambda *_: None
        """Gets what peers do to their connections."""
        self.admits: Callable[[ID], bool] = lambda _: True
        """Says whether a peer may be connected."""
        self.through: Callable[[Multiaddr], Awaitable[IRawConnection]] | None = None
        """Opens a circuit to an address behind a relay."""
        self.refused_connections = 0

    async def dial(self, address: Multiaddr, peer: ID | None) -> INetConn:
        """Connect to one address. With ``peer`` the peer there must prove that id; without, any id will do.

        Raises NetworkError: NODE_UNREACHABLE, TIMEOUT, WRONG_PEER, WRONG_NETWORK_KEY or ADDRESS_INVALID.
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
        raw = await self._reach(address)
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

    async def _reach(self, address: Multiaddr) -> IRawConnection | IMuxedConn:
        if "/p2p-circuit" in str(address):
            if self.through is None:
                raise NetworkError(f"{address} is behind a relay, and relays are off", Reason.ADDRESS_INVALID)
            return await self.through(address)
        transport = self.transport_manager.transport_for_dialing(address)
        if transport is None:
            raise NetworkError(f"no transport of this node can dial {address}", Reason.ADDRESS_INVALID)
        return know_remote(await transport.dial(address))

    async def probe(self, address: Multiaddr, peer: ID) -> None:
        """Find out whether a peer can be reached at an address, without keeping a connection.

        Raises NetworkError (WRONG_PEER), trio.TooSlowError, and whatever the library raises if it cannot.
        """
        with trio.fail_after(limits.P2P_DIAL_MS / 1000):
            raw = await self._reach(address)
            try:
                found = raw.peer_id if isinstance(raw, IMuxedConn) else (await self._secure(raw)).get_remote_peer()
                if found != peer:
                    raise NetworkError(f"at {address} is {found}, not {peer}", Reason.WRONG_PEER)
            finally:
                with trio.CancelScope(shield=True), suppress(Exception):
                    await raw.close()

    async def _secure(self, raw: IRawConnection) -> ISecureConn:
        # The library would not say who is there if it is not the peer that is expected. The callers check the id.
        return await self.upgrader.security_multistream.secure_outbound(raw, None)  # type: ignore[arg-type]

    async def _upgrade(self, raw: IRawConnection) -> IMuxedConn:
        secured = await self._secure(raw)
        return await self.upgrader.upgrade_connection(secured, secured.get_remote_peer())

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Accept a connection, and keep its place until it is closed. The library keeps the place for ever."""
        raw = know_remote(RawConnection(read_write_closer, False))
        await self._accept(raw, maddr, host_group(raw.get_remote_address()), self._host_connections_max)

    async def accept_relayed(self, raw: IRawConnection, address: Multiaddr, relay: ID, caller: ID) -> None:
        """Accept a connection through a relay, if it is from whom the relay says. Returns once it has ended."""
        try:
            await self._accept(raw, address, f"relay {relay}", limits.P2P_RELAYED_CONNECTIONS_MAX, caller)
        finally:
            with trio.CancelScope(shield=True):
                await raw.close()

    async def replace_relayed(self, raw: IRawConnection, peer: ID, *, is_client: bool) -> None:
        """Take a direct connection with a peer, and close those through relays. Who was called is no client.

        Raises NetworkError (WRONG_PEER), trio.TooSlowError, and whatever the library raises.
        """
        with trio.fail_after(limits.P2P_HANDSHAKE_MS / 1000):
            secured = await (self._secure(raw) if is_client else self.upgrader.upgrade_security(raw, False))
            if secured.get_remote_peer() != peer:
                raise NetworkError(f"somebody else than {peer} answers", Reason.WRONG_PEER)
            muxed = await self.upgrader.upgrade_connection(secured, peer)
        for connection in self.get_connections(peer):
            await connection.close()
        await self.add_conn(muxed, direction="outbound" if is_client else "inbound")

    async def _accept(
        self, raw: IRawConnection, maddr: Multiaddr, group: str, most: int, caller: ID | None = None
    ) -> None:
        full = self._inbound.total() >= self._inbound_max or self._inbound[group] >= most
        if full or not self._rate(group).take(int(trio.current_time() * 1000)):
            self.refused_connections += 1
            return
        self._inbound[group] += 1
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            if caller is not None and muxed.peer_id != caller:
                await muxed.close()
            await closed(muxed)
        finally:
            self._inbound[group] -= 1
            if not self._inbound[group]:
                del self._inbound[group]

    def _misused(self, peer: ID, reason: Reason, detail: str, hostile: bool) -> None:
        self.misused(peer, reason, detail, hostile)

    def _rate(self, group: str) -> TokenBucket:
        rate = self._accepted.get(group)
        if rate is None:
            rate = TokenBucket(limits.P2P_CONNECTIONS_ACCEPTED_PER_S, limits.P2P_CONNECTIONS_ACCEPTED_BURST)
        self._accepted.put(group, rate)
        return rate

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


C = TypeVar("C")


def know_remote(connection: C) -> C:
    """Make a connection over IPv6 know its remote address: the library takes addresses of four parts for no address."""
    stream = getattr(connection, "stream", None)
    socket = getattr(getattr(stream, "stream", None), "socket", None)
    if stream is not None and socket is not None:
        with suppress(Exception):
            stream._cached_remote_address = socket.getpeername()[:2]
    return connection


def host_group(remote: tuple[str, int] | None) -> str:
    """The IPv4 address or the IPv6 network that a connection comes from."""
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
