"""Nodes over libp2p under load, left alone or with kill -9 to processes of all kinds: they agree in the end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from random import Random

import pytest

from crabnet.errors import CrabnetError
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, converge, wait_for

pytestmark = [needs_libp2p, pytest.mark.deep]

NODES = 5
MESSAGES_PER_S = 8
LOAD_S = 15
KILLS = 30
PAUSE_S = 1.0
SEED = 12


def started(nodes: Nodes) -> list[DhtNode]:
    """Five nodes, each of which knows the first and the one before."""
    members = [dht_node(nodes, "n0")]
    while len(members) < NODES:
        members.append(dht_node(nodes, f"n{len(members)}", dict.fromkeys((members[0], members[-1]))))
    for node in members:
        node.knows(1)
    return members


def test_a_steady_load_arrives_everywhere(nodes: Nodes) -> None:
    members = started(nodes)
    begun_s = time.monotonic()
    published: set[str] = set()
    while (passed_s := time.monotonic() - begun_s) < LOAD_S:
        while len(published) < passed_s * MESSAGES_PER_S:
            published.add(members[len(published) % NODES].publish())
        time.sleep(1 / MESSAGES_PER_S)
    wait_for("all of it is everywhere", lambda: all(node.seed_ids() == published for node in members))
    converge([*members])


def test_thirty_kills_of_nodes_and_libp2p_processes_lose_nothing(nodes: Nodes) -> None:
    """Meanwhile others publish. What a node has acknowledged is everywhere in the end."""
    rng = Random(SEED)
    members = started(nodes)
    published: set[str] = set()
    kills = dict.fromkeys((_kill_node, _kill_libp2p), 0)
    while sum(kills.values()) < KILLS:
        kill = rng.choice([_kill_node, _kill_libp2p, _kill_libp2p])
        kills[kill] += kill(rng.choice(members))
        until_s = time.monotonic() + PAUSE_S
        while time.monotonic() < until_s:
            with suppress(CrabnetError, OSError):  # it is starting, or waits for word of its own feed
                published.add(rng.choice(members).publish())
            time.sleep(1 / MESSAGES_PER_S)
    assert all(kills.values())
    for node in members:
        node.ready()
    assert published
    wait_for("all of it is everywhere", lambda: all(node.seed_ids() >= published for node in members))
    converge([*members])


def _kill_node(node: DhtNode) -> bool:
    node.kill()
    node.launch()
    return True


def _kill_libp2p(node: DhtNode) -> bool:
    """False if the node has no libp2p process at the moment."""
    with suppress(CrabnetError, OSError):
        pid = node.child().get("pid")
        if isinstance(pid, int):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def test_a_libp2p_process_that_is_stuck_is_replaced(nodes: Nodes) -> None:
    one = dht_node(nodes, "one")
    two = dht_node(nodes, "two", [one])
    two.knows(1)
    pid = one.child()["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGSTOP)
    one.publish()
    one.await_event("child_failed", child="libp2p", reason="timeout")
    wait_for("another runs", lambda: one.child().get("pid") not in {None, pid})
    one.knows(1)
    seed_id = one.publish()
    wait_for("it comes", lambda: two.seed(seed_id))
    assert two.seed_ids() == one.seed_ids()
