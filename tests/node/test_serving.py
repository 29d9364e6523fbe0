"""The pace at which stored envelopes are served, and to whom in which turn."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import crabnet
from crabnet import limits
from crabnet.core.effects import Serve
from crabnet.node.serving import Pace


def test_a_second_s_worth_may_go_at_once_and_more_has_to_be_waited_for() -> None:
    pace = Pace(1_000, now_ms=0)
    pace.spend(1_000)
    assert pace.wait_ms(0) == 0, "nothing is owed yet"
    pace.spend(500)
    assert pace.wait_ms(0) == 500
    assert pace.wait_ms(200) == 300
    assert pace.wait_ms(500) == 0


def test_rest_earns_no_more_than_a_second_s_worth() -> None:
    pace = Pace(1_000, now_ms=0)
    assert pace.wait_ms(3_600_000) == 0
    pace.spend(3_000)
    assert pace.wait_ms(3_600_000) == 2_000


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(0, now_ms=0)
    pace.spend(10**12)
    assert pace.wait_ms(0) == 0


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=50))
def test_over_a_long_time_no_more_is_sent_than_the_pace_allows(sizes: list[int]) -> None:
    pace = Pace(1_000, now_ms=0)
    now_ms = 0.0
    for size in sizes:
        now_ms += pace.wait_ms(int(now_ms))
        pace.spend(size)
    assert sum(sizes[:-1]) <= 1_000 + now_ms + len(sizes)


async def test_a_greedy_neighbour_delays_nobody_and_is_not_forgotten_for_idle_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PEERS_MAX", 4)
    monkeypatch.setattr(limits, "SERVE_WANTS_AT_ONCE", 1)
    greedy_wants = 40
    settings = crabnet.Settings(
        data_dir=tmp_path,
        listen_addr="127.0.0.1:0",
        announce_addrs=(),
        sync_serve_bytes_per_s=10_000,
        sync_serve_peer_bytes_per_s=0,
    )
    async with crabnet.Node(settings) as node:
        wish = crabnet.Publish(title="t", command="true")
        seeds = [await node.publish(wish) for _ in range(greedy_wants)]
        me, serving = seeds[0].created_by, node.serving
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as modest:
            await modest.bind(("127.0.0.1", 0))
            for seq in range(1, greedy_wants + 1):
                serving.put(Serve(me, seq, seq, "127.0.0.1:1"))
            with trio.fail_after(60):
                while serving.bytes < settings.sync_serve_bytes_per_s:  # what may go at once has gone
                    await trio.sleep(0.01)
                begun = serving.envelopes
                serving.put(Serve(me, 1, 1, f"127.0.0.1:{modest.getsockname()[1]}"))
                data, _ = await modest.recvfrom(65_536)
                assert seeds[0].id.encode() in data
                assert serving.envelopes - begun < greedy_wants // 4
                for port in range(2, 2 + limits.PEERS_MAX - 1):  # as many as there is room for beside the greedy one
                    serving.put(Serve(me, 1, 1, f"127.0.0.1:{port}"))
                while serving.envelopes < greedy_wants + 1 + limits.PEERS_MAX - 1:
                    await trio.sleep(0.01)
        assert serving.dropped == 0
