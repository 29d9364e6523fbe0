"""The UDP part of a node: one transport, and everything that is sent, received and served over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import NetworkError
from crabnet.node.config import sends_per_s
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.indexing import History
from crabnet.node.network.network import Network
from crabnet.node.network.outbox import Outbox
from crabnet.node.network.serving import Paces, Serving
from crabnet.node.network.signatures import Signatures
from crabnet.node.network.targets import Targets
from crabnet.node.part import Job, Part
from crabnet.settings import Settings
from crabnet.transport.base import parse_address
from crabnet.transport.udp import UdpTransport

Notify = Callable[[str, dict[str, FieldValue]], None]


class UdpNetwork(Part):
    """The UDP part of a node. With ``listen`` it receives, serves and sends; without ``listen`` it only sends."""

    transport: UdpTransport
    targets: Targets
    outbox: Outbox
    network: Network
    serving: Serving

    def __init__(
        self,
        settings: Settings,
        core: Core,
        committer: Committer,
        history: History,
        signatures: Signatures,
        notify: Notify,
        clock_ms: Callable[[], int],
        *,
        listen: bool,
    ) -> None:
        self._settings = settings
        self._core = core
        self._committer = committer
        self._history = history
        self._signatures = signatures
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
        configured = list(dict.fromkeys([*settings.announce_addrs, *settings.bootstrap_peers]))
        self.targets = Targets(configured, transport.resolver, transport.family, self._trust, notify)
        try:
            await self.targets.look_up()
        except BaseException:
            await transport.aclose()
            raise
        self.outbox = Outbox(
            transport,
            self.targets.addresses,
            neighbours=core.confirmed_peers,
            is_present=core.neighbours.is_present,
            legacy=settings.legacy_peers,
            datagrams_per_s=sends_per_s(settings),
            notify=notify,
        )
        self.network = Network(core, transport, self.outbox, self._committer, notify, self._clock_ms, self._signatures)
        paces = Paces(settings.sync_serve_bytes_per_s, settings.sync_serve_peer_bytes_per_s)
        self.serving = Serving(
            core, transport, self.outbox, self._committer, notify, self._clock_ms, self._history, paces
        )
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
        return [sending, following, self.receiving(), Job(self.serving.run, "serving")]

    def receiving(self) -> Job:
        """The job that receives on all sockets, those that only send included."""
        return Job(self.network.receive)

    def on_durable(self, effects: Effects) -> None:
        """Queue the envelopes to send and to serve."""
        separately = self._core.mending.separately
        if effects.sends:
            with separately("outbox"):
                for send in effects.sends:
                    self.outbox.put(send)
        if effects.serves or effects.proofs or effects.serves_named:
            with separately("serving"):
                for serve in effects.serves:
                    self.serving.put(serve)
                for proof in effects.proofs:
                    self.serving.put_single(proof)
                for named in effects.serves_named:
                    self.serving.put_single(named)

    async def finish(self) -> bool:
        """Send all queued envelopes, for at most SHUTDOWN_SEND_S seconds."""
        with trio.move_on_after(limits.SHUTDOWN_SEND_S):
            await self.outbox.drain()
        return True

    async def close(self) -> None:
        """Close the sockets."""
        await self.transport.aclose()
