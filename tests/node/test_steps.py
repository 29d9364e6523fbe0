"""A step of the system's clock, before the eyes of a whole node; the time between two lives of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import crabnet
from crabnet.monitor.reader import read_events
from crabnet.node.clock import NodeClock, steady_ms, wall_ms

DAY_MS = 24 * 3_600_000
DEADLINE_S = 60
S = crabnet.SeedStatus


class Machine:
    """A machine whose clock is set while time passes as it does."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.ahead_ms = ahead_ms

    def wall(self) -> int:
        return wall_ms() + self.ahead_ms

    def clock(self) -> NodeClock:
        return NodeClock(300_000, wall=self.wall, steady=steady_ms)


def settings(data_dir: Path) -> crabnet.Settings:
    return crabnet.Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=())


def told(data_dir: Path, kind: str) -> list[dict[str, object]]:
    return [dict(event.payload) for event in read_events(data_dir, kinds=(kind,)).events]


async def eventually_told(data_dir: Path, kind: str, count: int = 1) -> list[dict[str, object]]:
    with trio.fail_after(DEADLINE_S):
        while len(found := await trio.to_thread.run_sync(told, data_dir, kind)) < count:
            await trio.sleep(0.02)
    return found


async def test_a_day_forth_and_two_back_expire_nothing_and_stop_no_deadline(tmp_path: Path) -> None:
    machine = Machine()
    async with crabnet.Node(settings(tmp_path), clock_ms=machine.clock()) as node:
        before_ms = wall_ms()
        kept = await node.publish(crabnet.Publish(title="kept", command="true", bid_window_ms=3_600_000))
        bid = await node.bid(kept.id, 1)
        machine.ahead_ms = DAY_MS
        (step,) = await eventually_told(tmp_path, "clock_stepped")
        assert step["followed"] is False
        assert abs(int(str(step["step_ms"])) - DAY_MS) < 10_000
        await trio.sleep(0.5)  # several ticks: time for a sweep that must not come
        assert (await node.show(kept.id)).status is S.OPEN
        claim = await node.claim(kept.id, bid.id)
        assert before_ms // 1000 <= claim.created_at <= wall_ms() // 1000 + 1
        machine.ahead_ms = -DAY_MS
        await eventually_told(tmp_path, "clock_stepped", 2)
        wish = crabnet.Publish(title="short", command="true", bid_window_ms=1_000, claim_window_ms=1_000)
        short = await node.publish(wish)
        with trio.fail_after(DEADLINE_S):
            await node.wait_for(short.id, lambda state: state.progress.status is S.EXPIRED)
        assert (await node.show(kept.id)).status is S.CLAIMED


@pytest.mark.deep
async def test_a_clock_behind_the_last_life_is_told_and_opens_nothing_again(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path), clock_ms=Machine().clock()) as node:
        wish = crabnet.Publish(title="t", command="true", bid_window_ms=1_000, claim_window_ms=1_000)
        seed_id = (await node.publish(wish)).id
        with trio.fail_after(DEADLINE_S):
            await node.wait_for(seed_id, lambda state: state.progress.status is S.EXPIRED)
    async with crabnet.Node(settings(tmp_path), clock_ms=Machine(-DAY_MS).clock()) as node:
        (behind,) = await eventually_told(tmp_path, "clock_behind")
        assert abs(int(str(behind["duration_ms"])) - DAY_MS) < 60_000
        assert (await node.show(seed_id)).status is S.EXPIRED


async def test_a_node_that_was_away_says_so_and_handles_what_is_due(tmp_path: Path) -> None:
    async with crabnet.Node(settings(tmp_path), clock_ms=Machine().clock()) as node:
        seed_id = (await node.publish(crabnet.Publish(title="t", command="true"))).id
    async with crabnet.Node(settings(tmp_path), clock_ms=Machine(DAY_MS).clock()) as node:
        (away,) = await eventually_told(tmp_path, "node_was_away")
        assert away["count"] == 1
        assert abs(int(str(away["duration_ms"])) - DAY_MS) < 60_000
        with trio.fail_after(DEADLINE_S):
            await node.wait_for(seed_id, lambda state: state.progress.status is S.EXPIRED)
    assert told(tmp_path, "clock_behind") == []
    assert told(tmp_path, "clock_stepped") == []
