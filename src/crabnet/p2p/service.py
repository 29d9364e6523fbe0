"""The libp2p host of a node, its topics and streams, and the link to the node: the wiring of this process."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from contextlib import suppress

import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service

from crabnet import limits
from crabnet.child import Lifeline
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.checking import Checked, Checker, Verdict, contained
from crabnet.p2p.gossip import Gossip
from crabnet.p2p.identity import Host
from crabnet.p2p.link import Link
from crabnet.p2p.nat import Nat
from crabnet.p2p.network import Network
from crabnet.p2p.peers import Peers
from crabnet.p2p.refusals import Refusals
from crabnet.p2p.router import Router
from crabnet.p2p.streams import Streams
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.transport.p2p_wire import (
    Arrived,
    Block,
    Given,
    Noted,
    Order,
    Path,
    Publish,
    Published,
    Send,
    Sent,
    State,
    TopicState,
)


def _now_ms() -> int:
    """Wall time in milliseconds."""
    return int(time.time() * 1000)


class Service:
    """Everything that runs in the process."""

    def __init__(self, given: Given, lifeline: Lifeline) -> None:
        self.is_ready = False
        self._given = given
        self._lifeline = lifeline
        self._counters: Counter[str] = Counter()
        policy = AdmissionPolicy(given.namespace, given.require_signatures, given.message_ttl_s, given.future_skew_s)
        self._checker = Checker(policy, given.messages_per_s)
        self._link = Link(lifeline.socket)
        self._refusals = Refusals(self._link.tell)
        self.network = Network(
            create_new_key_pair(given.seed),
            network_key=given.network_key,
            connections_max=given.peers_max,
            host_connections_max=given.address_connections_max,
        )
        self.network.misused = self._refusals.connection
        self.nat = Nat(given, self.network)
        self.host = Host(self.network, self._identified_badly)
        self.nat.attach(self.host)
        self.network.set_stream_handler(self._guarded)
        topics = {*given.subscribe, *given.publish}
        self.router = Router(topics, self._refused_gossip)
        self.gossip = Gossip(
            self.host,
            self.router,
            topics,
            self._admit,
            self._check,
            self._deliver,
            self._refused_gossip,
            self._foreign_topic,
        )
        self.streams = Streams(
            self.host, self._check_stream, self._deliver_from_stream, self._refusals.note, given.messages_per_s
        )
        self.peers = Peers(
            given,
            self.host,
            self.network,
            self.streams,
            self._link.tell,
            random.random,
            self._refusals.stream_failed,
        )
        self.peers.watchers.append(self.nat)
        self.peers.discovery.reachability = lambda: self.nat.reachability
        self._own = str(self.host.get_id())

    async def run(self) -> None:
        """Listen, connect and pass messages on, until SIGTERM or the end of the node.

        Raises NetworkError if an address cannot be listened on.
        """
        listen = self.peers.listening_addresses()
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with (
                self.host.run(listen),
                background_trio_service(self.gossip),
                background_trio_service(self.router),
            ):
                await self.gossip.wait_until_ready()
                self.streams.offer()
                for topic in self._given.subscribe:
                    await self.gossip.subscribe(topic)
                addresses = [str(each) for each in self.host.get_transport_addrs()]
                if len(addresses) < len(listen):
                    raise NetworkError(f"cannot listen on {', '.join(map(str, listen))}", Reason.ADDRESS_IN_USE)
                self._lifeline.ready(detail=self._own, addresses=[f"{each}/p2p/{self._own}" for each in addresses])
                self.is_ready = True
                async with trio.open_nursery() as nursery:
                    for job in (self._link.write, self._obey, self._report, *self.peers.jobs(), *self.nat.jobs()):
                        nursery.start_soon(job)
                    await anext(signals)
                    nursery.cancel_scope.cancel()

    # --- from the network ------------------------------------------------------------------------------

    async def _guarded(self, stream: INetStream) -> None:
        """Handle an inbound stream. An error of its protocol ends the stream, and not the process."""
        try:
            if not self.peers.admits_stream(stream):
                await stream.reset()
                return
            await self.host._swarm_stream_handler(stream)
        except StreamError:  # it has ended, with its connection or because the peer wanted it
            await stream.reset()
        except Exception as error:  # noqa: BLE001 - the library raises what it likes for what a stranger sends
            self._counters["stream_errors"] += 1
            with suppress(Exception):
                await stream.reset()
            self._refusals.stream_failed(stream.muxed_conn.peer_id, error)

    def _identified_badly(self, peer: ID, detail: str) -> None:
        self._refusals.connection(peer, Reason.MALFORMED, detail, hostile=True)

    def _admit(self, peer: ID) -> Checked | None:
        return self._checker.admit(str(peer), _now_ms())

    def _check(self, peer: ID, _topic: str, data: bytes) -> Checked:
        if self._link.is_full:
            self._counters["gossip_overflow"] += 1
            return Checked(Verdict.IGNORE, Reason.QUEUE_FULL, "the node does not keep up; sync brings it")
        return contained(lambda: self._checker.gossip(str(peer), data, _now_ms()))

    def _check_stream(self, peer: ID, data: bytes) -> Checked:
        return contained(lambda: self._checker.stream(str(peer), data, _now_ms()))

    def _deliver(self, peer: ID, topic: str, data: bytes) -> None:
        self._counters["gossip_received"] += 1
        self._link.tell(Arrived(str(peer), Path.GOSSIP, topic, [data]))

    async def _deliver_from_stream(self, peer: ID, path: Path, messages: list[bytes]) -> None:
        self._counters[f"{path.value}_received"] += len(messages)
        await self._link.tell_when_there_is_room(Arrived(str(peer), path, "", messages))

    def _refused_gossip(self, peer: ID, checked: Checked, size_bytes: int) -> None:
        self._refusals.note(peer, Path.GOSSIP, checked, size_bytes)

    def _foreign_topic(self, peer: ID, topic: str) -> None:
        self._counters["foreign_subscriptions"] += 1
        self._refusals.foreign_topic(peer, topic)

    # --- from the node ---------------------------------------------------------------------------------

    async def _obey(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for order in await self._link.orders():
                    self._carry_out(order, nursery)

    def _carry_out(self, order: Order, nursery: trio.Nursery) -> None:
        if isinstance(order, Publish):
            self._publish(order)
        elif isinstance(order, Send):
            nursery.start_soon(self._send, order)
        elif isinstance(order, Block):
            self.peers.block(order.peer, order.duration_ms)

    def _publish(self, order: Publish) -> None:
        taken = 0
        for topic in order.topics:
            taken += self.gossip.publish_to([topic], order.data)
            self._counters["gossip_sent"] += 1
        reason = "" if taken else (Reason.QUEUE_FULL if self.gossip.peers else Reason.NO_PEERS)
        self._link.tell(Published(order.number, taken, reason))

    async def _send(self, order: Send) -> None:
        peer = ID.from_string(order.peer)
        reason: Reason | None = Reason.NODE_UNREACHABLE
        if self.network.get_connections(peer):
            reason = await self.streams.send(peer, order.path, order.messages)
            self._counters[f"{order.path.value}_sent"] += 0 if reason else len(order.messages)
        self._link.tell(Sent(order.number, reason or ""))

    async def _report(self) -> None:
        """Tell the node the state of this process, and what was refused, every second."""
        while True:
            await trio.sleep(limits.P2P_REPORT_MS / 1000)
            self._refusals.tell()
            strangers = self.network.strangers.take()
            if strangers is not None:
                self._link.tell(Noted("strangers_refused", strangers))
            self._link.tell(self._state())

    def _state(self) -> State:
        connections = self.network.get_connections()
        return State(
            connections=len(connections),
            streams=sum(len(each.get_streams()) for each in connections),
            topics=[
                TopicState(topic, len(self.gossip.peer_topics.get(topic, ())), len(self.router.mesh.get(topic, ())))
                for topic in sorted({*self._given.subscribe, *self._given.publish})
            ],
            addresses=[str(each) for each in self.host.get_addrs()],
            observed=self.nat.observed(),
            reachability=self.nat.reachability,
            relays=self.nat.relays(),
            counters={
                **self._counters,
                **self.nat.counters(),
                **self.peers.discovery.counters(),
                "connections_refused": self.network.refused_connections,
                "strangers_refused": self.network.strangers.total,
            },
        )
