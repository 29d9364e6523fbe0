"""A real node under attack over libp2p: it answers, its libp2p process lives, honest peers are served, all is told."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio

from crabnet.control.client import call
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, wait_for

if TYPE_CHECKING:
    from tests.hostile_p2p.case import Attack, Target

pytestmark = needs_libp2p
CHILD_MIB_MAX = 200
"""What the libp2p process may need at most, whatever is done to it. It begins with about 100."""
ANSWER_MS = 8_000


def corpus() -> tuple[Sequence[Attack], Sequence[Attack]]:
    """The quick attacks and the others; none where libp2p is not installed."""
    if find_spec("libp2p") is None:
        return [], []
    from tests.hostile_p2p.corpus import QUICK, SLOW

    return QUICK, SLOW


QUICK, SLOW = corpus()


class Victim:
    """A node under attack, and an honest neighbour that is connected all the time."""

    def __init__(self, nodes: Nodes) -> None:
        self.node = dht_node(
            nodes,
            "victim",
            (),
            "--newcomer-envelopes-per-sec",
            "0",
            "--dht-relay",
            "server",
            "--dht-rendezvous",
            "server",
        )
        self.neighbour = dht_node(nodes, "neighbour", [self.node])
        self.neighbour.knows(1)
        self.node.knows(1)
        self._told = 0

    @property
    def child(self) -> int:
        """The libp2p process."""
        return int(cast(int, self.node.child()["pid"]))

    def memory_mib(self, child: int) -> int:
        """What the process has needed at most."""
        status = Path(f"/proc/{child}/status").read_text(encoding="ascii")
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) // 1024

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The control socket answers all the time."""
        over, failures, answers = threading.Event(), [], 0

        def ask() -> None:
            nonlocal answers
            while True:
                try:
                    call(self.node.data_dir, "id", {}, ANSWER_MS)
                    answers += 1
                except Exception as error:  # noqa: BLE001 - whatever it is, the node has not answered
                    failures.append(error)
                if over.wait(0.05):
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            over.set()
            asking.join()
        assert not failures
        assert answers

    def endures(self, attacks: Sequence[Attack]) -> None:
        """Have these done to the node, at once. It must stay as it was, and tell of it."""
        from tests.support.hostile_p2p import Identity

        target = target_of(self.node)
        names = {each.name: Identity(each.name) for each in attacks}
        child = self.child

        async def attack() -> None:
            async with trio.open_nursery() as nursery:
                for each in attacks:
                    nursery.start_soon(each.run, target, names[each.name])

        with self.answering():
            trio.run(attack)
            for each in attacks:
                self.tells(each, names[each.name].source)
            self.serves()
        assert self.child == child
        assert self.memory_mib(child) < CHILD_MIB_MAX

    def tells(self, attack: Attack, source: str) -> None:
        """Wait for the events that belong to an attack."""
        if attack.event:
            told: dict[str, object] = {"peer": source.removeprefix("p2p:")}
            if attack.event != "topic_unknown":
                told = {"address": source, "reason": attack.reason and attack.reason.value}
            self._await(attack.event, told, source)
        if attack.blocks:
            self._await("source_blocked", {"address": source, "reason": "misuse"}, source)

    def _await(self, kind: str, told: dict[str, object], source: str) -> None:
        try:
            wait_for(f"{kind} {told}", lambda: self.node.events(kind, **told))
        except AssertionError as error:
            all_told = [(each.kind, each.payload) for each in self.node.events() if source in str(each.payload)]
            raise AssertionError(f"{error}; told was {all_told}") from None

    def serves(self) -> None:
        """An honest neighbour still hears of what the node publishes, and is heard."""
        ours, theirs = self.node.publish(), self.neighbour.publish()
        wait_for("the neighbour hears of it", lambda: self.neighbour.status(ours))
        wait_for("the neighbour is heard", lambda: self.node.status(theirs))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One for all attacks."""
    nodes = Nodes(tmp_path_factory.mktemp("hostile"))
    try:
        yield Victim(nodes)
    finally:
        nodes.close()


def test_many_attacks_at_once_end_nothing(victim: Victim) -> None:
    assert len(QUICK) >= 12
    victim.endures(QUICK)


@pytest.mark.deep
@pytest.mark.parametrize("attack", SLOW, ids=lambda attack: attack.name)
def test_an_attack_ends_nothing_and_is_told(victim: Victim, attack: Attack) -> None:
    victim.endures([attack])


@pytest.mark.deep
def test_there_are_sixty_attacks_of_different_kinds() -> None:
    names = [each.name for each in (*QUICK, *SLOW)]
    assert len(set(names)) == len(names) >= 60


@pytest.fixture(scope="module")
def blocker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DhtNode]:
    """A node that blocks for longer than a test takes."""
    nodes = Nodes(tmp_path_factory.mktemp("blocker"))
    try:
        yield dht_node(nodes, "blocker", (), "--udp-source-block-ms", "600000")
    finally:
        nodes.close()


@pytest.mark.deep
def test_a_libp2p_process_that_hangs_is_replaced(blocker: DhtNode) -> None:
    before = cast(int, blocker.child()["pid"])
    os.kill(before, signal.SIGSTOP)
    blocker.await_event("child_failed", reason="timeout")
    wait_for("another process", lambda: blocker.child().get("pid") not in {None, before} and blocker.multiaddr)


@pytest.mark.deep
def test_a_peer_that_is_blocked_is_refused_also_by_the_next_libp2p_process(blocker: DhtNode) -> None:
    from tests.hostile_p2p.streams import a_flood_of_forgeries
    from tests.support.hostile_p2p import Identity, peer

    target, hostile, honest = target_of(blocker), Identity("to be blocked"), Identity("honest")
    trio.run(a_flood_of_forgeries, target, hostile)
    blocker.await_event("source_blocked", address=hostile.source, reason="misuse", duration_ms=600_000)

    async def is_refused() -> None:
        async with peer(target.address, hostile) as again:
            await again.ended()

    async def is_welcome() -> None:
        async with peer(target.address, honest) as other:
            stream = await other.open("/ipfs/ping/1.0.0")
            await stream.write(bytes(32))
            assert await stream.read(32) == bytes(32)

    trio.run(is_refused)
    trio.run(is_welcome)
    before = cast(int, blocker.child()["pid"])
    os.kill(before, signal.SIGKILL)
    wait_for("another process", lambda: blocker.child().get("pid") not in {None, before} and blocker.multiaddr)
    assert target_of(blocker) == target, "it keeps its port"
    trio.run(is_welcome)
    trio.run(is_refused)


@pytest.mark.deep
def test_a_peer_that_sends_rejected_messages_loses_its_place_in_the_mesh(blocker: DhtNode) -> None:
    from libp2p.pubsub.pb import rpc_pb2

    from tests.support.hostile_p2p import MESHSUB, Identity, Stream, peer, read_prefixed, rpc

    target, who = target_of(blocker), Identity("rejected")
    topic = target.topic()
    told: list[tuple[str, bool]] = []

    async def listen(stream: Stream) -> None:
        while True:
            heard = rpc_pb2.RPC.FromString(await read_prefixed(stream))
            told.extend(("graft", each.topicID == topic) for each in heard.control.graft)
            told.extend(("prune", each.topicID == topic) for each in heard.control.prune)

    async def tells(what: str) -> None:
        with trio.fail_after(20):
            while (what, True) not in told:
                await trio.sleep(0.01)
        told.clear()

    async def misbehave() -> None:
        async with peer(target.address, who, offered={MESHSUB: listen}) as hostile:
            stream = await hostile.gossip(topic)
            graft = rpc(control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=topic)]))
            await tells("graft")
            await stream.write(rpc(publish=[who.message(topic, b"{}")]))
            await tells("prune")
            await stream.write(graft)
            await tells("prune")
            await stream.write(graft)
            await tells("prune")

    trio.run(misbehave)


def target_of(node: DhtNode) -> Target:
    """The node as a target."""
    from tests.hostile_p2p.case import Target

    return Target(node.multiaddr.rpartition("/p2p/")[0], node.node_id)
