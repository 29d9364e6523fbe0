"""What others send makes a node write at most eight times as many bytes, whatever they say and whoever helps them.

The bytes of all that is said are counted, also those that only prepare for an attack; of what is written, journal,
archive, index, events and one checkpoint. What is kept, and judged again, does not grow with what is void.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from crabnet.core.replica.held import Held, HeldRow
from crabnet.core.replica.rows import seed_row
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import Record
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind
from tests.support import strangers
from tests.support.asking import asked
from tests.support.envelopes import NOW_S, Author, job, seed_id_of
from tests.support.strangers import Attack
from tests.support.victim import Victim, victim_in

FACTOR_MAX = 8
DAY_MS = 24 * 3_600_000
ATTACKS: list[Attack] = [
    strangers.late_bids,
    strangers.disputes_of_an_archived_seed,
    strangers.a_definition_that_comes_and_goes,
    strangers.a_dispute_about_results,
    strangers.a_claim_of_a_later_attempt,
    strangers.steps_without_right,
    strangers.descending_forks_of_bidders,
    strangers.forks,
    strangers.announced_proofs,
    strangers.tiny,
]


class CountingHeld:
    """Passes on what is held, and counts the envelopes of which it tells."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self.told = 0

    def id_at(self, author: str, seq: int, /) -> str | None:
        return self._held.id_at(author, seq)

    def envelope(self, seed_id: str, envelope_id: str, /) -> tuple[HeldRow, bytes] | None:
        self.told += 1
        return self._held.envelope(seed_id, envelope_id)

    def about(self, seed_id: str, /, *, bids: bool) -> list[HeldRow]:
        rows = self._held.about(seed_id, bids=bids)
        self.told += len(rows)
        return rows

    def seeds_from(self, author: str, seq: int, limit: int, /) -> list[tuple[int, str]]:
        found = self._held.seeds_from(author, seq, limit)
        self.told += len(found)
        return found

    def add(self, row: HeldRow, raw: bytes, /) -> None:
        self._held.add(row, raw)


def only_record(victim: Victim) -> Record:
    """All that is in memory of the one seed."""
    (record,) = victim.node.core.replica.state.records.values()
    return record


async def shown(victim: Victim, seed_id: str, *lists: str) -> list[int]:
    """How long some lists of the control view are."""
    view = cast(dict[str, list[JsonObject]], await asked(victim.node, "seed.show", {"seed_id": seed_id}))
    return [len(view[each]) for each in lists]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
async def test_what_is_written_for_what_is_said(attack: Attack, tmp_path: Path) -> None:
    async with victim_in(tmp_path) as victim:
        before = await victim.written()
        await attack(victim)
        written = (await victim.written()).since(before).total
    assert written <= FACTOR_MAX * victim.heard, f"{written / victim.heard:.1f} times"


@pytest.mark.deep
@pytest.mark.parametrize("attempts", [8, 20])
async def test_what_is_written_for_a_dispute_about_many_attempts(attempts: int, tmp_path: Path) -> None:
    async with victim_in(tmp_path) as victim:
        await strangers.a_dispute_about_forfeited_attempts(victim, attempts)
        assert (await victim.written()).total <= FACTOR_MAX * victim.heard


@pytest.mark.parametrize(
    "attack", [strangers.malformed, strangers.bad_signatures, strangers.proofs_that_nobody_asked_for, strangers.gaps]
)
async def test_nothing_is_journalled_of_what_takes_no_place(attack: Attack, tmp_path: Path) -> None:
    async with victim_in(tmp_path) as victim:
        before = await victim.written()
        await attack(victim)
        assert (await victim.written()).since(before).journal == 0


async def test_a_creator_that_takes_back_its_steps_one_by_one_has_each_written_once(tmp_path: Path) -> None:
    async with victim_in(tmp_path) as victim:
        await strangers.descending_forks(victim)
        assert (await victim.written()).total <= FACTOR_MAX * victim.heard
        record = only_record(victim)
        assert (record.progress.status, len(record.bids), record.others) == (SeedStatus.OPEN, 1, ())
        assert len(record.fallen) == 198


@pytest.mark.parametrize("attack", [strangers.results_of_a_non_winner, strangers.results_of_non_winners])
async def test_results_of_those_who_did_not_win_leave_no_trace_in_the_seed(attack: Attack, tmp_path: Path) -> None:
    seed, bid, claim, start, result, settlement, acknowledgement = job()
    seed_id = seed_id_of(seed)
    async with victim_in(tmp_path) as victim:
        await victim.tell(seed, bid, claim, start)  # the attack says the same once more
        row = seed_row(seed_id, only_record(victim))
        await attack(victim)
        assert seed_row(seed_id, only_record(victim)) == row
        assert await shown(victim, seed_id, "results") == [0]

        await victim.tell(result, settlement, acknowledgement)
        await victim.wait(30 * DAY_MS)
        assert not victim.node.core.replica.state.records
        assert await shown(victim, seed_id, "results", "settlements", "acknowledgements") == [1, 1, 1]


async def told_of_what_is_held(data_dir: Path, facts: int) -> list[int]:
    """How much an honest bid, its end by a fork, and the steps of a job have the node look up among void facts."""
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    counts = []
    async with victim_in(data_dir) as victim:
        await strangers.void_facts(victim, facts)
        held = CountingHeld(victim.node.history)
        victim.node.core.replica.held = held
        rival = Author("rival")
        honest = rival.bid(seed)
        claim = creator.claim(bid)
        start = worker.start(claim)
        result = worker.finish(start)
        taken_back = strangers.other(rival, honest)
        for envelope in (honest, taken_back, Author("third").bid(seed), claim, start, result, creator.settle(result)):
            before = held.told
            await victim.tell(envelope)
            counts.append(held.told - before)
        assert only_record(victim).progress.status is SeedStatus.ACCEPTED
    return counts


@pytest.mark.parametrize("facts", [1_020, pytest.param(10_200, marks=pytest.mark.deep)])
async def test_void_facts_about_a_seed_are_not_looked_at_again(facts: int, tmp_path: Path) -> None:
    few = await told_of_what_is_held(tmp_path / "few", 10)
    many = await told_of_what_is_held(tmp_path / "many", facts)
    assert many == few
    assert sum(few), "nothing was looked up at all"


async def test_a_seed_that_came_back_leaves_memory_again_when_it_has_rested_as_long(tmp_path: Path) -> None:
    async with victim_in(tmp_path) as victim:
        records = victim.node.core.replica.state.records
        creator, rival = Author("creator"), Author("rival")
        seed = creator.publish(claim_deadline_ts=NOW_S)
        twin = creator.twin().rewind(seed).publish(title="other")
        bid = rival.bid(twin)
        await victim.tell(seed, Author("worker").bid(seed), twin, bid, twin)
        assert [record.progress.status for record in records.values()] == [SeedStatus.DISPUTED]
        await victim.wait(30 * DAY_MS)
        assert not records

        await victim.tell(rival.rewind(bid).say(Kind.UNKNOWN, {}, victim.clock.now_ms // 1000))
        assert [record.progress.status for record in records.values()] == [SeedStatus.OPEN]
        await victim.wait(29 * DAY_MS)
        assert records
        await victim.wait(2 * DAY_MS)
        assert not records
