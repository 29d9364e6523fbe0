"""Which address is dialled when: rules over any order of what may happen, and single cases."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crabnet import limits
from crabnet.p2p.dialling import DialBook, Entry
from crabnet.protocol.identity import Signer
from crabnet.transport.p2p_wire import Known, Learnt

PEERS = [Signer(bytes([number]) * 32).node_id for number in range(1, 9)]
OWN = Signer(b"o" * 32).node_id
CAPACITY = 16
HOW = [each for each in Learnt if each is not Learnt.CONFIGURED]

ips = st.sampled_from([f"192.0.2.{last}" for last in range(1, 6)])
ports = st.integers(1, 12)
peers = st.sampled_from([*PEERS, OWN])


def at(host: str, port: int, peer: str) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{peer}"


class AnyOrder(RuleBasedStateMachine):
    """Calls in any order, as a hostile network could cause them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000_000
        self.book = DialBook(OWN, CAPACITY, lambda: 0.5)
        self.configured = {at("198.51.100.1", 1, PEERS[0]): PEERS[0], "/dns/boot.example/tcp/1": ""}
        for address, peer in self.configured.items():
            self.book.configure(address, peer)
        self.trying: dict[str, Entry] = {}
        self.connected: dict[str, int] = {}
        """Peers that are connected, and since when."""

    @rule(host=ips, port=ports, peer=peers, learnt=st.sampled_from(HOW))
    def somebody_tells(self, host: str, port: int, peer: str, learnt: Learnt) -> None:
        worked = {each.address for each in self.book.entries() if each.succeeded_s}
        self.book.learn(at(host, port, peer), peer, learnt, self.now_ms)
        assert worked <= {each.address for each in self.book.entries()}, "no word of a stranger removes what works"

    @rule(pause_ms=st.sampled_from([1, 300, 3_000, 60_000, 400_000]))
    def time_passes(self, pause_ms: int) -> None:
        self.now_ms += pause_ms

    @rule(wanted=st.integers(-3, 8))
    def dial(self, wanted: int) -> None:
        free = max(0, wanted - sum(each.is_trying for each in self.book.entries() if each.learnt in HOW))
        chosen = self.book.due(self.now_ms, set(self.connected), wanted)
        names = [each.peer for each in [*chosen, *self.trying.values()] if each.peer]
        assert len(names) == len(set(names)), "one try of a peer at a time"
        assert not set(names) & set(self.connected) - {each.peer for each in self.trying.values()}
        assert OWN not in names
        assert all(each.try_ms <= self.now_ms for each in chosen)
        assert sum(each.learnt in HOW for each in chosen) <= free
        assert not {each.address for each in chosen} & self.trying.keys()
        self.trying |= {each.address: each for each in chosen}

    @precondition(lambda self: self.trying)
    @rule(data=st.data(), peer=st.sampled_from(PEERS))
    def a_try_succeeds(self, data: st.DataObject, peer: str) -> None:
        entry = self.trying.pop(data.draw(st.sampled_from(sorted(self.trying))))
        found = entry.expected or peer
        self.book.succeeded(entry.address, found, self.now_ms, self.now_ms // 1000)
        self.connected.setdefault(found, self.now_ms)
        assert found in self.book.up() or self.book.entry(entry.address) is None

    @precondition(lambda self: self.trying)
    @rule(data=st.data(), for_good=st.booleans())
    def a_try_fails(self, data: st.DataObject, for_good: bool) -> None:
        entry = self.trying.pop(data.draw(st.sampled_from(sorted(self.trying))))
        known = self.book.entry(entry.address) is entry
        failures, worked = entry.failures, entry.succeeded_s
        self.book.failed(entry.address, self.now_ms, for_good=for_good)
        if not known:
            return  # there was no room for it any more
        hopeless = for_good or (not worked and failures + 1 >= limits.P2P_FAILURES_HOPED)
        if hopeless and entry.address not in self.configured:
            assert self.book.entry(entry.address) is None
            return
        assert self.book.entry(entry.address) is entry
        assert entry.failures == failures + 1
        assert limits.P2P_REDIAL_MS // 2 <= entry.try_ms - self.now_ms <= limits.P2P_REDIAL_MS_MAX

    @precondition(lambda self: self.connected)
    @rule(data=st.data())
    def a_peer_is_lost(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.connected)))
        del self.connected[peer]
        lasted = {
            each.address
            for each in self.book.entries()
            if each.peer == peer and each.up_ms is not None and self.now_ms - each.up_ms >= limits.P2P_LASTING_MS
        }
        self.book.lost(peer, self.now_ms)
        for address in lasted:
            entry = self.book.entry(address)
            assert entry is not None
            assert (entry.try_ms, entry.failures) == (self.now_ms, 0), "what worked is tried at once"
        assert peer not in self.book.up()

    @invariant()
    def bounds_hold(self) -> None:
        others = [each for each in self.book.entries() if each.address not in self.configured]
        assert len(others) - len(self.configured) <= CAPACITY + len(HOW) * limits.P2P_HOPED_MAX
        assert sum(bool(each.succeeded_s) for each in others) <= CAPACITY
        for peer in PEERS:
            hoped = [each for each in others if each.peer == peer and not each.succeeded_s]
            assert len(hoped) <= limits.P2P_ADDRESSES_PER_PEER_MAX
        addresses = [each.address for each in self.book.entries()]
        assert len(addresses) == len(set(addresses))
        assert self.configured.keys() <= set(addresses)
        known = self.book.known()
        assert all(each.succeeded_s for each in known)
        assert known == sorted(known, key=lambda each: each.succeeded_s)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase


def book(*configured: str) -> DialBook:
    made = DialBook(OWN, CAPACITY, lambda: 1.0)
    for address in configured:
        made.configure(address, "")
    return made


def test_pauses_grow_up_to_the_longest() -> None:
    address, now_ms = "/ip4/192.0.2.1/tcp/1", 0
    made = book(address)
    pauses = []
    for _ in range(10):
        (entry,) = made.due(now_ms, set(), 0)
        made.failed(address, now_ms)
        pauses.append(entry.try_ms - now_ms)
        now_ms = entry.try_ms
    assert pauses[:4] == [250, 500, 1_000, 2_000]
    assert pauses[-1] == limits.P2P_REDIAL_CONFIGURED_MS_MAX


def test_another_peer_may_be_at_an_address_without_an_id() -> None:
    """The operator has installed the node there anew."""
    address = "/ip4/192.0.2.1/tcp/1"
    made = book(address)
    for peer in PEERS[:2]:
        (entry,) = made.due(100_000, set(), 0)
        assert not entry.expected
        made.succeeded(address, peer, 0, 1)
        made.lost(peer, 100_000)


def test_a_peer_that_closes_each_connection_at_once_is_put_off_more_and_more() -> None:
    address, now_ms = "/ip4/192.0.2.1/tcp/1", 0
    made = book(address)
    pauses = []
    for _ in range(5):
        (entry,) = made.due(now_ms, set(), 0)
        made.succeeded(address, PEERS[0], now_ms, 1)
        assert made.lost(PEERS[0], now_ms + 10) == [entry]
        pauses.append(entry.try_ms - now_ms - 10)
        now_ms = entry.try_ms
    assert pauses == [250, 500, 1_000, 2_000, 4_000]


def test_a_lost_peer_is_tried_every_second_for_a_while() -> None:
    address = "/ip4/192.0.2.1/tcp/1"
    made = book(address)
    made.due(0, set(), 0)
    made.succeeded(address, PEERS[0], 0, 1)
    made.lost(PEERS[0], 10_000)
    now_ms = 10_000
    while now_ms < 10_000 + limits.P2P_LOST_MS:
        (entry,) = made.due(now_ms, set(), 0)
        made.failed(address, now_ms)
        assert entry.try_ms - now_ms <= limits.P2P_REDIAL_LOST_MS_MAX
        now_ms = entry.try_ms
    made.due(now_ms, set(), 0)
    made.failed(address, now_ms)
    assert entry.try_ms - now_ms == limits.P2P_REDIAL_CONFIGURED_MS_MAX


def test_a_flood_of_told_addresses_leaves_other_ways_of_learning_alone() -> None:
    made = book()
    made.learn(at("192.0.2.1", 1, PEERS[0]), PEERS[0], Learnt.MDNS, 0)
    for number in range(2 * limits.P2P_HOPED_MAX):
        peer = Signer(number.to_bytes(32, "big")).node_id
        made.learn(at("198.51.100.1", 1 + number, peer), peer, Learnt.RENDEZVOUS, 0)
    assert made.entry(at("192.0.2.1", 1, PEERS[0])) is not None
    assert len(made.entries()) == 1 + limits.P2P_HOPED_MAX


def test_one_host_cannot_fill_the_book_with_addresses_that_work() -> None:
    made = book()
    kept = at("192.0.2.1", 1, PEERS[0])
    for address, peer in [(kept, PEERS[0]), *((at("192.0.2.9", port, PEERS[1]), PEERS[1]) for port in range(1, 60))]:
        made.learn(address, peer, Learnt.IDENTIFY, 0)
        made.succeeded(address, peer, 0, 1)
    assert made.entry(kept) is not None
    assert len(made.entries()) == 1 + limits.P2P_ADDRESSES_PER_PEER_MAX


def test_what_is_remembered_is_dialled_again_in_the_order_of_its_success() -> None:
    known = [Known(at("192.0.2.1", port, PEERS[port]), PEERS[port], Learnt.MDNS, 1_000 + port) for port in (1, 2, 3)]
    made = book()
    made.load(known, 2_000)
    assert [each.address for each in made.due(0, set(), 2)] == [known[2].address, known[1].address]
    assert made.known() == known
    assert {each.learnt for each in made.known()} == {Learnt.MDNS}


def test_what_has_failed_for_long_is_not_remembered() -> None:
    now_s = 100 * 86_400
    old = Known(at("192.0.2.1", 1, PEERS[0]), PEERS[0], Learnt.MDNS, 1, failures=1)
    quiet = Known(at("192.0.2.1", 2, PEERS[1]), PEERS[1], Learnt.MDNS, 1)
    made = book()
    made.load([old, quiet], now_s)
    assert [each.address for each in made.entries()] == [quiet.address]


def test_an_address_that_never_worked_is_forgotten_and_one_that_has_is_kept() -> None:
    hoped, proven = at("192.0.2.1", 1, PEERS[0]), at("192.0.2.1", 2, PEERS[1])
    made = book()
    made.learn(hoped, PEERS[0], Learnt.RENDEZVOUS, 0)
    made.load([Known(proven, PEERS[1], Learnt.MDNS, 10)], 20)
    for _ in range(50):
        made.failed(hoped, 0)
        made.failed(proven, 0)
    assert [each.address for each in made.entries()] == [proven]
    assert made.entries()[0].is_set_aside
