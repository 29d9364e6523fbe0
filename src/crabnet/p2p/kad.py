"""Kademlia over libp2p streams: answers as a server, asks as a client (libp2p specification "Kademlia DHT").

libp2p's own ``KadDHT`` is not used, but for its messages. It dials whatever address a stranger names, keeps these
addresses without a bound, and finds only itself once it provides a key (ADR 43).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.kad_messages import Ask, Kad, MalformedKadError, Named, bytes_of, kad_of, name_of
from crabnet.p2p.kad_tables import Provider, Providers, Server, Servers
from crabnet.p2p.scope import Scope, told

PROTOCOL: Final = TProtocol("/crabnet/kad/1.0.0")
"""Crabnet's own DHT, as the specification recommends for separate networks."""


class KadNode:
    """The tables of this node, its answers, and its questions to connected peers."""

    def __init__(self, host: IHost, scope: Callable[[ID], Scope], refused: Callable[[ID, Exception], None]) -> None:
        """``scope`` is that of the address of a connected peer. ``refused`` gets broken streams."""
        self._host = host
        self._scope = scope
        self._refused = refused
        self.own = host.get_id().to_bytes()
        self.servers = Servers(self.own)
        self.providers = Providers(random.sample)
        self._rates: BoundedTable[ID, TokenBucket] = BoundedTable(limits.SOURCE_PEERS_MAX)
        self._streams: Counter[ID] = Counter()
        """Inbound streams that are open."""
        self._clients: BoundedTable[ID, int] = BoundedTable(limits.KAD_CLIENTS_MAX)
        """Peers that are no servers, and until when (ms) they are not asked again."""
        self.is_server = False
        self.asked = 0
        self.answered = 0

    def serve(self, *, wanted: bool) -> None:
        """Be a server from now on, or not."""
        if wanted and not self.is_server:
            self._host.set_stream_handler(PROTOCOL, self._handle)
        elif not wanted and self.is_server:
            self._host.remove_stream_handler(PROTOCOL)
        self.is_server = wanted

    # --- as a server -----------------------------------------------------------------------------------

    async def _handle(self, stream: INetStream) -> None:
        """Answer the messages of one stream. Whatever it sends ends nothing but this stream."""
        peer = stream.muxed_conn.peer_id
        full = self._streams.total() >= limits.KAD_STREAMS_MAX
        if full or self._streams[peer] >= limits.P2P_STREAMS_PER_PROTOCOL_MAX:
            await stream.reset()
            return
        self._streams[peer] += 1
        try:
            with trio.move_on_after(limits.KAD_STREAM_MS / 1000):
                for _ in range(limits.KAD_MESSAGES_PER_STREAM_MAX):
                    data = await read_varint_prefixed_bytes_limited(stream, limits.KAD_REQUEST_BYTES_MAX)
                    if not data or not self.is_welcome(peer):
                        break
                    answer = self.answer(peer, kad_of(data))
                    if answer is not None:
                        await stream.write(encode_varint_prefixed(bytes_of(answer)))
        except (StreamEOF, StreamClosed, StreamReset, IncompleteReadError):
            return
        except MalformedKadError as error:
            self._refused(peer, error)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.reset()

    def is_welcome(self, peer: ID) -> bool:
        """Count one message of a peer. False if it sends too many."""
        rate = self._rates.get(peer) or TokenBucket(limits.KAD_REQUESTS_PER_S)
        self._rates.put(peer, rate)
        return rate.take(steady_ms())

    def answer(self, peer: ID, asked: Kad) -> Kad | None:
        """The answer to a message of a peer. A provider may only provide itself."""
        self.answered += 1
        if asked.ask is Ask.ADD_PROVIDER:
            for each in asked.providers:
                addresses = told(each.addresses, str(peer), self._scope(peer))
                if each.peer == peer.to_bytes() and addresses:
                    self.providers.add(asked.key, each.peer, addresses, steady_ms())
            return None
        if asked.ask is Ask.PING:
            return Kad(Ask.PING)
        known: list[Provider] = []
        if asked.ask is Ask.GET_PROVIDERS:
            known = self.providers.of(asked.key, steady_ms())
        return Kad(
            asked.ask,
            asked.key,
            self._tell(peer, self.servers.closest(asked.key, limits.KAD_TOLD_MAX)),
            self._tell(peer, known),
        )

    def _tell(self, asker: ID, known: Sequence[Server | Provider]) -> list[Named]:
        """What an asker may know: it does not learn of addresses in networks that it is not in."""
        scope = self._scope(asker)
        found = []
        for each in known:
            addresses = told(each.addresses, name_of(each.peer), scope)
            if addresses and each.peer != asker.to_bytes():
                found.append(Named(each.peer, addresses))
        return found

    # --- as a client -----------------------------------------------------------------------------------

    def may_ask(self, peer: ID) -> bool:
        """False for a peer that was no server a while ago."""
        until_ms = self._clients.get(peer)
        return until_ms is None or steady_ms() >= until_ms

    async def ask(self, peer: ID, key: bytes, provided: Sequence[str]) -> Kad | None:
        """Ask a connected peer who provides a key, and tell it that this node does, at the addresses ``provided``.

        None if the peer is no server, or gives no good answer.
        """
        if not self.may_ask(peer):
            return None
        answer: Kad | None = None
        with trio.move_on_after(limits.KAD_ANSWER_MS / 1000):
            try:
                answer = await self._exchange(peer, key, provided)
            except Exception:  # noqa: BLE001 - whatever a stranger does to a stream ends nothing but this question
                answer = None
        if answer is None:
            self.servers.failed(peer.to_bytes())
            self._clients.put(peer, steady_ms() + limits.KAD_NO_SERVER_MS)
            return None
        self.asked += 1
        return answer

    async def _exchange(self, peer: ID, key: bytes, provided: Sequence[str]) -> Kad:
        stream = await self._host.new_stream(peer, [PROTOCOL])
        try:
            await stream.write(encode_varint_prefixed(bytes_of(Kad(Ask.GET_PROVIDERS, key))))
            answer = kad_of(await read_varint_prefixed_bytes_limited(stream, limits.KAD_ANSWER_BYTES_MAX))
            if answer.ask is not Ask.GET_PROVIDERS:
                raise MalformedKadError("an answer to another question")
            if provided:
                own = Named(self.own, list(provided))
                await stream.write(encode_varint_prefixed(bytes_of(Kad(Ask.ADD_PROVIDER, key, providers=[own]))))
            await stream.close()
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.reset()
            raise
        return answer

    def is_known(self, peer: ID, addresses: list[str]) -> None:
        """Keep a server that answered, with the addresses at which it can be told to others."""
        self._clients.pop(peer)
        if addresses:
            self.servers.answered(Server(peer.to_bytes(), addresses, steady_ms()))
