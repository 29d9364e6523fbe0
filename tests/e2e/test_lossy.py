"""Real nodes whose datagrams are lost, doubled and reordered on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

from crabnet.transport.base import Address
from tests.support.nodes import NodeProcess, Nodes, converge, wait_for, whole_job
from tests.support.relay import LossyRelay

T = TypeVar("T")
BIG = "x" * 30_000


async def blocking(work: Callable[[], T]) -> T:
    """Do something that blocks, while the relay goes on."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def address_of(node: NodeProcess) -> Address:
    return Address(*node.address)


async def meet(nodes: Nodes, relay: LossyRelay, first: NodeProcess, name: str) -> NodeProcess:
    """A node that reaches ``first`` through the relay only, once ``first`` knows it too."""
    before = first.ask("status")["peers"]
    node = await blocking(lambda: nodes.start(name, [str(relay.address("to_first"))]))
    await blocking(lambda: wait_for("they meet", lambda: first.ask("status")["peers"] != before))
    return node


async def jobs_over_a_lossy_network(nodes: Nodes, count: int, seed: int, **params: str) -> None:
    publisher = await blocking(lambda: nodes.start("publisher"))
    async with LossyRelay(
        {"to_first": address_of(publisher)}, loss=0.2, duplicate=0.2, reorder=0.3, seed=seed
    ) as relay:
        workers = [await meet(nodes, relay, publisher, name) for name in ("one", "two")]
        seed_ids: list[str] = []

        async def job(number: int) -> None:
            worker = workers[number % 2]
            seed_ids.append(await blocking(lambda: whole_job(publisher, worker, f"echo {number}", **params)))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(job, number)
        await blocking(lambda: converge([publisher, *workers], seed_ids))
        total = relay.total()
        assert len(set(seed_ids)) == count
        assert min(total.dropped, total.duplicated, total.reordered) > 0, total
        assert 0.1 < total.dropped / total.received < 0.3, total
    for node in (publisher, *workers):
        assert not node.events("fork_detected")


@pytest.mark.deep
async def test_every_job_ends_alike_on_all_nodes(nodes: Nodes) -> None:
    await jobs_over_a_lossy_network(nodes, 6, seed=1)


@pytest.mark.deep
async def test_envelopes_of_many_fragments_come_through(nodes: Nodes) -> None:
    await jobs_over_a_lossy_network(nodes, 2, seed=2, description=BIG, rules="é" * 20_000)


@pytest.mark.deep
async def test_big_results_come_through(nodes: Nodes) -> None:
    publisher = await blocking(lambda: nodes.start("publisher"))
    async with LossyRelay({"to_first": address_of(publisher)}, seed=3) as relay:
        worker = await meet(nodes, relay, publisher, "worker")
        command = "printf %0100000d 7"
        seed_id = await blocking(lambda: whole_job(publisher, worker, command))
        await blocking(lambda: converge([publisher, worker], [seed_id]))
        [result] = publisher.rows(seed_id, "results")
        assert result["stdout"] == "7".zfill(100_000)


async def test_a_split_network_heals(nodes: Nodes) -> None:
    """Both sides go on while they are apart; afterwards both hold everything."""
    first = await blocking(lambda: nodes.start("first"))
    async with LossyRelay({"to_first": address_of(first)}, loss=0.0, duplicate=0.0, reorder=0.0) as relay:
        second = await meet(nodes, relay, first, "second")
        relay.cut()
        published = {node: [node.publish(str(n)) for n in range(20)] for node in (first, second)}
        assert first.seed_ids().isdisjoint(published[second])
        assert second.seed_ids().isdisjoint(published[first])
        relay.mend()
        await blocking(lambda: converge([first, second], published[first] + published[second], "Open"))


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(10, 30))
async def test_every_job_ends_alike_whatever_is_lost(nodes: Nodes, seed: int) -> None:
    size = random.Random(seed).choice([0, 2_000, 60_000])
    await jobs_over_a_lossy_network(nodes, 10, seed=seed, description="x" * size)
