"""Every table that forgets is a ``BoundedTable``, and each of them is filled far past its bound here.

A table that is new is found by its annotation: it fails ``test_every_table_is_walked`` until a walk fills it.
"""

from __future__ import annotations

import ast
import hashlib
import socket
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio
from msgspec import Raw, structs

import crabnet
from crabnet import limits
from crabnet.access.attempts import Attempts
from crabnet.access.secret import digest_of
from crabnet.core.budgets.authors import AuthorBudgets, AuthorRates
from crabnet.core.budgets.sources import SourceRates
from crabnet.core.commands import Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import CheckOrder, Effects, Send, Serve, ServeProof
from crabnet.core.replica.parking import Parking
from crabnet.core.replica.records import NO_ANSWER, RequestRecord
from crabnet.core.replica.requests import Requests
from crabnet.core.sync.clocks import Clocks
from crabnet.core.sync.feed_guard import FeedGuard
from crabnet.core.sync.peers import Introduction, Peers, Refused
from crabnet.core.sync.planner import SyncPlanner
from crabnet.core.sync.presence import Presence
from crabnet.core.sync.reach import Reach
from crabnet.core.trading.declines import Declines
from crabnet.domain.model import Fact, FactKind, Seed
from crabnet.domain.record import Record
from crabnet.errors import NetworkError, Reason
from crabnet.market.heard import HeardDecline
from crabnet.market.policies import Again, Declined
from crabnet.market.work import Machine
from crabnet.node.network.deliveries import Deliveries
from crabnet.node.network.outbox import Outbox
from crabnet.node.tokens import Links
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.feed import Feeds
from crabnet.protocol.fragments import Complete, Dropped, Reassembler, ReassemblyLimits, SentCache, SentLimits, split
from crabnet.protocol.fragments import request_datagram as request
from crabnet.protocol.identity import KeyRing
from crabnet.protocol.sync import Bucket, Head, Heads, RelayPrune, Request, Want
from crabnet.transport.base import Address, address_of
from crabnet.transport.resolver import Endpoint, Resolver
from crabnet.transport.sockets import Sockets
from crabnet.web.clients import Budgets
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.source import modules
from tests.support.table_watch import Watch
from tests.support.talking import Neighbour, talk_in

NOW_MS = NOW_S * 1000
ROOM = 8
"""What the bounds are set to, so that a walk past them is short."""
CROWD = 3 * ROOM
NEWCOMERS_PER_S = 40
BURST = NEWCOMERS_PER_S * limits.AUTHOR_BURST_S // limits.AUTHOR_FIRST_COST
HONEST = "udp:192.0.2.1:9012"

WALKS: Final = {
    "core": {
        "AuthorBudgets._newcomers",
        "AuthorBudgets._paused",
        "AuthorBudgets._watched",
        "Announcer._recent",
        "Flow._sources",
        "Peers._lasting",
        "Peers._strangers",
        "Reconciler._compared",
        "Reconciler._queue",
        "Relay._excess",
        "Relay._open",
        "Relay._providers",
        "Relay._served",
        "Relay._told",
        "SeenWindow._seen",
        "SourceGate._good",
        "SourceGate._peers",
        "SourceGate._strangers",
    },
    "access": {"Attempts._tries", "Links._until_ms"},
    "web": {"Budgets._buckets"},
    "authors": {"AuthorBudgets._known"},
    "clocks": {"Clocks._votes"},
    "declines": {
        "Declines._heard",
        "Declines._rates",
        "Declines._told",
        "Declines._waiting",
        "_OfSeed.by_author",
    },
    "liars": {"FeedGuard._liars"},
    "seller": {
        "Seller._declined",
        "Seller._distrusted",
        "Seller._news",
        "Seller._unfitting",
        "Seller._waiting",
        "_Distrusted.seeds",
    },
    "nat": {
        "AutoNat._hosts",
        "Observations._seen",
        "Puncher._tried",
        "Relay._requests",
        "RelayClient._later",
        "Votes._asked",
        "Votes._votes",
    },
    "places": {"RelayClient._places"},
    "p2p": {
        "AutoNat._hosts",
        "Checker._offences",
        "Checker._rates",
        "ControlBudget._served",
        "ControlBudgets._budgets",
        "ControlBudgets._promises",
        "Host._pushes",
        "Network._accepted",
        "Seen._until_ms",
        "DialBook._hoped",
        "DialBook._proven",
        "KadNode._clients",
        "KadNode._rates",
        "Mdns._seen",
        "Observations._seen",
        "Peers._blocked",
        "Providers._keys",
        "Providers._of_peer",
        "Puncher._tried",
        "Refusals._counts",
        "Refusals._topics",
        "Relay._requests",
        "RelayClient._later",
        "RelayClient._places",
        "Rendezvous._allowances",
        "Servers._buckets",
        "Streams._rates",
        "Votes._votes",
        "_Key.providers",
    },
    "protocol": {"KeyRing._keys", "Reassembler._completed", "SentCache._sent"},
    "resolver": {"Resolver._literals", "Resolver._names"},
    "outbox": {"Deliveries._noted", "_Trouble.waiting"},
    "refused": {"Peers._others", "Peers._refused", "Peers._warned"},
    "gauges": {"Presence._peers", "Reach._behind", "_Neighbour.feeds", "SyncPlanner._given_up"},
    "requests": {"Requests._answers", "Requests._requests"},
    "sockets": {"Sockets._heard_on"},
    "checks": {"Checks._orders"},
    "serving": {"Serving._lines", "Serving._singles", "_Line.waiting"},
}
"""Walk -> the tables that it fills."""


def declared_tables() -> set[str]:
    """``Class.attribute`` of every attribute that is annotated as a bounded table."""
    found = set()
    for _, tree in modules():
        for owner in ast.walk(tree):
            if isinstance(owner, ast.ClassDef):
                for node in ast.walk(owner):
                    if isinstance(node, ast.AnnAssign) and "BoundedTable[" in ast.unparse(node.annotation):
                        found.add(f"{owner.name}.{ast.unparse(node.target).removeprefix('self.')}")
    return found


def test_every_table_is_walked() -> None:
    assert declared_tables() == set().union(*WALKS.values())


def test_every_table_is_an_annotated_attribute() -> None:
    """What is made anywhere else would not be found."""
    made = {
        name: sum(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BoundedTable"
            for node in ast.walk(tree)
        )
        for name, tree in modules()
    }
    assert sum(made.values()) == len(declared_tables()), made


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AUTHORS_MAX",
        "DECLINES_HEARD_MAX",
        "DECLINES_PER_SEED_MAX",
        "DECLINES_TOLD_MAX",
        "DECLINES_WAITING_MAX",
        "DECLINE_AUTHORS_MAX",
        "DECLINED_NEWS_MAX",
        "DELIVERIES_KEPT_MAX",
        "DISTRUSTED_SEEDS_MAX",
        "PEERS_MAX",
        "PUBLISHERS_DISTRUSTED_MAX",
        "REACH_NEIGHBOURS_MAX",
        "RELAY_LINKS_MAX",
        "RELAY_PROVIDERS_MAX",
        "RESOLVE_CACHE_MAX",
        "SEND_FROM_MAX",
        "SERVES_WAITING_MAX",
        "SOURCES_MAX",
        "SOURCE_PEERS_MAX",
        "TASKS_DECLINED_MAX",
        "UNSENT_PER_TARGET_MAX",
    ):
        monkeypatch.setattr(limits, name, ROOM)
    monkeypatch.setattr(limits, "SYNC_DESCENTS_MAX", 1)
    monkeypatch.setattr(limits, "SOURCE_GOOD_MIN", 2)
    monkeypatch.setattr(limits, "UNSENT_BYTES_PER_TARGET_MAX", ROOM * 1_000)


class Crowd:
    """Neighbours of one core, each at a host of its own, who do everything that fills a table."""

    def __init__(self) -> None:
        numbers = count(1)
        config = CoreConfig(
            seen_capacity=CROWD,
            sources=SourceRates(rejects_per_s=10, strangers_per_s=1_000_000),
            authors=AuthorRates(newcomer_envelopes_per_s=NEWCOMERS_PER_S, newcomer_bytes_per_s=1_000_000),
        )
        self.core = Core(config, signer("observer"), lambda: next(numbers))
        self.watch = Watch(self.core)
        self.now_ms = NOW_MS
        self.nonces = count(1)
        self.honest = self.neighbour("honest", HONEST)
        self.gossip = self.neighbour("gossip", "udp:192.0.2.2:9012")
        """Passes on what others have said already, or what is beyond their budget."""
        self.peers: dict[str | None, Neighbour] = {}
        self.authors: list[Author] = []
        self.compares = False
        self.author = Author("author of the honest")

    def neighbour(self, name: str, address: str) -> Neighbour:
        return Neighbour(self.core, name, address, self.nonces)

    def pass_on(self, peer: Neighbour, envelope: Envelope) -> Effects:
        self.core.allows(peer.address, self.now_ms, Effects())
        effects = peer.pass_on(envelope, self.now_ms)
        self.watch.look()
        return effects

    def tick(self, step_ms: int) -> Effects:
        self.now_ms += step_ms
        effects = Effects()
        self.core.handle(Tick(), self.now_ms, effects)
        self.watch.look()
        for send in effects.sends:
            talk = talk_in(send)
            if self.compares and send.to in self.peers and isinstance(talk, Request) and talk.buckets:
                answer = Heads([], buckets=[Bucket(prefix, []) for prefix in talk.buckets])
                self.peers[send.to].say(answer, self.now_ms)
                self.watch.look()
        return effects

    def publish(self, peer: Neighbour, author: Author) -> None:
        ts = self.now_ms // 1000
        envelope = author.say(Kind.SEED_CREATED, {"seed": author.seed(ts)}, ts)
        self.pass_on(peer, envelope)
        self.pass_on(self.gossip, envelope)

    def arrive(self, number: int, *, proves: bool) -> None:
        """One more of the crowd comes: says hello, promises, publishes, repeats what others said."""
        peer = self.neighbour(f"crowd {number}", f"udp:198.51.{number // 250}.{number % 250 + 1}:9012")
        self.peers[peer.address] = peer
        self.core.allows(f"udp:203.0.113.{number}:1", self.now_ms, Effects())
        self.core.allows(peer.address, self.now_ms, Effects())
        peer.hello(now_ms=self.now_ms)
        if proves:
            peer.confirm(self.now_ms)
            self.core.allows(peer.address, self.now_ms, Effects())
        invented = signer(f"invented {number}").node_id
        peer.heads(Head(invented, 1, "ab" * 32), now_ms=self.now_ms)
        peer.say(Heads([], hashlib.sha256(peer.address.encode()).hexdigest()[:32]), self.now_ms)
        peer.say(RelayPrune([invented]), self.now_ms)
        self.authors.append(Author(f"author {number}"))
        self.publish(peer, self.authors[-1])

    def regulars_speak(self) -> None:
        for peer in (self.honest, self.gossip):
            self.core.allows(peer.address, self.now_ms, Effects())
            if self.core.neighbours.peers.is_confirmed(peer.address):
                peer.hello(now_ms=self.now_ms)
            else:
                peer.challenge = ""
                peer.confirm(self.now_ms)


def test_core() -> None:
    crowd = Crowd()
    crowd.regulars_speak()
    for crowd.compares in (True, False):  # then they leave the node waiting for what they hold
        for _ in range(CROWD):
            crowd.arrive(len(crowd.authors), proves=True)
            crowd.regulars_speak()
            crowd.tick(200)
        for _ in range(CROWD):
            crowd.tick(500)
    for _ in range(CROWD):
        crowd.arrive(len(crowd.authors), proves=False)
        crowd.regulars_speak()
    for number in range(BURST):  # fresh identities use up what newcomers may spend; then others have to wait
        crowd.publish(crowd.gossip, Author(f"fresh {number}"))
    for author in crowd.authors:
        crowd.publish(crowd.gossip, author)
    crowd.tick(2_000)
    assert crowd.watch.filled >= WALKS["core"]

    # Whoever goes on speaking has lost nothing: it is heard, asked, and served.
    author, honest = crowd.author, crowd.honest
    for _ in range(40):  # until newcomers may come again
        crowd.regulars_speak()
        crowd.tick(500)
    ts = crowd.now_ms // 1000
    envelopes = [author.say(Kind.SEED_CREATED, {"seed": author.seed(ts)}, ts) for _ in range(3)]
    crowd.regulars_speak()
    honest.heads(Head(author.id, 3, author.head), now_ms=crowd.now_ms)
    assert HONEST in {send.to for send in crowd.tick(1_000).sends}
    for envelope in envelopes:
        crowd.pass_on(honest, envelope)
    assert crowd.core.replica.feeds.get(author.id).head_seq == 3
    assert [serve.to for serve in honest.ask(Want(author.id, 1, 3), now_ms=crowd.now_ms).serves] == [HONEST]


def test_authors() -> None:
    held = {f"known {number}": limits.AUTHOR_KNOWN_ENTRIES for number in range(CROWD)}
    budgets = AuthorBudgets(AuthorRates(envelopes_per_s=10), lambda author: held.get(author, 0), "me")
    watch = Watch(budgets)
    for now_ms in (NOW_MS, NOW_MS + limits.AUTHOR_KNOWN_AFTER_MS):
        for author in held:
            for _ in range(2):  # as a newcomer, and when its time has come
                budgets.charge(author, 100, now_ms, requested=False)
                assert budgets.charge("known 0", 100, now_ms + 1, requested=False), "it never stops"
                budgets.charge(author, 100, now_ms + limits.AUTHOR_KNOWN_AFTER_MS, requested=False)
            watch.look()
    assert watch.filled >= WALKS["authors"]
    assert budgets.knows("known 0")


def test_declines() -> None:
    declines = Declines(lambda: 0)
    watch = Watch(declines)
    for number in range(CROWD):
        for author in range(CROWD):
            declines.hear(f"seed {number}", HeardDecline(f"author {author}", "busy", None, NOW_MS + number * 1_000))
            declines.decline(f"seed {author}", Declined(Reason.BUSY, ""), 0, NOW_MS)
            watch.look()
        declines.due(NOW_MS + number * 1_000)
        watch.look()
    assert watch.filled >= WALKS["declines"]


def _busy(again: Again, _seed: Seed) -> Declined:
    return Declined(Reason.BUSY, "", again=again)


def test_seller() -> None:
    core = Core(CoreConfig(auto_bid=True), signer("worker"), lambda: 0)
    seller, records = core.trading.seller, core.replica.state.records
    watch = Watch(seller)
    for number in range(3 * CROWD * CROWD):
        publisher = f"publisher {number // CROWD}"
        seed = Seed(
            id=f"seed {number}",
            title="t",
            command="true",
            timeout_ms=1_000,
            bid_deadline_ts=NOW_S + 60,
            exec_deadline_ms=1_000,
            created_by=publisher,
            created_at=NOW_S,
        )
        fact = Fact(kind=FactKind.SEED, author=publisher, seq=number, ts=NOW_S, body=seed)
        records[seed.id] = Record(fact)
        again = (Again.ROOM, Again.OPENING, Again.PUBLISHER)[number % 3 if number < CROWD * CROWD else 2]
        core.trading.surroundings.fit = partial(_busy, again)
        core.trading.surroundings.machine = partial(Machine, paused=True)
        seller.watch(seed.id, records[seed.id], NOW_MS)
        seller.moves(NOW_MS)
        watch.look()
    assert watch.filled >= WALKS["seller"]


def message(number: int) -> bytes:
    return b'{"n":%d,"pad":"%s"}' % (number, b"x" * 3_000)


def test_protocol() -> None:
    ring = KeyRing(ROOM)
    reassembler = Reassembler(ReassemblyLimits(completed_max=ROOM))
    cache = SentCache(SentLimits(bytes_max=ROOM * 5_000))
    watch = Watch(ring, reassembler, cache)
    for number in range(CROWD):
        ring.find(signer(f"key {number}").node_id)
        datagrams = cache.split(message(number), NOW_MS)
        source = f"udp:198.51.100.{number}:1"
        taken = [reassembler.add(source, datagram, NOW_MS) for datagram in datagrams]
        assert isinstance(taken[-1], Complete)
        assert reassembler.add(source, datagrams[0], NOW_MS) == Dropped(Reason.DUPLICATE)
        digest = hashlib.sha256(message(number)).digest()
        for asker in range(CROWD):
            assert cache.answer(f"udp:203.0.113.{asker}:1", request(digest, [0]), NOW_MS) == datagrams[:1]
            watch.look()
    assert watch.filled >= WALKS["protocol"]
    assert ring.find(signer("key 0").node_id) is not None


def test_a_message_larger_than_the_whole_cache_is_sent_and_costs_the_others_nothing() -> None:
    cache = SentCache(SentLimits(bytes_max=5_000))
    kept = cache.split(message(1), NOW_MS)
    large = b'{"%s":0}' % (b"x" * 10_000)
    assert cache.split(large, NOW_MS) == split(large)
    assert cache.answer(HONEST, request(hashlib.sha256(message(1)).digest(), [0]), NOW_MS) == kept[:1]


async def test_resolver() -> None:
    asked = []

    def look_up(host: str, port: int) -> list[Endpoint]:
        asked.append(host)
        return [Endpoint(socket.AF_INET, ("192.0.2.1", port))]

    resolver = Resolver(look_up)
    watch = Watch(resolver)
    for number in range(CROWD):
        assert (await resolver.resolve(Address(f"198.51.100.{number}", 1))).sockaddr == (f"198.51.100.{number}", 1)
        await resolver.resolve(Address(f"host{number}.example", 1))
        await resolver.resolve(Address("often.example", 1))
        watch.look()
    assert watch.filled >= WALKS["resolver"]
    assert asked.count("often.example") == 1


def test_sockets() -> None:
    sockets = Sockets(65_536, lambda: None)
    watch = Watch(sockets)
    loopback = Endpoint(socket.AF_INET, ("127.0.0.1", 0))
    try:
        heard, _ = sockets.listen(loopback), sockets.listen(loopback)
        sock = next(each for each in sockets.all() if each.getsockname()[1] == heard.port)
        for number in range(CROWD):
            sockets.heard(sock, Address(f"127.0.1.{number}", 9))
            watch.look()
    finally:
        for each in sockets.all():
            each.close()
    assert watch.filled >= WALKS["sockets"]


def test_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEB_LINKS_MAX", ROOM)
    attempts, links = Attempts(ROOM), Links()
    watch = Watch(attempts, links)
    codes = [f"code {number}" for number in range(CROWD)]
    for number, code in enumerate(codes):
        attempts.failed(f"192.0.2.{number}", NOW_MS)
        links.add(digest_of(code), NOW_MS)
        watch.look()
    assert watch.filled >= WALKS["access"]
    assert [links.use(code, NOW_MS) for code in codes] == [False] * (CROWD - ROOM) + [True] * ROOM


def test_web() -> None:
    budgets = Budgets(1, ROOM)
    watch = Watch(budgets)
    for number in range(CROWD):
        assert not budgets.wait_ms(f"192.0.2.{number}", NOW_MS)
        watch.look()
    assert watch.filled >= WALKS["web"]


def test_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SYNC_MISSING_FEEDS_MAX", ROOM)
    presence, reach, planner = Presence(60_000), Reach(), SyncPlanner(Feeds(), Parking(60))
    watch = Watch(presence, reach, planner)
    for number in range(CROWD):
        address, now_ms = f"udp:198.51.100.{number}:1", NOW_MS + number * 2 * limits.SYNC_MISSING_TTL_MS
        presence.look([(HONEST, "honest", now_ms), (address, f"node {number}", now_ms)], now_ms)
        reach.level(address)
        for feed in range(2 * limits.REACH_FEEDS_MAX):
            reach.told(address, f"author {feed}", feed, feed + 1)
        assert reach.behind(address, lambda _: 1_000) is not None
        planner.hear(Head(signer(f"invented {number}").node_id, 1, "ab" * 32), address, now_ms)
        for later_ms in (0, limits.SYNC_REQUEST_RETRY_MS_MAX, 2 * limits.SYNC_MISSING_TTL_MS):
            planner.requests(now_ms + later_ms, lambda _: True)
        watch.look()
    assert watch.filled >= WALKS["gauges"]
    assert not presence.look([(HONEST, "honest", now_ms + 1)], now_ms + 1)[0], "who goes on speaking is not found anew"
    told = reach.behind(address, lambda _: 2 * limits.REACH_FEEDS_MAX)
    assert told is not None
    assert told[0] == limits.REACH_FEEDS_MAX


def test_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_ANSWERS_BYTES_MAX", ROOM * 10)
    requests = Requests(ttl_s=60, capacity=2 * ROOM)
    watch = Watch(requests)
    for number in range(2 * CROWD):
        record = RequestRecord(f"r{number}", "seed.publish", "digest", NOW_S, answer=Raw(b'"answer %02d"' % number))
        requests.put(structs.replace(record, answer=NO_ANSWER))
        requests.put(record)
        watch.look()
        assert requests.get(record.request_id, NOW_S) == record
    assert watch.filled >= WALKS["requests"]
    oldest = next(iter(requests.entries()))
    assert oldest.answer == NO_ANSWER, "answers are forgotten before requests"
    assert requests.get(oldest.request_id, NOW_S + 61) is None
    again = structs.replace(record, digest="another", at_s=NOW_S + 61, answer=NO_ANSWER)
    requests.put(again)
    assert requests.get(record.request_id, NOW_S + 61) == again, "an id that is used again has no old answer"


def test_refused() -> None:
    peers = Peers()
    watch = Watch(peers)
    for number in range(CROWD):
        assert peers.refused(f"udp:198.51.100.{number}:1", Refused(NOW_MS, "wrong_namespace", ""))
        assert peers.passed_on(f"node {number}", Introduction("alias", "agent"), NOW_MS)
        watch.look()
    assert watch.filled >= WALKS["refused"]


class Wire:
    """A transport that is down until it is mended."""

    def __init__(self) -> None:
        self.down = True
        self.sent: list[bytes] = []

    async def receive(self) -> list[tuple[bytes, Address]]:
        await trio.sleep_forever()

    async def send(self, data: bytes, to: Address) -> None:
        if self.down:
            raise NetworkError("unreachable", Reason.SEND_FAILED)
        self.sent.append(data)

    async def aclose(self) -> None:
        """Nothing to release."""


async def test_outbox(autojump_clock: trio.abc.Clock) -> None:
    wire = Wire()
    outbox = Outbox(
        wire,
        lambda: [address_of(HONEST)],
        neighbours=list,
        is_present=lambda _: False,
        legacy=False,
        datagrams_per_s=0,
        deliveries=Deliveries(1),
        notify=lambda _kind, _fields: None,
    )
    watch = Watch(outbox)
    for number in range(CROWD):
        outbox.put(Send(b"{%d}" % number, Kind.SEED_CREATED, f"small {number}"))
        await outbox.drain()
        watch.look()
    assert (outbox.unsent, outbox.dropped) == (ROOM, CROWD - ROOM)
    for number in range(CROWD):
        outbox.put(Send(b"{%02d}" % number + b"x" * 1_096, Kind.SEED_CREATED, f"large {number}"))
        await outbox.drain()
        watch.look()
    assert watch.filled >= WALKS["outbox"]
    assert outbox.unsent == ROOM * 1_000 // 1_100, "by its bytes"
    wire.down = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        while outbox.unsent:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [data.rstrip(b"x") for data in wire.sent] == [b"{%d}" % number for number in range(CROWD - 7, CROWD)]


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOCK_VOTES_MAX", ROOM)
    clocks = Clocks(300)
    watch = Watch(clocks)
    clocks.due(lambda: "drawn", NOW_MS)
    for number in range(CROWD):
        clocks.said(f"author{number}", f"udp:192.0.2.{number}:1", "drawn", NOW_S + 999, NOW_MS, configured=False)
        watch.look()
    assert watch.filled == WALKS["clocks"]
    assert clocks.ahead_s(NOW_MS) == 999


def test_liars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FEED_LIARS_MAX", ROOM)
    guard = FeedGuard(signer("me").node_id, Feeds())
    watch = Watch(guard)
    now_ms = NOW_MS
    for number in range(CROWD):
        assert guard.told(Head(signer("me").node_id, 5, "0" * 64), f"udp:192.0.2.{number}:1", now_ms)
        now_ms += limits.FEED_CLAIM_WAIT_MS + limits.FEED_CLAIM_PAUSE_MS
        assert not guard.blocks(now_ms), "a word that did not come true forbids nothing any more"
        watch.look()
    assert watch.filled == WALKS["liars"]


async def test_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PURCHASES_MAX", ROOM)
    settings = crabnet.Settings(data_dir=tmp_path, listen_addr="127.0.0.1:0", announce_addrs=())
    async with crabnet.Node(settings, listen=False) as node:
        watch = Watch(node.checks)
        for number in range(CROWD):
            node.checks.on_durable(Effects(checks=[CheckOrder(f"seed {number}", "result", "true")]))
            watch.look()
        assert watch.filled >= WALKS["checks"]


async def test_serving(tmp_path: Path) -> None:
    settings = crabnet.Settings(data_dir=tmp_path, listen_addr="127.0.0.1:0", announce_addrs=())
    async with crabnet.Node(settings) as node:
        seed = await node.publish(crabnet.Publish(title="t", command="true"))
        serving, me = node.serving, seed.created_by
        watch = Watch(serving)
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind(("127.0.0.1", 0))
        with sock:
            address = f"udp:127.0.0.1:{sock.getsockname()[1]}"
            for number in range(1, CROWD):
                serving.put(Serve(me, 1, 1, f"udp:127.0.0.1:{number}"))
                serving.put_single(ServeProof(me, number, f"udp:127.0.0.1:{number}"))
                watch.look()
            for number in range(CROWD):
                serving.put(Serve(me, number + 1, number + 1, address))
                watch.look()
            assert watch.filled >= WALKS["serving"]
            gone = CROWD - 1 - (ROOM - 1)
            proofs, ranges = CROWD - 1 - ROOM, CROWD - ROOM
            assert serving.dropped == gone + proofs + ranges, "what is not served is counted"
            with trio.fail_after(60):
                data, _ = await sock.recvfrom(65_536)
            assert seed.id.encode() in data
