"""A lag is one alert and one event when it is over: of the event log, of the sync, of sending."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import trio
from msgspec import structs

from crabnet.core.commands import Publish
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import FieldValue
from crabnet.monitor.reader import read_events
from crabnet.node.lagging import LagWatch, NodeGauges
from crabnet.node.network.outbox import SendingGauges
from crabnet.node.node import Node
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.sync import Head
from crabnet.settings import Settings
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour

NOW_MS = NOW_S * 1000
HOLD_MS = 10_000
NOTHING = SendingGauges(queued=0, oldest_queued_ms=0, unsent=0, oldest_unsent_ms=0, targets_failing=0, dropped=0)


class Told:
    """What was reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, FieldValue]]] = []

    def __call__(self, kind: str, fields: object, severity: object = None) -> None:
        assert isinstance(fields, dict)
        self.events.append((kind, fields))

    def kinds(self) -> list[str]:
        kinds = [kind for kind, _ in self.events]
        self.events.clear()
        return kinds


def looks(watch: LagWatch, from_ms: int, until_ms: int) -> None:
    for at_ms in range(from_ms, until_ms, 1_000):
        watch.look(at_ms)


def test_a_node_that_is_far_behind_its_peers_says_so_once_and_once_when_it_has_caught_up(tmp_path: Path) -> None:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    settings = Settings(data_dir=tmp_path, sync_lag_envelopes=20, sync_lag_ms=0)
    now_ms = NOW_MS
    told = Told()
    watch = LagWatch(settings, lambda: NodeGauges(events=None, sync=core.sync_gauges(now_ms), sending=NOTHING), told)
    peer = Neighbour(core, "peer", "192.0.2.1:9012")
    peer.confirm()
    author = Author("author")
    feed: list[Envelope] = [author.say(Kind.SEED_CREATED, {"seed": author.seed()}) for _ in range(30)]
    peer.heads(Head(author.id, 30, author.head))
    looks(watch, 0, HOLD_MS)
    assert told.events == [], "it may catch up within the hold"
    looks(watch, HOLD_MS, 5 * HOLD_MS)
    [(kind, fields)] = told.events
    assert (kind, fields["count"], fields["address"], fields["peer"]) == (
        "sync_lagging", 30, peer.address, peer.signer.node_id,
    )  # fmt: skip
    told.events.clear()
    for envelope in feed[:15]:
        peer.pass_on(envelope)
    looks(watch, 5 * HOLD_MS, 10 * HOLD_MS)
    assert told.events == [], "a little better is not over"
    for envelope in feed[15:]:
        peer.pass_on(envelope)
    looks(watch, 10 * HOLD_MS, 20 * HOLD_MS)
    [(kind, fields)] = told.events
    assert (kind, fields["count"]) == ("sync_recovered", 0)
    assert isinstance(fields["duration_ms"], int)
    assert fields["duration_ms"] >= 9 * HOLD_MS


@pytest.mark.parametrize("threshold", [0, 60_000])
def test_a_threshold_of_zero_turns_an_alert_off(tmp_path: Path, threshold: int) -> None:
    core = Core(CoreConfig(), signer("observer"), lambda: 1)
    told = Told()
    sending = structs.replace(NOTHING, oldest_unsent_ms=10**9)
    watch = LagWatch(
        Settings(data_dir=tmp_path, sending_lag_ms=threshold),
        lambda: NodeGauges(events=None, sync=core.sync_gauges(NOW_MS), sending=sending),
        told,
    )
    looks(watch, 0, 3 * HOLD_MS)
    assert told.kinds() == (["sending_lagging"] if threshold else [])
    sending = NOTHING
    looks(watch, 3 * HOLD_MS, 6 * HOLD_MS)
    assert told.kinds() == (["sending_recovered"] if threshold else [])


async def until(what: str, ready: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not ready():
            await trio.sleep(0.02)


def quick(data_dir: Path, **values: object) -> Settings:
    """Settings of a node that raises and clears alerts at once."""
    fast: dict[str, object] = {"events_lag_ms": 300, "sending_lag_ms": 300, "lag_hold_ms": 100}
    given = {"data_dir": data_dir, "listen_addr": "127.0.0.1:0", "announce_addrs": (), **fast, **values}
    return Settings(**given)  # type: ignore[arg-type]


@pytest.mark.deep
async def test_a_blocked_disk_of_the_event_log_is_an_alert_with_an_end(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    settings = quick(tmp_path / "d", monitor_events=events / "events.ndjson")
    async with Node(settings) as node:
        events.rename(tmp_path / "away")
        events.write_text("in the way")
        await node.publish(Publish(title="t", command="true"))
        await until("the alert", lambda: node.reporter.counters["events_lagging"])
        gauges = node.gauges().events
        assert gauges is not None
        assert gauges.failing
        assert gauges.oldest_unwritten_ms >= 300
        assert gauges.bytes_behind > 0
        events.unlink()
        (tmp_path / "away").rename(events)
        await until("the end", lambda: node.reporter.counters["events_recovered"])
    kinds = [event.kind for event in read_events(events).events]
    assert kinds.count("events_lagging") == kinds.count("events_recovered") == 1


async def test_envelopes_that_cannot_be_sent_are_an_alert(tmp_path: Path) -> None:
    nowhere = "[fe80::1%nosuchzone]:9"
    async with Node(quick(tmp_path, announce_addrs=(nowhere,))) as node:
        await node.publish(Publish(title="t", command="true"))
        await until("the alert", lambda: node.reporter.counters["sending_lagging"])
        sending = node.gauges().sending
        assert (sending.unsent, sending.targets_failing) == (1, 1)
        assert sending.oldest_unsent_ms >= 300
    [alert] = [event.payload for event in read_events(tmp_path).events if event.kind == "sending_lagging"]
    assert (alert["count"], alert["targets"]) == (1, 1)
