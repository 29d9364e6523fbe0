"""Workers say why they do not bid: who says it when, who passes it on, who remembers it."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Send
from crabnet.errors import Reason
from crabnet.market.policies import Declined
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.sync import BidDeclined
from tests.support.envelopes import NOW_S, Author, seed_id_of, signer
from tests.support.talking import Neighbour, talk_in

NOW_MS = NOW_S * 1000
BUSY = Declined(Reason.BUSY, "it runs enough")


class Place(NamedTuple):
    """A core, and neighbours of it."""

    core: Core
    neighbours: list[Neighbour]

    def tick(self, now_ms: int) -> list[Send]:
        effects = Effects()
        self.core.handle(Tick(), now_ms, effects)
        return effects.sends

    def declines(self, now_ms: int) -> list[tuple[str | None, BidDeclined]]:
        """What it says to whom."""
        return [(send.to, talk) for send in self.tick(now_ms) if isinstance(talk := talk_in(send), BidDeclined)]


def place(name: str, *names: str, config: CoreConfig | None = None) -> Place:
    """A node, and neighbours that have proved their addresses."""
    numbers = count(1)
    core = Core(config or CoreConfig(), signer(name), lambda: next(numbers))
    neighbours = [Neighbour(core, each, f"udp:192.0.2.{number}:9012") for number, each in enumerate(names, 1)]
    found = Place(core, neighbours)
    for neighbour in neighbours:
        neighbour.confirm()
    found.tick(NOW_MS)
    return found


def decline_of(name: str, seed_id: str, reason: str = "busy", price: int | None = None, ts: int = NOW_S) -> Envelope:
    payload: JsonObject = {"seed_id": seed_id, "reason": reason}
    if price is not None:
        payload["price"] = price
    return seal(signer(name), kind=Kind.BID_DECLINED, namespace="default", ts=ts, nonce=7, payload=payload)


def published(at: Place, now_ms: int = NOW_MS) -> str:
    """A seed of the node itself."""
    effects = Effects()
    at.core.handle(Publish(title="t", command="true", reward=3), now_ms, effects)
    return effects.reply_seed_id


def heard(at: Place, seed_id: str) -> list[tuple[str, str, int | None]]:
    return [(each.author, each.reason, each.price) for each in at.core.declining.of(seed_id)]


# --- the worker ----------------------------------------------------------------------------------------


def worker_that_sees(*names: str, config: CoreConfig | None = None) -> tuple[Place, str]:
    """A worker, and a seed of the node ``publisher``."""
    at = place("worker", *names, config=config)
    author = Author("publisher")
    seed = author.publish()
    at.neighbours[0].pass_on(seed)
    return at, seed_id_of(seed)


def test_a_worker_tells_the_publisher_once_for_each_reason() -> None:
    at, seed_id = worker_that_sees("publisher", "other")
    for _ in range(3):
        at.core.declining.decline(seed_id, BUSY, NOW_MS)
    told = [said for ms in range(0, 3_000, 100) for said in at.declines(NOW_MS + ms)]
    assert told == [(at.neighbours[0].address, BidDeclined(seed_id, "busy"))]
    at.core.declining.decline(seed_id, BUSY, NOW_MS + 3_000)
    at.core.declining.decline(seed_id, Declined(Reason.PRICE, "", 5), NOW_MS + 3_000)
    told = [said for ms in range(3_000, 6_000, 100) for said in at.declines(NOW_MS + ms)]
    assert told == [(at.neighbours[0].address, BidDeclined(seed_id, "price", 5))]


@pytest.mark.parametrize("newest", [0, 1])
def test_a_publisher_that_was_started_again_elsewhere_is_told_where_it_was_heard_last(newest: int) -> None:
    """A purchase of one command takes any free port, and so the next one is another address of the same node."""
    at = place("worker", "publisher")
    at.neighbours.append(Neighbour(at.core, "publisher", "udp:198.51.100.1:40000", nonces=count(1_000)))
    at.neighbours[1].confirm(NOW_MS + 50)
    seed = Author("publisher").publish()
    at.neighbours[newest].pass_on(seed, NOW_MS + 100)
    at.core.declining.decline(seed_id_of(seed), BUSY, NOW_MS + 100)
    told = [to for ms in range(100, 3_000, 100) for to, _ in at.declines(NOW_MS + ms)]
    assert told == [at.neighbours[newest].address]


def test_a_publisher_that_is_no_neighbour_is_told_by_a_few_neighbours() -> None:
    at, seed_id = worker_that_sees(*(f"neighbour {number}" for number in range(9)))
    at.core.declining.decline(seed_id, BUSY, NOW_MS)
    told = [said for ms in range(0, 3_000, 100) for said in at.declines(NOW_MS + ms)]
    assert len(told) == len({to for to, _ in told}) == limits.DECLINE_FANOUT
    assert at.neighbours[0].address in {to for to, _ in told}, "who has brought the seed is nearest to the publisher"


@pytest.mark.parametrize("config", [CoreConfig(tell_declines=False), CoreConfig(talk=False)])
def test_a_node_that_is_not_to_tell_tells_nobody(config: CoreConfig) -> None:
    at, seed_id = worker_that_sees("publisher", config=config)
    at.core.declining.decline(seed_id, BUSY, NOW_MS)
    assert [said for ms in range(0, 3_000, 100) for said in at.declines(NOW_MS + ms)] == []


def test_a_worker_says_nothing_about_what_takes_no_more_bids() -> None:
    at, seed_id = worker_that_sees("publisher")
    at.core.declining.decline(seed_id, BUSY, NOW_MS)
    assert at.declines(NOW_MS + 61_000) == []


def test_a_worker_with_much_to_decline_is_held_to_its_rate() -> None:
    at = place("worker", "publisher")
    author = Author("publisher")
    seeds = [author.publish() for _ in range(limits.DECLINES_BURST + 30)]
    for seed in seeds:
        at.neighbours[0].pass_on(seed)
        at.core.declining.decline(seed_id_of(seed), BUSY, NOW_MS)
    first = at.declines(NOW_MS + 1_000)
    assert len(first) == limits.DECLINES_BURST
    later = [said for ms in range(1_100, 5_000, 100) for said in at.declines(NOW_MS + ms)]
    assert {said.seed_id for _, said in first + later} == {seed_id_of(seed) for seed in seeds}


# --- the publisher -------------------------------------------------------------------------------------


def test_a_publisher_remembers_the_last_word_of_each_worker() -> None:
    at = place("publisher", "worker", "other")
    seed_id = published(at)
    worker, other = at.neighbours
    for said in (BidDeclined(seed_id, "busy"), BidDeclined(seed_id, "price", 5)):
        worker.say(said)
    other.say(BidDeclined(seed_id, "moon_phase"))
    assert heard(at, seed_id) == [
        (worker.signer.node_id, "price", 5),
        (other.signer.node_id, "moon_phase", None),
    ]


def test_who_bids_declines_no_more() -> None:
    at = place("publisher", "worker")
    effects = Effects()
    at.core.handle(Publish(title="t", command="true", reward=3), NOW_MS, effects)
    seed_id = effects.reply_seed_id
    at.neighbours[0].say(BidDeclined(seed_id, "busy"))
    assert len(heard(at, seed_id)) == 1
    seed = at.core.replica.state.records[seed_id].seed
    assert seed is not None
    worker = Author("worker")
    bid: JsonObject = {"id": worker.next_object_id(), "seed_id": seed_id, "bidder": worker.id, "price": 1}
    bid |= {"created_at": NOW_S, "rests_on": seed.envelope}
    at.neighbours[0].pass_on(worker.say(Kind.BID_SUBMITTED, {"bid": bid}))
    assert heard(at, seed_id) == []


def test_crowds_of_workers_are_bounded() -> None:
    at = place("publisher", "neighbour")
    seed_id = published(at)
    for number in range(limits.DECLINES_PER_SEED_MAX + 20):
        at.neighbours[0].pass_on(decline_of(f"invented {number}", seed_id))
    assert len(heard(at, seed_id)) == limits.DECLINES_PER_SEED_MAX


def test_a_worker_that_says_too_much_is_not_heard() -> None:
    at = place("publisher", "worker")
    ids = [published(at) for _ in range(limits.DECLINES_BURST + 5)]
    for seed_id in ids:
        at.neighbours[0].say(BidDeclined(seed_id, "busy"))
    assert sum(len(heard(at, seed_id)) for seed_id in ids) == limits.DECLINES_BURST


def test_strangers_are_not_heard() -> None:
    at = place("publisher", "worker")
    seed_id = published(at)
    stranger = Neighbour(at.core, "stranger", "udp:198.51.100.1:1")
    stranger.say(BidDeclined(seed_id, "busy"))
    assert heard(at, seed_id) == []


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"seed_id": "", "reason": "busy"},
        {"reason": ""},
        {"reason": "Busy!"},
        {"reason": "x" * 33},
        {"reason": "busy", "price": 1},
        {"reason": "price", "price": -1},
    ],
)
def test_malformed_declines_count_against_their_source(payload: dict[str, str | int]) -> None:
    at = place("publisher", "worker")
    seed_id = published(at)
    said = seal(
        signer("worker"),
        kind=Kind.BID_DECLINED,
        namespace="default",
        ts=NOW_S,
        nonce=7,
        payload={"seed_id": seed_id, **payload} if payload else {},
    )
    effects = at.neighbours[0].pass_on(said)
    (notice,) = effects.notices
    known = bool(payload) and payload.get("seed_id") != ""
    assert (notice.kind, notice.fields["reason"]) == (
        ("envelope_rejected", "malformed") if known else ("envelope_ignored", "unsolicited")
    )
    assert heard(at, seed_id) == []


# --- in between ----------------------------------------------------------------------------------------


def between() -> tuple[Place, str]:
    """A node between a worker and the node ``publisher``, whose open seed it holds."""
    at = place("between", "worker", "publisher", "other")
    seed = Author("publisher").publish()
    at.neighbours[1].pass_on(seed)
    return at, seed_id_of(seed)


def test_a_decline_of_a_neighbour_is_passed_on_once_and_to_the_publisher_alone() -> None:
    at, seed_id = between()
    said = decline_of("worker", seed_id)
    sends = at.neighbours[0].pass_on(said).sends
    assert [(send.to, send.data) for send in sends] == [(at.neighbours[1].address, said.raw)]
    assert at.neighbours[0].pass_on(said).sends == []


def test_what_others_have_passed_on_is_not_passed_on_again() -> None:
    at, seed_id = between()
    assert at.neighbours[2].pass_on(decline_of("worker", seed_id)).sends == []


def test_a_decline_of_the_publisher_itself_is_nothing() -> None:
    at, seed_id = between()
    assert at.neighbours[1].pass_on(decline_of("publisher", seed_id)).sends == []


@pytest.mark.parametrize("case", ["unknown seed", "unknown publisher", "closed"])
def test_what_cannot_be_passed_on_is_dropped_before_its_signature_is_checked(case: str) -> None:
    at = place("between", "worker", *([] if case == "unknown publisher" else ["publisher"]))
    author = Author("publisher")
    seed = author.publish()
    if case != "unknown seed":
        at.neighbours[0].pass_on(seed)
    if case == "closed":
        at.neighbours[0].pass_on(author.settle(seed, "Expired"))
    said = decline_of("worker", seed_id_of(seed))
    forged = said.raw.replace(said.meta.signature.encode() if said.meta.signature else b"", b"A" * 86)
    effects = Effects()
    at.core.handle(Received(at.neighbours[0].address, forged), NOW_MS, effects)
    (notice,) = effects.notices
    assert (notice.kind, notice.fields["reason"]) == ("envelope_ignored", "unsolicited")
    assert at.core.collect([Received(at.neighbours[0].address, said.raw)], NOW_MS).signed == []
