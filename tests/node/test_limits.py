"""Sending is paced, refusals are told by a sample of events and counted in full, limits are told at the start."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from crabnet import __version__
from crabnet.core.effects import Send
from crabnet.monitor.reader import read_events
from crabnet.monitor.writer import EventLog
from crabnet.node.config import core_config, sends_per_s
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.outbox import Outbox
from crabnet.node.node import Node
from crabnet.node.reporting import Reporter
from crabnet.settings import KNOBS, LIMITS_GROUP, Settings
from crabnet.source import Scheme
from crabnet.storage.files import RealFiles
from crabnet.transport.base import Address, parse_address

TARGET = "192.0.2.1:9012"


class Wire:
    """A transport that notes when what was sent, in milliseconds."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    async def receive(self) -> list[tuple[bytes, Address]]:
        await trio.sleep_forever()

    async def send(self, data: bytes, to: Address) -> None:
        self.sent.append((round(trio.current_time() * 1000), data))

    async def aclose(self) -> None:
        """Nothing to release."""


def outbox(wire: Wire, datagrams_per_s: int) -> Outbox:
    return Outbox(
        wire,
        lambda: [parse_address(TARGET)],
        neighbours=list,
        is_present=lambda _: False,
        legacy=False,
        datagrams_per_s=datagrams_per_s,
        deliveries=Deliveries(1),
        notify=lambda _kind, _fields: None,
    )


def send(number: int) -> Send:
    return Send(b"{%d}" % number, "SeedCreated", f"id {number}")


def paced(datagrams_per_s: int, count: int) -> list[int]:
    wire = Wire()

    async def go() -> None:
        box = outbox(wire, datagrams_per_s)
        for number in range(count):
            box.put(send(number))
        await box.drain()

    trio.run(go, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [data for _, data in wire.sent] == [b"{%d}" % number for number in range(count)]
    return [at_ms - wire.sent[0][0] for at_ms, _ in wire.sent]


def test_sending_keeps_to_its_rate_after_one_seconds_burst() -> None:
    times = paced(10, 40)
    assert times[9] == 0
    assert 2_900 <= times[-1] <= 3_100
    assert all(sum(start <= at < start + 1_000 for at in times[10:]) <= 11 for start in times[10:])


def test_without_a_rate_nothing_waits() -> None:
    assert paced(0, 5_000)[-1] == 0


def test_answers_do_not_hold_up_what_the_node_has_to_say() -> None:
    wire = Wire()

    async def go() -> None:
        box = outbox(wire, 10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.send_raw, [b"answer"] * 50, parse_address(TARGET))
            await trio.sleep(1)
            begun_ms = round(trio.current_time() * 1000)
            box.put(send(1))
            await box.drain()
            assert wire.sent[-1] == (begun_ms, b"{1}")

    trio.run(go, clock=trio.testing.MockClock(autojump_threshold=0))


def test_each_transport_has_its_own_rate(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, udp_broadcasts_per_sec=7, dht_broadcasts_per_sec=9)
    assert sends_per_s(settings, Scheme.UDP) == 7
    assert sends_per_s(settings, Scheme.P2P) == 9


def test_refusals_are_sampled_in_events_and_counted_in_full(tmp_path: Path) -> None:
    now_ms = [1_767_225_600_000]
    log = EventLog.open(RealFiles(), tmp_path, "me", now_ms=now_ms[0])
    reporter = Reporter("me", log, lambda: now_ms[0], events_per_s=5)
    for number in range(100):
        reporter.notify("envelope_rejected", {"reason": "malformed", "seq": number})
        reporter.notify("envelope_ignored", {"reason": "duplicate"})
        reporter.notify("envelope_accepted", {"seq": number})
    for _ in range(3):
        reporter.notify("envelope_rejected", {"reason": "wrong_id"})
    reporter.notify("datagram_dropped", {"reason": "rate_limited", "count": 7_000})
    now_ms[0] += 1_000
    reporter.tick()
    reporter.tick()
    reporter.notify("envelope_rejected", {"reason": "malformed", "seq": 100})
    log.close(now_ms[0])
    events = read_events(tmp_path).events
    told = [(event.kind, event.payload.get("reason")) for event in events]
    assert told.count(("envelope_rejected", "malformed")) == 6
    assert told.count(("envelope_rejected", "wrong_id")) == 3
    assert told.count(("envelope_ignored", "duplicate")) == 5
    assert told.count(("envelope_accepted", None)) == 100, "only what others can cause at will is sampled"
    left_out = {
        (event.payload["event"], event.payload["reason"]): event.payload["count"]
        for event in events
        if event.kind == "events_left_out"
    }
    assert left_out == {("envelope_rejected", "malformed"): 95, ("envelope_ignored", "duplicate"): 95}
    assert reporter.counters["envelope_rejected.malformed"] == 101
    assert reporter.counters["envelope_ignored.duplicate"] == 100
    assert reporter.counters["datagram_dropped.rate_limited"] == 7_000


def test_a_node_that_listens_tells_what_differs_from_the_defaults_of_its_version(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, listen_addr="127.0.0.1:0", announce_addrs=(), author_envelopes_per_sec=123, message_ttl_s=77
    )

    async def go(*, listen: bool) -> None:
        async with Node(settings, listen=listen):
            pass

    trio.run(partial(go, listen=False))
    assert not [event for event in read_events(tmp_path).events if event.kind == "config_effective"]
    trio.run(partial(go, listen=True))
    events = read_events(tmp_path).events
    told = {
        str(event.payload["setting"]): event.payload["value"] for event in events if event.kind == "config_effective"
    }
    assert told == {
        "listen_addr": "127.0.0.1:0",
        "announce_addrs": "",
        "author_envelopes_per_sec": "123",
        "message_ttl_s": "77",
    }
    started = [event.payload for event in events if event.kind == "node_started"]
    assert [(each["version"], each["message_ttl_ms"]) for each in started] == [(__version__, 77_000)] * 2


@pytest.mark.parametrize("knob", [knob.name for knob in KNOBS if knob.group == LIMITS_GROUP])
def test_every_limit_reaches_what_it_limits(tmp_path: Path, knob: str) -> None:
    plain, changed = Settings(data_dir=tmp_path), Settings(data_dir=tmp_path, **{knob: 17})  # type: ignore[arg-type]
    if knob.endswith("broadcasts_per_sec"):
        scheme = Scheme.UDP if knob.startswith("udp") else Scheme.P2P
        assert (sends_per_s(plain, scheme), sends_per_s(changed, scheme)) == (
            {Scheme.UDP: 1_000, Scheme.P2P: 500}[scheme],
            17,
        )
    elif knob != "events_per_reason_per_sec":
        assert core_config(plain) != core_config(changed)
