"""The libp2p part of a node: its process, and everything that comes and goes over it (ADR 43)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

import msgspec
import trio

from crabnet import limits
from crabnet.core.commands import Misbehaved, PeerJoined, PeerLeft, Received
from crabnet.core.core import Core
from crabnet.core.effects import Effects, FieldValue
from crabnet.errors import NetworkError, Reason, UsageError
from crabnet.node.children.children import Children
from crabnet.node.children.spec import ChildSpec
from crabnet.node.children.supervision import Child
from crabnet.node.network.dht_outbox import DhtOutbox
from crabnet.node.network.intake import Intake
from crabnet.node.network.p2p_book import BookFile
from crabnet.node.part import Job, Part
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.source import bare, is_p2p, p2p_source
from crabnet.transport.dht import DhtTransport
from crabnet.transport.p2p_addresses import check_listener
from crabnet.transport.p2p_wire import (
    Arrived,
    Book,
    Connected,
    Disconnected,
    Given,
    Known,
    Misused,
    Noted,
    Report,
    State,
)

NAME: Final = "libp2p"
_MODULES: Final = ("libp2p", "multiaddr")
NOT_IN_DHT: Final = "only a running node is in the dht network"
_INSTALL: Final = "install crabnet with its extra `dht` (README.md says how), or set --network udp"
_NOTED: Final = frozenset(
    {"bootstrap_failed", "bootstrap_set_aside", "listener_fallback", "topic_unknown", "strangers_refused"}
)
"""The events that the process may report."""

Notify = Callable[[str, dict[str, FieldValue]], None]


def demand_libp2p() -> None:
    """Raises UsageError (UNAVAILABLE) if the extra is not installed."""
    missing = next((module for module in _MODULES if find_spec(module) is None), None)
    if missing is not None:
        raise UsageError(f"network = dht: {missing} is not installed; {_INSTALL}", Reason.UNAVAILABLE)


class DhtNetwork(Part):
    """Receives and sends while the process runs. Without it sync waits, and everything else goes on."""

    child: Child

    def __init__(
        self,
        given: Given,
        core: Core,
        intake: Intake,
        outbox: DhtOutbox,
        children: Children,
        book: BookFile,
        notify: Notify,
        clock_ms: Callable[[], int],
    ) -> None:
        self._given = given
        self._core = core
        self._intake = intake
        self.outbox = outbox
        self._children = children
        self._book = book
        self._notify = notify
        self._clock_ms = clock_ms
        self.state: State | None = None
        """What the process last said of itself; None while it does not run."""
        self._wrong = ""
        self.counted: Counter[str] = Counter()
        """What all lives of the process have counted."""
        self._listening: list[str] = []
        """Where the process listened when it last began."""

    @property
    def known(self) -> list[Known]:
        """The addresses of peers that have worked."""
        return self._book.known

    async def open(self) -> None:
        """Have the process kept. Raises UsageError if it cannot run here, NetworkError if it could not listen."""
        demand_libp2p()
        await self._check_listeners()
        known, wrong = await trio.to_thread.run_sync(self._book.read)
        self._tell_file(wrong)
        self._core.neighbours.expects_p2p = bool(self._given.bootstrap or known)
        self.child = self._children.keep(
            ChildSpec(
                name=NAME,
                entry="crabnet.p2p.main:serve",
                without="the node is not in the dht network",
                given=self._given_now,
                handshake_ms=limits.P2P_START_MS,
                restart_ms=limits.P2P_RESTART_MS,
            )
        )

    async def _check_listeners(self) -> None:
        """Fail the start if an address cannot be listened on. The process would be tried again and again instead."""
        for address in self._given.listen:
            try:
                await self._check_listener(address)
            except NetworkError as error:
                if error.reason is Reason.ADDRESS_IN_USE and self._given.listen_fallback:
                    continue
                detail = error.message[: limits.EVENT_DETAIL_CHARS]
                self._notify("listener_failed", {"address": address, "reason": error.reason.value, "detail": detail})
                raise

    async def _check_listener(self, address: str) -> None:
        wait_ms = 0 if self._given.listen_fallback else limits.P2P_LISTEN_WAIT_MS
        until_s = trio.current_time() + wait_ms / 1000
        while True:
            try:
                return check_listener(address)
            except NetworkError as error:
                if error.reason is not Reason.ADDRESS_IN_USE or trio.current_time() >= until_s:
                    raise
            await trio.sleep(limits.P2P_LOOK_MS / 1000)

    def _given_now(self) -> bytes:
        """What a life of the process begins with: the addresses known by now, and the ports of the life before."""
        given = msgspec.structs.replace(self._given, known=self._book.known)
        if self._listening and all(parse_multiaddr(each).port == 0 for each in given.listen):
            given = msgspec.structs.replace(given, listen=self._listening, listen_fallback=True)
        return msgspec.msgpack.encode(given)

    def jobs(self) -> Sequence[Job]:
        """The jobs that talk with the process through all its lives, send, and keep the file of peers."""
        return [Job(self._keep), Job(self.outbox.run, "dht_outbox"), Job(self._remember, "peers_file")]

    def on_durable(self, effects: Effects) -> None:
        """Queue what is to be sent, and have blocked peers refused."""
        if effects.sends:
            with self._core.mending.separately("dht_outbox"):
                for send in effects.sends:
                    if send.to is None or is_p2p(send.to):
                        self.outbox.put(send)
        for block in effects.blocks:
            if is_p2p(block.source):
                self.outbox.block(bare(block.source), block.duration_ms)

    async def _remember(self) -> None:
        while True:
            await trio.sleep(limits.PEERS_SAVE_S)
            await self._save()

    async def _save(self) -> None:
        self._tell_file(await trio.to_thread.run_sync(self._book.write))

    def _tell_file(self, wrong: str) -> None:
        """Report what is wrong with the file, once for each cause."""
        if wrong and wrong != self._wrong:
            self._notify("peers_file_bad", {"file": self._book.name, "detail": wrong[: limits.EVENT_DETAIL_CHARS]})
        self._wrong = wrong

    async def finish(self) -> bool:
        """Write the file of peers a last time."""
        await self._save()
        return True

    # --- from the process ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await self.child.running()
            stream = self.child.stream
            if stream is not None:
                self._listening = [each.rpartition("/p2p/")[0] for each in self.child.health().addresses]
                await self._live(DhtTransport(stream))
            await trio.sleep(limits.P2P_LOOK_MS / 1000)

    async def _live(self, transport: DhtTransport) -> None:
        """One life of the process."""
        for address in self.child.health().addresses:
            self._notify("listener_started", {"transport": "dht", "address": address})
        self.outbox.begin(transport)
        for block in self._core.blocked_peers(self._clock_ms()):
            self.outbox.block(bare(block.source), block.duration_ms)
        try:
            while True:
                arrived: list[Arrived] = []
                with trio.fail_after(limits.P2P_SILENCE_MS / 1000):
                    reports = await transport.receive()
                for report in reports:
                    if isinstance(report, Arrived):
                        arrived.append(report)
                        continue
                    await self._arrived(arrived)
                    arrived = []
                    self._told(report)
                await self._arrived(arrived)
                await self._intake.room()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except trio.TooSlowError:
            self.child.give_up(Reason.TIMEOUT, f"it has said nothing for {limits.P2P_SILENCE_MS} ms")
        except (ValueError, msgspec.MsgspecError) as error:
            self.child.give_up(Reason.MALFORMED, f"it said something that is no report: {error}")
        finally:
            transport.end()
            self.state = None
            for peer in self.outbox.peers():
                self._intake.enter(PeerLeft(p2p_source(peer)))
            self.outbox.end()

    async def _arrived(self, reports: list[Arrived]) -> None:
        """Take messages, those of several peers together: a slice of one costs nearly as much as one of many."""
        arrived = [(p2p_source(report.peer), data) for report in reports for data in report.messages]
        now_ms = self._clock_ms()
        for at in range(0, len(arrived), limits.RECEIVE_SLICE):
            effects = Effects()
            messages = []
            for source, data in arrived[at : at + limits.RECEIVE_SLICE]:
                self._core.mending.handling(data, source)
                if self._core.allows(source, now_ms, effects, len(data)):
                    messages.append(Received(source, data))
            await self._intake.put(messages, effects, now_ms)

    def _told(self, report: Report) -> None:
        if isinstance(report, Connected):
            self.outbox.joined(report.peer)
            self._intake.enter(PeerJoined(p2p_source(report.peer), report.peer))
        elif isinstance(report, Disconnected):
            if self.outbox.left(report.peer):
                self._intake.enter(PeerLeft(p2p_source(report.peer)))
        elif isinstance(report, Misused):
            self._intake.enter(
                Misbehaved(
                    p2p_source(report.peer),
                    _reason(report.reason),
                    report.count,
                    report.hostile,
                    report.detail,
                    report.size_bytes,
                )
            )
        elif isinstance(report, Noted):
            if report.kind in _NOTED:
                self._notify(report.kind, report.fields)
        elif isinstance(report, Book):
            self._book.put(report.known)
        elif isinstance(report, State):
            before: Mapping[str, int] = {} if self.state is None else self.state.counters
            for name, count in report.counters.items():
                if name in self.counted or len(self.counted) < limits.P2P_COUNTERS_MAX:
                    self.counted[name] += max(0, count - before.get(name, 0))
            self.state = report


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.MALFORMED
