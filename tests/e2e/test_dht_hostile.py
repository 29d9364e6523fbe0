"""A real node under attack over libp2p: it answers, its libp2p process lives, honest peers are served, all is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio

from crabnet.control.client import call
from tests.support.dht import dht_node, needs_libp2p
from tests.support.nodes import Nodes, wait_for

if TYPE_CHECKING:
    from tests.hostile_p2p.case import Attack

pytestmark = needs_libp2p
CHILD_MIB_MAX = 500
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
        self.node = dht_node(nodes, "victim", (), "--newcomer-envelopes-per-sec", "0")
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
        from tests.hostile_p2p.case import Target
        from tests.support.hostile_p2p import Identity

        target = Target(self.node.multiaddr.rpartition("/p2p/")[0], self.node.node_id)
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
            wait_for(f"{kind} {told}", lambda: self.node.events(kind, **told), 15)
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
