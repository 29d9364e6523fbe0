"""More neighbours than a node has room for, honest ones and not: nothing raises, and the honest are served."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet import limits
from crabnet.core.commands import Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.sync.address_book import RememberedPeer
from crabnet.protocol.envelope import Kind
from crabnet.protocol.sync import Head, Heads, Hello, Request, Want
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.talking import Neighbour, talk_in

NOW_MS = NOW_S * 1000
NONCES = count(1)
HONEST = "udp:192.0.2.1:9012"
CONFIGURED = "udp:192.0.2.7:9012"


def new_core() -> Core:
    numbers = count(1)
    core = Core(CoreConfig(), signer("observer"), lambda: next(numbers))
    core.neighbours.trusted = frozenset({CONFIGURED})
    return core


@pytest.fixture
def core() -> Core:
    return new_core()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Core:
    """A core with room for eight neighbours."""
    monkeypatch.setattr(limits, "PEERS_MAX", 8)
    return new_core()


def tick(core: Core, now_ms: int) -> Effects:
    effects = Effects()
    core.handle(Tick(), now_ms, effects)
    return effects


def at_port(core: Core, name: str, port: int) -> Neighbour:
    return Neighbour(core, name, f"udp:198.51.100.1:{port}", NONCES)


def crowd(core: Core, number: int, now_ms: int = NOW_MS, *, proves: bool = True) -> list[Neighbour]:
    """So many neighbours of one key, each at a port of its own; ``proves`` that they answer the challenge."""
    found = []
    for port in range(1, number + 1):
        found.append(at_port(core, "crowd", port))
        if proves:
            found[-1].confirm(now_ms)
        else:
            found[-1].hello(now_ms=now_ms)
    return found


def asked(effects: Effects, address: str) -> list[Want]:
    """What the core asks of an address."""
    talks = [talk_in(send) for send in effects.sends if send.to == address]
    return [want for talk in talks if isinstance(talk, Request) for want in talk.wants]


def lost(effects: Effects) -> list[tuple[object, object]]:
    return [
        (notice.fields["address"], notice.fields["reason"]) for notice in effects.notices if notice.kind == "peer_lost"
    ]


def is_served(core: Core, peer: Neighbour, now_ms: int = NOW_MS) -> bool:
    """True if the neighbour gets what it asks for."""
    author = Author("served")
    peer.pass_on(author.say(Kind.SEED_CREATED, {"seed": author.seed()}), now_ms)
    return [serve.to for serve in peer.ask(Want(author.id, 1, 1), now_ms=now_ms).serves] == [peer.address]


def test_one_key_that_promises_an_invented_feed_from_each_of_many_ports_delays_nobody_for_long(core: Core) -> None:
    honest = Neighbour(core, "honest", HONEST)
    honest.confirm()
    ports = limits.PEERS_MAX + 76
    for port in range(1, ports + 1):
        invented = signer(f"invented {port}").node_id
        at_port(core, "mallory", port).heads(Head(invented, 1, "ab" * 32), now_ms=NOW_MS + 200 * port // ports)
        if port % 550 == 0:
            tick(core, NOW_MS + 200 * port // ports)
    tick(core, NOW_MS + 200)

    author = Author("author")
    envelopes = [author.say(Kind.SEED_CREATED, {"seed": author.seed()}) for _ in range(3)]
    honest.heads(Head(author.id, 3, author.head), now_ms=NOW_MS + 250)
    assert asked(tick(core, NOW_MS + 300), HONEST) == [Want(author.id, 1, 3)]
    for envelope in envelopes:
        honest.pass_on(envelope, NOW_MS + 310)
    assert core.replica.feeds.get(author.id).head_seq == 3

    later_ms = NOW_MS + limits.SYNC_MISSING_TTL_MS * 2
    for now_ms in range(NOW_MS + 500, later_ms, 20_000):
        tick(core, now_ms)
    assert core.neighbours.planner.flow.flying == 0, "what was promised in vain is given up"


def test_a_network_with_more_live_peers_than_there_is_room_for(core: Core) -> None:
    everybody = [Neighbour(core, f"peer {port}", f"udp:198.51.100.1:{port}") for port in range(limits.PEERS_MAX + 1)]
    for peer in everybody[:-1]:
        peer.confirm()
    replaced = everybody[-1].confirm()
    assert lost(replaced) == [(everybody[0].address, "replaced")]
    assert len(core.neighbours.peers.confirmed()) == limits.PEERS_MAX
    assert is_served(core, everybody[-1])

    (challenge,) = (talk for talk in everybody[0].heard(everybody[0].hello()) if isinstance(talk, Hello))
    assert lost(everybody[0].hello(echo=challenge.challenge)) == [(everybody[1].address, "replaced")]
    assert is_served(core, everybody[0])


def test_who_has_proved_itself_stays_however_many_strangers_come(few: Core) -> None:
    honest = Neighbour(few, "honest", HONEST)
    honest.confirm()
    crowd(few, 3 * limits.PEERS_MAX, proves=False)
    assert is_served(few, honest)


def test_a_stranger_can_prove_itself_while_all_room_is_taken_by_who_has(few: Core) -> None:
    crowd(few, limits.PEERS_MAX)
    newcomer = Neighbour(few, "newcomer", HONEST)
    newcomer.hello()
    for port in range(limits.PEERS_MAX - 1):
        at_port(few, "mallory", 1_000 + port).hello()
    newcomer.confirm()
    assert is_served(few, newcomer)


def test_who_speaks_stays_while_others_prove_themselves_and_fall_silent(few: Core) -> None:
    honest = Neighbour(few, "honest", HONEST)
    honest.confirm()
    for port in range(1, 5 * limits.PEERS_MAX):
        at_port(few, "crowd", port).confirm()
        if port % (limits.PEERS_MAX - 1) == 0:
            honest.hello()
    assert is_served(few, honest)


def relayed_to(core: Core) -> set[str | None]:
    """Whom a new live envelope is passed on to."""
    author = Author("live")
    effects = Neighbour(core, "live", "udp:203.0.113.50:1").pass_on(
        author.say(Kind.SEED_CREATED, {"seed": author.seed()}), NOW_MS + limits.RELAY_LOOK_MS
    )
    return {send.to for send in effects.sends if send.relayed}


@pytest.mark.parametrize("proves", [False, True], ids=["strangers", "proven"])
def test_a_configured_peer_that_speaks_is_relayed_to_beside_any_crowd(few: Core, *, proves: bool) -> None:
    configured = Neighbour(few, "configured", CONFIGURED)
    configured.hello()
    crowd(few, 3 * limits.PEERS_MAX, proves=proves)
    configured.hello()
    if proves:
        crowd(few, limits.PEERS_MAX - 1)
    else:
        crowd(few, 3 * limits.PEERS_MAX, proves=False)
    tick(few, NOW_MS + limits.RELAY_LOOK_MS)
    known = few.neighbours.peers
    assert known.present(CONFIGURED)
    assert known.node_id(CONFIGURED) == configured.signer.node_id
    if not proves:
        assert relayed_to(few) == {CONFIGURED}


def test_configured_peers_alone_may_be_more_than_there_is_room_for(few: Core) -> None:
    addresses = [f"udp:192.0.2.{number}:9012" for number in range(100, 120)]
    few.neighbours.trusted = frozenset(addresses)
    peers = [Neighbour(few, f"configured {address}", address) for address in addresses]
    for _ in range(2):
        for peer in peers:
            assert lost(peer.hello()) == [], "they have proved nothing"
    assert all(is_served(few, peer) for peer in peers)


def test_remembered_addresses_are_invited_while_all_room_is_taken(few: Core) -> None:
    crowd(few, limits.PEERS_MAX)
    crowd(few, 2 * limits.PEERS_MAX, proves=False)
    old = [
        RememberedPeer(f"udp:203.0.113.{number}:9012", "", NOW_S) for number in range(3 * limits.PEERS_TRIED_AT_ONCE)
    ]
    few.neighbours.book.load(old, NOW_MS)
    invited: dict[str, str] = {}
    for now_ms in range(NOW_MS, NOW_MS + 500, 100):
        for send in tick(few, now_ms).sends:
            talk = talk_in(send)
            if send.to is not None and send.to != CONFIGURED and isinstance(talk, Hello) and talk.challenge:
                invited[send.to] = talk.challenge
    assert len(invited) == len(old)
    last = next(reversed(invited))
    answer = Neighbour(few, "remembered", last)
    answer.challenge = invited[last]
    answer.confirm(NOW_MS + 500)
    assert is_served(few, answer, NOW_MS + 500)


def test_who_was_replaced_and_comes_back_is_told_what_is_held(few: Core) -> None:
    honest = Neighbour(few, "honest", HONEST)
    honest.confirm()
    author = Author("author")
    honest.pass_on(author.say(Kind.SEED_CREATED, {"seed": author.seed()}))
    crowd(few, limits.PEERS_MAX)
    honest.challenge = ""
    assert honest.ask(Want(author.id, 1, 1)).serves == []
    returned = honest.confirm()
    assert [talk for talk in honest.heard(returned) if not isinstance(talk, Hello)]
    assert is_served(few, honest)


def test_all_silent_peers_are_forgotten_in_the_order_in_which_they_fell_silent(few: Core) -> None:
    crowd(few, 3, NOW_MS)
    Neighbour(few, "configured", CONFIGURED).hello()
    at_port(few, "crowd", 1).hello(now_ms=NOW_MS + 1_000)
    first = lost(tick(few, NOW_MS + limits.PEER_SILENCE_MS_MAX + 1))
    assert first == [("udp:198.51.100.1:2", "timeout"), ("udp:198.51.100.1:3", "timeout")]
    assert not few.neighbours.peers.present(CONFIGURED)
    assert lost(tick(few, NOW_MS + limits.PEER_SILENCE_MS_MAX + 1_001)) == [("udp:198.51.100.1:1", "timeout")]


def test_more_neighbours_than_room_compare_what_they_hold(few: Core) -> None:
    author = Author("author")
    peers = [Neighbour(few, f"peer {number}", f"udp:203.0.113.{number}:1") for number in range(40)]
    peers[0].pass_on(author.say(Kind.SEED_CREATED, {"seed": author.seed()}))
    for _ in range(3):
        for number, peer in enumerate(peers):
            peer.challenge = ""
            peer.confirm()
            peer.say(Heads([], f"{number:032x}"))
    honest = Neighbour(few, "honest", HONEST)
    honest.confirm()
    honest.say(Heads([], "ab" * 16))
    bucketed: set[str | None] = set()
    for step in range(1, 400):
        now_ms = NOW_MS + step * 1_000
        effects = tick(few, now_ms)
        honest.say(Heads([], "ab" * 16), now_ms)
        talks = [(send.to, talk_in(send)) for send in effects.sends]
        bucketed.update(to for to, talk in talks if isinstance(talk, Request) and talk.buckets)
    assert HONEST in bucketed
