"""The naive implementation, by cases whose outcome is known otherwise."""

from __future__ import annotations

import json

import pytest

from crabnet.protocol.canonical import JsonValue
from tests.support.branches import NOBODY_HOLDS
from tests.support.fork_cases import (
    SCRIPTS,
    TO_ACK,
    TO_BID,
    TO_CLAIM,
    TO_RESULT,
    TO_START,
    Case,
    Lane,
    Yard,
    hard_cases,
    small_cases,
)
from tests.support.naive import RENEWALS_MAX, World, expected
from tests.support.naive_state import Caps, NaiveSeed
from tests.support.teller import Pen


def status(case: Case) -> str | None:
    seed = expected(case.envelopes).seeds.get(case.seed_id)
    return None if seed is None else seed.status


def test_small_cases() -> None:
    cases = list(small_cases())

    assert {case.name: status(case) for case in cases} == {case.name: case.status for case in cases}
    assert len(cases) > 500
    assert {case.status for case in cases} == {
        None, "Open", "Claimed", "Running", "Done", "Accepted", "Forfeited", "Expired",
    }  # fmt: skip


TABLE = [
    ("creator forks at its seed", ("seed",), "seed", None),
    ("creator forks at its seed, bid", TO_BID, "seed", "Open"),
    ("creator forks at a claim", TO_CLAIM, "claim", "Open"),
    ("creator forks at a claim, started", TO_START, "claim", "Running"),
    ("creator forks at its seed, started", TO_START, "seed", "Running"),
    ("creator forks at a settlement", TO_ACK[:-1], "settle", "Done"),
    ("creator forks at a settlement, acknowledged", TO_ACK, "settle", "Accepted"),
    ("creator forks at a forfeit", SCRIPTS["forfeited"], "forfeit", "Running"),
    ("creator forks at a close", SCRIPTS["withdrawn"], "close", "Done"),
    ("worker forks at its bid", TO_BID, "bid", "Open"),
    ("worker forks at its bid, claimed", TO_CLAIM, "bid", "Claimed"),
    ("worker forks at its bid, settled", TO_ACK[:-1], "bid", "Accepted"),
    ("worker forks at its start", TO_RESULT, "start", "Claimed"),
    ("worker forks at its result", TO_RESULT, "result", "Running"),
    ("worker forks at its result, settled", TO_ACK[:-1], "result", "Accepted"),
    ("worker forks at its acknowledgement", TO_ACK, "ack", "Accepted"),
]


@pytest.mark.parametrize(("name", "script", "place", "outcome"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table_of_pins(name: str, script: tuple[str, ...], place: str, outcome: str | None) -> None:
    yard = Yard(script)
    yard.fork(place)

    assert status(yard.case(name, outcome)) == outcome


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_hard_cases(case: Case) -> None:
    assert status(case) == case.status


def test_a_settled_seed_in_full() -> None:
    lane = Lane(TO_ACK)
    step = lane.step

    assert expected(lane.envelopes).seeds == {
        step["seed"].id: NaiveSeed(
            "Accepted",
            1,
            step["claim"].id,
            lane.worker.id,
            step["start"].id,
            step["result"].id,
            step["settle"].envelope.meta.ts,
            0,
            frozenset(step[name].envelope.meta.id for name in ("bid", "claim", "start", "result", "settle")),
            step["seed"].envelope.meta.id,
        )
    }


def test_work_on_a_claim_that_was_withdrawn_does_not_count() -> None:
    lane = Lane(SCRIPTS["withdrawn"])
    seed = expected(lane.envelopes).seeds[lane.step["seed"].id]

    assert (seed.status, seed.attempt, seed.claim_id, seed.run_id, seed.result_id) == ("Expired", 2, None, None, None)
    assert seed.counted == {lane.step[name].envelope.meta.id for name in ("bid", "claim", "close")}


def test_what_is_behind_an_end_counts_where_it_is_settled_but_renewals_do_not() -> None:
    lane = Lane(TO_START)
    lane.renew(lane.worker, lane.step["start"])
    settlement = lane.settle(lane.creator, lane.result(lane.worker, lane.step["start"]))
    lane.filler(lane.worker.copy_before(1))
    seed = expected(lane.envelopes).seeds[lane.step["seed"].id]
    steps = [lane.step["bid"], lane.step["claim"], lane.step["start"], settlement.back_to("result"), settlement]

    assert seed.counted == {step.envelope.meta.id for step in steps}
    assert seed.run_id == lane.step["start"].id


def test_renewals_up_to_their_cap() -> None:
    lane = Lane(TO_START)
    for _ in range(RENEWALS_MAX + 1):
        lane.renew(lane.worker, lane.step["start"])
    seed = expected(lane.envelopes).seeds[lane.step["seed"].id]

    assert (seed.renewals, len(seed.counted)) == (RENEWALS_MAX, RENEWALS_MAX + 3)


def test_an_end_lies_before_the_lowest_fork_and_cuts_the_front() -> None:
    pen, lane = Pen("somebody"), Lane(())
    lane.filler(pen, 9)
    for place in (7, 3, 5):
        lane.filler(pen.copy_before(place))

    assert expected(lane.envelopes).heads == {pen.id: (2, pen.heads[2], True)}
    lane.filler(pen.copy_before(1))
    assert expected(lane.envelopes).heads == {pen.id: (0, "", True)}


@pytest.mark.parametrize("nobody", [True, False], ids=["nobody", "about another seed"])
def test_who_names_what_is_not_held_stops_its_own_feed_only(nobody: bool) -> None:
    lane = Lane(TO_BID)
    other = lane.seed(lane.creator)
    rival = Pen("rival")
    named = NOBODY_HOLDS if nobody else other.envelope.meta.id
    lane.mistake = lambda stated: stated.update(rests_on=named)
    lane.bid(rival, lane.step["seed"])
    lane.filler(rival)
    heads = expected(lane.envelopes).heads

    assert rival.id not in heads
    assert heads[lane.creator.id][0] == lane.creator.seq


@pytest.mark.parametrize("change", [{"rests_on": 7}, {"rests_on": None}, {"price": "5"}, {"bidder": "x"}, {"id": "x"}])
def test_a_broken_payload_keeps_its_place_and_pins_nothing(change: dict[str, JsonValue]) -> None:
    yard = Yard(("seed",))
    yard.mistake = lambda stated: stated.update(change)
    yard.bid(yard.worker, yard.step["seed"])
    yard.fork("seed")
    state = expected(yard.envelopes)

    assert state.heads[yard.worker.id][0] == 1
    assert state.seeds == {}


def test_a_step_on_the_wrong_kind_is_void() -> None:
    lane = Lane(TO_CLAIM)
    lane.mistake = lambda stated: stated.update(rests_on=lane.step["bid"].envelope.meta.id)
    lane.start(lane.worker, lane.step["claim"])
    state = expected(lane.envelopes)

    assert state.heads[lane.worker.id][0] == lane.worker.seq
    assert state.seeds[lane.step["seed"].id].status == "Claimed"


def test_bids_beyond_the_cap_are_void_and_free_of_it_behind_an_end() -> None:
    lane = Lane(("seed",))
    bids = [lane.bid(lane.worker, lane.step["seed"]) for _ in range(3)]
    lane.claim(lane.creator, bids[2])
    caps = Caps(bids_per_seed=2)

    assert expected(lane.envelopes, caps).seeds[lane.step["seed"].id].status == "Open"
    lane.filler(lane.worker.copy_before(3))
    assert expected(lane.envelopes, caps).seeds[lane.step["seed"].id].status == "Claimed"


def test_open_seeds_beyond_the_cap_until_one_is_closed() -> None:
    lane = Lane(())
    pen = lane.creator
    first, second = lane.seed(pen), lane.seed(pen)
    lane.settle(pen, first, "Expired")
    third = lane.seed(pen)
    seeds = expected(lane.envelopes, Caps(open_seeds=1)).seeds

    assert {seed_id: seed.status for seed_id, seed in seeds.items()} == {first.id: "Expired", third.id: "Open"}
    assert second.id not in seeds


def test_an_end_that_the_front_has_not_come_up_to() -> None:
    """Somebody bids on a seed of a feed that forked there, and of which the entries before are withheld."""
    lane = Lane(("seed",))
    withheld = lane.envelopes.pop(0)
    lane.filler(lane.creator.copy_before(2))
    lane.bid(lane.worker, lane.step["seed"])

    assert list(expected(lane.envelopes).heads) == [lane.worker.id]
    assert expected(lane.envelopes, reached=True).heads == {}
    assert expected([*lane.envelopes, withheld]) == expected([*lane.envelopes, withheld], reached=True)


def test_raw_bytes_and_duplicates_make_no_difference() -> None:
    lane = Lane(TO_ACK)
    loose = [json.dumps(json.loads(each.raw), indent=1).encode() for each in lane.envelopes]

    assert expected([*loose, *reversed(lane.envelopes)]) == expected(lane.envelopes)
    assert len(World(lane.envelopes).held) == len(lane.envelopes)
