"""The pace at which stored envelopes are served, and to whom in which turn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import crabnet
from crabnet import limits
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import FieldValue, Serve, ServeNamed, ServeProof
from crabnet.errors import Reason, RefusedError
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.indexing import Stored, StoredEnvelope
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.outbox import Outbox
from crabnet.node.network.serving import Pace, Paces, Serving
from crabnet.node.network.udp_network import UdpCarrier
from crabnet.source import Scheme
from crabnet.storage.files import RealFiles
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from crabnet.transport.base import Address
from tests.support.envelopes import signer


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
                serving.put(Serve(me, seq, seq, "udp:127.0.0.1:1"))
            with trio.fail_after(60):
                while serving.bytes < settings.sync_serve_bytes_per_s:  # what may go at once has gone
                    await trio.sleep(0.01)
                begun = serving.envelopes
                serving.put(Serve(me, 1, 1, f"udp:127.0.0.1:{modest.getsockname()[1]}"))
                data, _ = await modest.recvfrom(65_536)
                assert seeds[0].id.encode() in data
                assert serving.envelopes - begun < greedy_wants // 4
                for port in range(2, 2 + limits.PEERS_MAX - 1):  # as many as there is room for beside the greedy one
                    serving.put(Serve(me, 1, 1, f"udp:127.0.0.1:{port}"))
                while serving.envelopes < greedy_wants + 1 + limits.PEERS_MAX - 1:
                    await trio.sleep(0.01)
        assert serving.dropped == 0


class Shelf:
    """A ``Reader`` that holds named envelopes and proofs of a size, and can fail."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.asked: list[str] = []

    def read(self, serves: list[Serve]) -> list[Stored]:
        return [[] for _ in serves]

    def proof(self, author: str, seq: int) -> bytes | None:
        return self._give(f"{author} {seq}")

    def named(self, seed_id: str, envelope_id: str) -> bytes | None:
        return self._give(f"{seed_id} {envelope_id}")

    def _give(self, what: str) -> bytes | None:
        self.asked.append(what)
        if what.startswith("damaged"):
            raise RefusedError("it cannot be read", Reason.UNAVAILABLE)
        return None if what.startswith("lost") else b"{%s}" % what.encode().ljust(self.size)


class Wire:
    """A transport that notes what is sent, to whom, and when in seconds."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, str, bytes]] = []
        self.sending = trio.Event()

    async def receive(self) -> list[tuple[bytes, Address]]:
        await trio.sleep_forever()

    async def send(self, data: bytes, to: Address) -> None:
        self.sent.append((trio.current_time(), to.source, data))
        self.sending.set()
        self.sending = trio.Event()

    async def aclose(self) -> None:
        """Nothing to release."""

    async def until(self, count: int) -> None:
        """Wait until so much was sent."""
        while len(self.sent) < count:
            await self.sending.wait()


class Counter:
    """What is served from a shelf; ``told`` are the notices."""

    def __init__(self, ledger: Ledger, shelf: Shelf, bytes_per_s: int) -> None:
        self.wire = Wire()
        self.told: list[dict[str, FieldValue]] = []
        outbox = Outbox(
            self.wire,
            list,
            neighbours=list,
            is_present=lambda _: False,
            legacy=False,
            datagrams_per_s=0,
            deliveries=Deliveries(1),
            notify=self._tell,
        )
        self.core = Core(CoreConfig(), signer("server"), lambda: 1)
        committer = Committer(ledger, lambda _: None)
        paces = Paces(bytes_per_s, 0)
        self.serving = Serving(self.core, committer, self._tell, lambda: 0, shelf, paces)
        self.serving.carriers[Scheme.UDP] = UdpCarrier(self.wire, outbox)

    def _tell(self, _kind: str, fields: dict[str, FieldValue]) -> None:
        self.told.append(fields)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path, files=RealFiles(), now_ms=0, role=LockRole.NODE)
    yield ledger
    ledger.close()


def singles(count: int, size: int, pace: int, ledger: Ledger) -> list[tuple[float, str, bytes]]:
    """When named envelopes and proofs, in turn, go out to two neighbours, on virtual time."""
    counters: list[Counter] = []

    async def serve() -> None:
        counter = Counter(ledger, Shelf(size), pace)
        counters.append(counter)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.serving.run)
            for number in range(count):
                to = f"udp:127.0.0.1:{1 + number % 2}"
                if number % 3:
                    counter.serving.put_single(ServeNamed("seed", f"{number}", to))
                else:
                    counter.serving.put_single(ServeProof("author", number, to))
            await counter.wire.until(count)
            nursery.cancel_scope.cancel()

    trio.run(serve, clock=trio.testing.MockClock(autojump_threshold=0))
    assert counters[0].serving.dropped == 0
    return counters[0].wire.sent


def test_named_envelopes_and_proofs_go_to_whoever_asked_in_the_order_of_the_questions(ledger: Ledger) -> None:
    sent = singles(7, 0, 0, ledger)
    assert [(to, data.strip(b"{}").split()[-1]) for _, to, data in sent] == [
        (f"udp:127.0.0.1:{1 + number % 2}", str(number).encode()) for number in range(7)
    ]


def test_they_keep_the_pace(ledger: Ledger) -> None:
    size, pace = 1_000, 2_500
    sent = singles(40, size, pace, ledger)
    begun = sent[0][0]
    for number, (at, _, _) in enumerate(sent):
        assert number * size <= pace * (1 + at - begun) + 2 * size


async def test_the_same_question_twice_is_answered_once_and_what_is_not_there_not_at_all(ledger: Ledger) -> None:
    counter = Counter(ledger, Shelf(), 0)
    to = "udp:127.0.0.1:1"
    for serve in (
        ServeNamed("seed", "1", to),
        ServeNamed("lost", "2", to),
        ServeNamed("damaged", "3", to),
        ServeProof("lost", 4, to),
        ServeNamed("seed", "1", to),
        ServeNamed("seed", "5", to),
    ):
        counter.serving.put_single(serve)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.serving.run)
            await counter.wire.until(2)
            nursery.cancel_scope.cancel()
    assert sorted(data for _, _, data in counter.wire.sent) == [b"{seed 1}", b"{seed 5}"]
    assert [each["reason"] for each in counter.told] == ["unavailable"]


async def test_too_many_questions_displace_the_oldest(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SERVES_WAITING_MAX", 3)
    counter = Counter(ledger, Shelf(), 0)
    for number in range(5):
        counter.serving.put_single(ServeNamed("seed", str(number), "udp:127.0.0.1:1"))
    assert counter.serving.dropped == 2
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.serving.run)
            await counter.wire.until(3)
            nursery.cancel_scope.cancel()
    assert [data for _, _, data in counter.wire.sent] == [b"{seed 2}", b"{seed 3}", b"{seed 4}"]


class Woven(Shelf):
    """Feeds whose entries were taken in turns."""

    def read(self, serves: list[Serve]) -> list[Stored]:
        return [
            [
                StoredEnvelope(seq, f"{each.author}{seq}", b"{%b%d}" % (each.author.encode(), seq), (seq, at))
                for seq in range(each.from_seq, each.to_seq + 1)
            ]
            for at, each in enumerate(serves)
        ]


async def test_several_feeds_are_served_in_the_order_in_which_they_were_taken(ledger: Ledger) -> None:
    """So each envelope comes after what it rests on."""
    counter = Counter(ledger, Woven(), 0)
    for author in ("a", "b"):
        for seq in (1, 2, 3):
            counter.core.replica.feeds.advance(author, seq, f"{author}{seq}")
    counter.serving.put(Serve("a", 1, 3, "udp:127.0.0.1:1"))
    counter.serving.put(Serve("b", 2, 9, "udp:127.0.0.1:1"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.serving.run)
            await counter.wire.until(5)
            nursery.cancel_scope.cancel()
    assert [data for _, _, data in counter.wire.sent[:5]] == [b"{a1}", b"{a2}", b"{b2}", b"{a3}", b"{b3}"]
