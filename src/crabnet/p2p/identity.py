"""The libp2p host with a strict identify: what peers say of themselves is short, and is about themselves (ADR 43)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost, _is_relayed_connection
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.p2p.negotiating import Answering, Asking

Refused = Callable[[ID, str], None]
"""Gets a peer that says something hostile of itself, and words."""


class IdentityError(Exception):
    """A peer says something impossible of itself."""


class Host(BasicHost):
    """A host that bounds what it reads of strangers while it identifies them and agrees on protocols."""

    def __init__(self, network: Swarm, refused: Refused) -> None:
        self.told: Callable[[], list[Multiaddr]] = list
        """The addresses of this host, without its own id."""
        super().__init__(network)
        self._refused = refused
        self.multiselect = Answering(self.multiselect.handlers)
        self.multiselect_client = Asking()
        self._pushes: BoundedTable[ID, TokenBucket] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self.set_stream_handler(ID_PUSH, self._take_push)

    def get_addrs(self) -> list[Multiaddr]:
        """The addresses to tell peers. The library cuts an address through a relay off behind that of the relay."""
        own = Multiaddr(f"/p2p/{self.get_id()}")
        return [each.encapsulate(own) for each in self.told()]

    async def _identify_peer(self, peer_id: ID, *, reason: str) -> None:  # noqa: ARG002 - the name is the library's
        """Ask a peer who it is. The library takes a megabyte of addresses, and keeps it."""
        connections = self._network.get_connections(peer_id)
        if not connections:
            return
        with suppress(Exception):
            with trio.move_on_after(limits.P2P_NEGOTIATION_MS / 1000):
                stream = await self.new_stream(peer_id, [IDENTIFY])
                try:
                    await self._learn(peer_id, connections[0], stream)
                finally:
                    await _end(stream)

    async def _take_push(self, stream: INetStream) -> None:
        """A peer says that something about it has changed."""
        peer = stream.muxed_conn.peer_id
        rate = self._pushes.get(peer)
        if rate is None:
            rate = TokenBucket(limits.IDENTIFY_PUSHES_PER_MIN / 60, limits.IDENTIFY_PUSHES_PER_MIN)
        self._pushes.put(peer, rate)
        connections = self._network.get_connections(peer)
        if not rate.take(int(trio.current_time() * 1000)):
            self._refused(peer, "too many messages of identify")
        elif connections:
            with trio.move_on_after(limits.P2P_NEGOTIATION_MS / 1000), suppress(IdentityError):
                await self._learn(peer, connections[0], stream, pushed=True)
        await _end(stream)

    async def _learn(self, peer: ID, connection: INetConn, stream: INetStream, *, pushed: bool = False) -> None:
        """Read what a peer says of itself. Raises IdentityError."""
        try:
            content = await read_varint_prefixed_bytes_limited(stream, limits.IDENTIFY_BYTES_MAX)
            message = _message(peer, content)
        except (MessageTooLarge, ParseError, IdentityError) as error:
            self._refused(peer, f"identify: {error}"[: limits.EVENT_DETAIL_CHARS])
            raise IdentityError(str(error)) from error
        except (IOException, StreamError):
            return
        await update_peerstore_from_identify(self.peerstore, peer, message)
        if not pushed and self._network.get_connections(peer):
            self._identified_peers[peer] = ""
            self._observe(connection, message)

    def _observe(self, connection: INetConn, message: Identify) -> None:
        """Note the address from which a peer sees this node. Over a relay it would be that of the relay."""
        manager = self._observed_addr_manager
        if manager is None or not message.observed_addr or _is_relayed_connection(connection):
            return
        with suppress(Exception):
            manager.record_observation(connection, Multiaddr(message.observed_addr), self.get_transport_addrs())

    def _on_notifee_disconnected(self, conn: INetConn) -> None:
        """Forget what a peer said of itself. The library keeps it, key and addresses, for everybody who ever came."""
        super()._on_notifee_disconnected(conn)
        peer = conn.muxed_conn.peer_id
        if not self._network.get_connections(peer):
            with suppress(Exception):
                self.peerstore.clear_peerdata(peer)


def _message(peer: ID, content: bytes) -> Identify:
    """Raises IdentityError."""
    try:
        message = Identify.FromString(content)
        key = message.public_key
        if len(key) > limits.P2P_KEY_BYTES_MAX or len(message.signedPeerRecord) > limits.P2P_RECORD_BYTES_MAX:
            raise IdentityError("a key or record is longer than any that is in use")
        owner = ID.from_pubkey(deserialize_public_key(key)) if key else peer
    except IdentityError:
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        raise IdentityError(f"it cannot be read: {type(error).__name__}") from error
    if owner != peer:
        raise IdentityError("it says that it has the key of another peer")
    del message.listen_addrs[limits.P2P_ADDRESSES_PER_PEER_MAX * 4 :]
    return message


async def _end(stream: INetStream) -> None:
    with trio.move_on_after(limits.P2P_CLOSE_MS / 1000, shield=True), suppress(Exception):
        await stream.close()
