"""The UDP part of a node: one transport, and everything that is sent and received over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import NetworkError
from crabnet.node.config import sends_datagrams, sends_per_s
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.intake import Intake
from crabnet.node.network.network import Network
from crabnet.node.network.outbox import Outbox, steady_ms
from crabnet.node.network.serving import Serving
from crabnet.node.network.targets import Targets
from crabnet.node.part import Job, Part
from crabnet.settings import Settings
from crabnet.source import Scheme, is_udp
from crabnet.transport.base import Transport, address_of, parse_address
from crabnet.transport.udp import UdpTransport

Notify = Callable[[str, dict[str, FieldValue]], None]


class UdpCarrier:
    """Brings stored messages to addresses of datagrams."""

    def __init__(self, transport: Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox

    def has_room(self, to: str) -> bool:  # noqa: ARG002
        """See ``Carrier``. The kernel has room, or loses datagrams."""
        return True

    async def deliver(self, messages: list[bytes], to: str) -> int:
        """See ``Carrier``."""
        address = address_of(to)
        for sent, message in enumerate(messages):
            try:
                for datagram in self._outbox.sent.split(message, steady_ms()):
                    await self._transport.send(datagram, address)
                    self._outbox.datagrams_sent += 1
            except NetworkError:
                return sent
        return len(messages)


class UdpNetwork(Part):
    """The UDP part of a node. With ``listen`` it receives, serves and sends; without ``listen`` it only sends."""

    transport: UdpTransport
    targets: Targets
    outbox: Outbox
    network: Network

    def __init__(
        self,
        settings: Settings,
        core: Core,
        intake: Intake,
        serving: Serving,
        deliveries: Deliveries,
        notify: Notify,
        clock_ms: Callable[[], int],
        *,
        listen: bool,
    ) -> None:
        self._settings = settings
        self._core = core
        self._intake = intake
        self._serving = serving
        self._deliveries = deliveries
        self._notify = notify
        self._clock_ms = clock_ms
        self._listen = listen
        self.listen_addresses: list[str] = []

    async def open(self) -> None:
        """Bind the sockets. Raises NetworkError if an address cannot be used."""
        settings, core, notify = self._settings, self._core, self._notify
        listen = [parse_address(each) for each in settings.listen_addrs] if self._listen else []
        try:
            transport = await UdpTransport.open(*listen, receive_buffer_bytes=settings.udp_receive_buffer_bytes)
        except NetworkError as error:
            notify(
                "listener_failed",
                {"address": settings.listen_addr, "reason": error.reason.value, "detail": error.message},
            )
            raise
        self.transport = transport
        configured = list(dict.fromkeys([*settings.udp_announce_addrs, *settings.udp_bootstrap_peers]))
        self.targets = Targets(configured, transport.resolver, transport.family, self._trust, notify)
        try:
            await self.targets.look_up()
        except BaseException:
            await transport.aclose()
            raise
        self.outbox = Outbox(
            transport,
            self.targets.addresses,
            neighbours=lambda: list(filter(is_udp, core.confirmed_peers())),
            is_present=core.neighbours.is_present,
            legacy=settings.legacy_peers,
            datagrams_per_s=sends_per_s(settings, Scheme.UDP),
            deliveries=self._deliveries,
            notify=notify,
        )
        self.network = Network(core, transport, self.outbox, self._intake, notify, self._clock_ms)
        self._serving.carriers[Scheme.UDP] = UdpCarrier(transport, self.outbox)
        self.listen_addresses = [str(address) for address in transport.local_addresses]
        for address in self.listen_addresses:
            notify(
                "listener_started",
                {"transport": "udp", "address": address, "bytes": transport.receive_buffer_bytes},
            )

    def _trust(self, addresses: frozenset[str]) -> None:
        self._core.neighbours.trusted = addresses

    def jobs(self) -> Sequence[Job]:
        """The jobs for sending and, on a node that listens, for receiving, serving, and looking up configured peers."""
        sending = Job(self.outbox.run, "outbox")
        if not self._listen:
            return [sending]
        following = Job(self.targets.run, "targets")
        return [sending, following, self.receiving()]

    def receiving(self) -> Job:
        """The job that receives on all sockets, those that only send included."""
        return Job(self.network.receive)

    def on_durable(self, effects: Effects) -> None:
        """Queue the envelopes to send."""
        if effects.sends:
            everybody = sends_datagrams(self._settings, listen=self._listen)
            with self._core.mending.separately("outbox"):
                for send in effects.sends:
                    if (everybody and send.to is None) or (send.to is not None and is_udp(send.to)):
                        self.outbox.put(send)

    async def finish(self) -> bool:
        """Send all queued envelopes, for at most SHUTDOWN_SEND_S seconds."""
        with trio.move_on_after(limits.SHUTDOWN_SEND_S):
            await self.outbox.drain()
        return True

    async def close(self) -> None:
        """Close the sockets."""
        await self.transport.aclose()
