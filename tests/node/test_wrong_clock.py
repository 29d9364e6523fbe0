"""Real nodes on loopback, one of which has a wrong clock (own-2)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio

from crabnet.core.commands import Publish
from crabnet.domain.model import SeedStatus, TaskResult
from crabnet.errors import Reason, RefusedError
from crabnet.node.clock import NodeClock, steady_ms, wall_ms
from crabnet.node.node import Node
from crabnet.settings import Settings
from tests.support.ports import reserved_port

WISH = Publish(title="t", command="echo hi", bid_window_ms=600_000)
DAY_MS = 86_400_000
DEADLINE_S = 60
RUN_S = 1


def settings(data_dir: Path, *peers: str) -> Settings:
    return Settings(
        data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=peers, sync_interval_ms=200, feed_wait_ms=30_000
    )


class System:
    """The clock of a machine, wrong by ``ahead_ms`` until it is set."""

    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    def clock(self) -> NodeClock:
        return NodeClock(300_000, wall=lambda: wall_ms() + self.ahead_ms, steady=steady_ms)


async def refused(node: Node) -> str:
    """What an operation that must be refused for the clock says."""
    with pytest.raises(RefusedError) as error:
        await node.publish(WISH)
    assert error.value.reason is Reason.CLOCK_SUSPECT
    return error.value.message


@pytest.mark.parametrize("listen", [True, False], ids=["node", "one-shot"])
def test_the_first_operation_already_knows(tmp_path: Path, listen: bool) -> None:
    """A node that has just been made, and a command alone: what peers say comes before the first signature."""

    async def scenario() -> None:
        with trio.fail_after(DEADLINE_S):
            async with Node(settings(tmp_path / "right")) as right:
                wrong = settings(tmp_path / "wrong", str(right.listen_address))
                clock = System(30 * DAY_MS).clock()
                async with Node(wrong, listen=listen, clock_ms=clock) as node:
                    assert "2592" in await refused(node)
                async with Node(wrong, listen=listen) as node:
                    await node.publish(WISH)
                assert (await right.wait_for((await right_seeds(right))[0], lambda _: True)).seed.title == "t"

    async def right_seeds(right: Node) -> list[str]:
        while not (states := await right.seeds()):
            await right.changed()
        return [state.seed.id for state in states]

    trio.run(scenario)


def test_a_start_before_the_clock_was_set_works_without_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        system = System(-wall_ms() + 10_000)
        with trio.fail_after(DEADLINE_S):
            async with (
                Node(settings(tmp_path / "right")) as right,
                Node(settings(tmp_path / "wrong", str(right.listen_address)), clock_ms=system.clock()) as node,
            ):
                assert "1970-01-01" in await refused(node)
                system.ahead_ms = 0
                while node.core.clock_behind_s(node.clock_ms()) or node.clock_ms() < DAY_MS:
                    await trio.sleep(0.01)
                seed = await node.publish(WISH)
                await right.wait_for(seed.id, lambda _: True)

    trio.run(scenario)


def test_a_run_that_ends_while_the_clock_is_suspect_keeps_its_result(tmp_path: Path) -> None:
    async def scenario() -> None:
        address = f"127.0.0.1:{reserved_port()}"
        alone = dataclasses.replace(settings(tmp_path / "worker", address), feed_wait_ms=0, runner_sandbox="none")
        results: list[TaskResult] = []
        with trio.fail_after(DEADLINE_S):
            async with Node(alone) as worker, trio.open_nursery() as nursery:
                seed = await worker.publish(Publish(title="t", command=f"sleep {RUN_S}", bid_window_ms=600_000))
                bid = await worker.bid(seed.id, 1)
                await worker.claim(seed.id, bid.id)

                async def run() -> None:
                    results.append(await worker.run(seed.id))

                nursery.start_soon(run)
                await worker.wait_for(seed.id, lambda state: state.status is SeedStatus.RUNNING)
                peer = dataclasses.replace(
                    settings(tmp_path / "wrong", str(worker.listen_address)), listen_addr=address
                )
                async with Node(peer, clock_ms=System(30 * DAY_MS).clock()):
                    while not worker.core.clock_behind_s(worker.clock_ms()):
                        await worker.changed()
                    await trio.sleep(2 * RUN_S)
                    assert not results
                peer = dataclasses.replace(peer, data_dir=tmp_path / "right")
                async with Node(peer):
                    while not results:
                        await worker.changed()
            assert results[0].exit_code == 0

    trio.run(scenario)


def test_a_clock_that_was_behind_and_is_set_is_believed_when_peers_agree(tmp_path: Path) -> None:
    async def scenario() -> None:
        system = System(-DAY_MS)
        with trio.fail_after(DEADLINE_S):
            async with (
                Node(settings(tmp_path / "right")) as right,
                Node(settings(tmp_path / "wrong", str(right.listen_address)), clock_ms=system.clock()) as node,
            ):
                assert "86" in await refused(node)
                system.ahead_ms = 0
                while abs(node.clock_ms() - wall_ms()) > 1_000:
                    await trio.sleep(0.01)
                while node.core.clock_behind_s(node.clock_ms()):
                    await trio.sleep(0.01)
                seed = await node.publish(WISH)
                await right.wait_for(seed.id, lambda _: True)

    trio.run(scenario)
