"""``async with crabnet.Node(...)``: nodes inside a Python program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import crabnet
from crabnet.domain.model import FactKind

DEADLINE_S = 60


def settings(data_dir: Path, *peers: str) -> crabnet.Settings:
    return crabnet.Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=peers, sync_interval_ms=200)


async def eventually(what: str, holds: Callable[[], bool]) -> None:
    with trio.move_on_after(DEADLINE_S):
        while not holds():
            await trio.sleep(0.01)
        return
    pytest.fail(f"waited {DEADLINE_S} s in vain: {what}")


def status(node: crabnet.Node, seed_id: str) -> crabnet.SeedStatus | None:
    try:
        return node.core.record(seed_id).progress.status
    except crabnet.CrabnetError:  # not known yet
        return None


def acknowledged(node: crabnet.Node, seed_id: str) -> bool:
    return any(fact.kind is FactKind.ACKNOWLEDGED for fact in node.core.record(seed_id).others)


async def test_two_nodes_in_one_program_do_the_whole_job(tmp_path: Path) -> None:
    statuses = crabnet.SeedStatus
    async with crabnet.Node(settings(tmp_path / "publisher")) as publisher:
        address = publisher.listen_address
        assert address is not None
        async with crabnet.Node(settings(tmp_path / "worker", address)) as worker:
            seed = await publisher.publish(crabnet.Publish(title="t", command="echo hi", min_price=2, reward=9))
            assert isinstance(seed, crabnet.Seed)
            assert (seed.command, seed.min_price, seed.created_by) == ("echo hi", 2, publisher.node_id)
            await eventually("the seed arrives", lambda: status(worker, seed.id) is statuses.OPEN)
            with pytest.raises(crabnet.CrabnetError) as caught:
                await worker.bid(seed.id, 1)
            assert caught.value.reason is crabnet.Reason.PRICE_TOO_LOW
            bid = await worker.bid(seed.id, 2, notes="soon")
            await eventually("the bid arrives", lambda: len(publisher.core.record(seed.id).bids) == 1)
            claim = await publisher.claim(seed.id, bid.id)
            assert (claim.worker, claim.bid_id) == (worker.node_id, bid.id)
            await eventually("the claim arrives", lambda: status(worker, seed.id) is statuses.CLAIMED)
            result = await worker.run(seed.id)
            assert (result.stdout, result.exit_code, result.worker) == ("hi\n", 0, worker.node_id)
            await eventually("the result arrives", lambda: status(publisher, seed.id) is statuses.DONE)
            await publisher.settle(seed.id, statuses.ACCEPTED, note="well done")
            await eventually("the settlement arrives", lambda: status(worker, seed.id) is statuses.ACCEPTED)
            await eventually("the worker acknowledges it", lambda: acknowledged(worker, seed.id))
            await eventually("the acknowledgement arrives", lambda: acknowledged(publisher, seed.id))
            assert await publisher.state_hash() == await worker.state_hash()


async def test_what_an_operation_returned_is_there_when_the_program_is_cancelled(tmp_path: Path) -> None:
    seed_ids: list[str] = []
    with trio.move_on_after(DEADLINE_S) as scope:
        async with crabnet.Node(settings(tmp_path / "node")) as node:
            for number in range(10):
                seed_ids.append((await node.publish(crabnet.Publish(title=str(number), command="true"))).id)
            scope.cancel()
            await trio.sleep_forever()
    assert len(seed_ids) == 10
    async with crabnet.Node(settings(tmp_path / "node"), listen=False) as node:
        assert [status(node, seed_id) for seed_id in seed_ids] == [crabnet.SeedStatus.OPEN] * 10


async def test_an_exception_in_the_block_passes_and_the_node_closes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with crabnet.Node(settings(tmp_path / "node")):
            raise ZeroDivisionError
    async with crabnet.Node(settings(tmp_path / "node")) as node:
        assert node.listen_address is not None


async def test_a_run_that_is_cancelled_is_ended_and_recorded(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path / "node")) as node:
        seed = await node.publish(crabnet.Publish(title="t", command="sleep 600", timeout_ms=700_000))
        await node.claim(seed.id, (await node.bid(seed.id, 1)).id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run, seed.id)
            await eventually("it runs", lambda: status(node, seed.id) is crabnet.SeedStatus.RUNNING)
            nursery.cancel_scope.cancel()
    async with crabnet.Node(settings(tmp_path / "node")) as node:
        await eventually("it is over", lambda: status(node, seed.id) is crabnet.SeedStatus.DONE)
        [result] = [fact.body for fact in node.core.record(seed.id).others if isinstance(fact.body, crabnet.TaskResult)]
        assert result.exit_code != 0


@pytest.mark.parametrize("operation", ["bid", "claim", "run", "settle"])
async def test_operations_on_what_is_not_there_are_refused(tmp_path: Path, operation: str) -> None:
    async with crabnet.Node(settings(tmp_path / "node")) as node:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "bid": lambda: node.bid("x", 1),
            "claim": lambda: node.claim("x", "y"),
            "run": lambda: node.run("x"),
            "settle": lambda: node.settle("x", crabnet.SeedStatus.ACCEPTED),
        }
        with pytest.raises(crabnet.CrabnetError) as caught:
            await calls[operation]()
        assert caught.value.reason is crabnet.Reason.UNKNOWN_SEED


async def test_a_data_dir_has_one_owner(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path / "node")):
        with pytest.raises(crabnet.CrabnetError) as caught:
            async with crabnet.Node(settings(tmp_path / "node")):
                pytest.fail("two owners")
    assert caught.value.reason is crabnet.Reason.DATA_DIR_BUSY
