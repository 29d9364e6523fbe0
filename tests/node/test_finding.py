"""Ids by their beginnings, and lists with filters, in memory and archived, beside a node and from the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.commands import Settle
from crabnet.domain.fold import refold
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import Record
from crabnet.errors import RefusedError, UsageError
from crabnet.node.node import Node
from crabnet.node.operations.reading import read_locally
from crabnet.node.seeds import Filter, SeedPlace, needs_operator, search_seeds
from crabnet.protocol.canonical import JsonObject, JsonValue
from tests.operator.support import Clock, publish, settings_of, work
from tests.support.asking import asked
from tests.support.facts import CREATOR, START_S, STRANGER, WORKER, Scribe, everything

SEEDS = 6


@pytest.fixture(name="found", scope="module")
def _found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a node with archived and other tasks answers, its data dir, and the ids of its tasks, oldest first."""
    data_dir, clock, ids = tmp_path_factory.mktemp("finding") / "d", Clock(), list[str]()
    answers: dict[str, JsonObject] = {}

    async def fill(node: Node) -> None:
        for number in range(SEEDS):
            seed = await publish(node, f"task {number}")
            ids.append(seed.id)
            if number % 2 == 0:
                await node.perform(Settle(seed_id=seed.id, outcome=SeedStatus.EXPIRED))
        clock.now_ms += 3_600_000
        while await node.archivist.archive_due():
            pass
        assert len(node.core.replica.state.records) < SEEDS
        for name, params in requests(ids, node.node_id).items():
            method = "seed.list" if name.startswith("list") else "id.find"
            answers[name] = await asked(node, method, params)

    work(data_dir, fill, clock=clock, archive_after_s=60)
    return {"answers": answers, "data_dir": data_dir, "ids": ids}


def requests(ids: list[str], node_id: str) -> dict[str, JsonObject]:
    return {
        "archived": {"kind": "seed", "text": ids[0][:9]},
        "upper": {"kind": "seed", "text": ids[1][:9].upper()},
        "whole": {"kind": "seed", "text": ids[2]},
        "last": {"kind": "seed", "text": "@last"},
        "none": {"kind": "seed", "text": "zzzz"},
        "all": {"kind": "seed", "text": "", "limit": 4},
        "hostile": {"kind": "seed", "text": "%_\U0010ffff'\"--"},
        "node end": {"kind": "node", "text": node_id[-6:]},
        "node middle": {"kind": "node", "text": f"{node_id[:4]}…{node_id[-4:]}"},
        "node without its beginning": {"kind": "node", "text": node_id[8:14]},
        "node": {"kind": "node", "text": node_id},
        "list text": {"text": "TASK 3"},
        "list mine": {"mine": True, "limit": 4},
        "list others": {"mine": False},
        "list since": {"since": 4_000_000_000},
    }


@pytest.mark.parametrize("place", ["node", "files"])
def test_ids_are_found_by_their_beginning(found: dict[str, object], place: str) -> None:
    ids, data_dir = cast(list[str], found["ids"]), cast(Path, found["data_dir"])
    answers = cast(dict[str, JsonObject], found["answers"])
    node_id = str(answers["list mine"]["node_id"])
    if place == "files":
        answers = {
            name: cast(
                JsonObject,
                read_locally(settings_of(data_dir), "seed.list" if name.startswith("list") else "id.find", params),
            )
            for name, params in requests(ids, node_id).items()
        }

    def rows(name: str) -> list[str]:
        return [str(cast(JsonObject, each)["id"]) for each in cast(list[JsonValue], answers[name]["found"])]

    def listed(name: str) -> list[str]:
        return [str(cast(JsonObject, each)["id"]) for each in cast(list[JsonValue], answers[name]["seeds"])]

    assert rows("archived") == [ids[0]]
    assert rows("upper") == [ids[1]]
    assert rows("whole") == [ids[2]]
    assert rows("last") == [ids[-1]]
    assert rows("none") == rows("hostile") == []
    assert len(rows("all")) == 4
    assert answers["all"]["more"] is True
    for name in ("node end", "node middle", "node without its beginning", "node"):
        assert rows(name) == [node_id]
    assert listed("list text") == [ids[3]]
    assert len(listed("list mine")) == 4
    assert listed("list others") == listed("list since") == []


def records() -> list[tuple[str, Record]]:
    """Seeds of several creators at several times, in several states, one half of them at one second."""
    scribe, made = Scribe(), list[tuple[str, Record]]()
    for number in range(24):
        scribe.now_s = START_S + number // 2 * 10
        facts = [scribe.seed((CREATOR, STRANGER)[number % 3 == 0], bid_window_s=100 + number, claim_window_s=10**6)]
        seed_id = facts[0].key
        if number % 4:
            facts.append(scribe.bid(seed_id, WORKER, price=3))
        if number % 4 > 1:
            facts.append(scribe.claim(seed_id, facts[1].key, WORKER, author=facts[0].author))
        if number % 4 > 2:
            facts.append(scribe.started(seed_id, facts[2].key))
            facts.append(scribe.result(seed_id, facts[2].key))
        made.append((seed_id, refold(facts, everything)))
    return made


RECORDS = records()
NOW_S = START_S + 200
OPTIONAL = st.none() | st.booleans()
FILTERS = st.builds(
    Filter,
    status=st.none() | st.sampled_from([SeedStatus.OPEN, SeedStatus.CLAIMED, SeedStatus.DONE]),
    biddable=OPTIONAL,
    creator=st.none() | st.sampled_from([CREATOR, STRANGER]),
    others_than=st.none() | st.sampled_from([CREATOR, STRANGER]),
    worker=st.none() | st.sampled_from([WORKER, STRANGER]),
    needs=st.none() | st.just(lambda record: needs_operator(record, CREATOR, NOW_S)),
    since_s=st.none() | st.integers(START_S - 10, START_S + 130),
    text=st.none() | st.sampled_from(["TRUE", "nothing"]),
)


def order(row: tuple[str, Record]) -> tuple[int, str]:
    definition = row[1].definition
    assert definition is not None
    return (-definition.created_at, row[0])


def archive_of(rows: list[tuple[str, Record]], asked_for: list[int]) -> Callable[..., list[tuple[str, Record]]]:
    def page(
        *, status: SeedStatus | None, limit: int, after: SeedPlace | None, owner: str | None = None
    ) -> list[tuple[str, Record]]:
        chosen = [
            row
            for row in sorted(rows, key=order)
            if status in {None, row[1].progress.status}
            and row[1].definition is not None
            and owner in {None, row[1].definition.created_by}
            and (after is None or order(row) > (-after[0], after[1]))
        ]
        asked_for.append(len(chosen[:limit]))
        return chosen[:limit]

    return page


@given(FILTERS, st.sets(st.integers(0, 23)), st.integers(1, 30))
def test_pages_have_each_wanted_seed_once_and_in_order(wanted: Filter, archived: set[int], limit: int) -> None:
    live = {seed_id: record for at, (seed_id, record) in enumerate(RECORDS) if at not in archived}
    rows = [row for at, row in enumerate(RECORDS) if at in archived]
    got: list[str] = []
    after: SeedPlace | None = None
    while True:
        page = search_seeds(live, archive_of(rows, []), NOW_S, wanted, limit=limit, after=after)
        assert len(page.found) <= limit
        got += [found.seed_id for found in page.found]
        if page.following is None:
            break
        definition = dict(RECORDS)[page.following].definition
        assert definition is not None
        after = (definition.created_at, page.following)
    status = SeedStatus.OPEN if wanted.biddable is not None else wanted.status
    fits = [row for row in RECORDS if wanted._replace(status=status).fits(row[1], NOW_S)]
    assert got == [seed_id for seed_id, _ in sorted(fits, key=order)]


def test_a_page_reads_a_bounded_part_of_the_archive() -> None:
    record = RECORDS[0][1]
    rows = [(f"{number:06}", record) for number in range(3 * limits.SEEDS_LOOKED_AT_MAX)]
    asked_for: list[int] = []
    page = search_seeds({}, archive_of(rows, asked_for), NOW_S, Filter(text="nothing"), limit=10, after=None)
    assert page.found == []
    assert page.following == rows[limits.SEEDS_LOOKED_AT_MAX - 1][0]
    assert sum(asked_for) == limits.SEEDS_LOOKED_AT_MAX


@pytest.mark.parametrize(
    ("number", "publisher", "worker"),
    [(0, False, False), (1, True, False), (2, False, True), (3, True, False)],
    ids=["no bids", "bids", "claimed", "result"],
)
def test_whose_turn_it_is(number: int, publisher: bool, worker: bool) -> None:
    record = RECORDS[4 + number][1]
    definition = record.definition
    assert definition is not None
    assert needs_operator(record, definition.created_by, NOW_S) is publisher
    assert needs_operator(record, WORKER, NOW_S) is worker
    assert not needs_operator(record, "nobody", NOW_S)


def test_what_is_no_search_is_refused(found: dict[str, object]) -> None:
    data_dir = cast(Path, found["data_dir"])
    wrong: list[tuple[JsonObject, type[Exception]]] = [
        ({"kind": "cat", "text": ""}, UsageError),
        ({"kind": "seed", "text": "a" * 129}, UsageError),
        ({"kind": "seed", "text": "", "limit": limits.IDS_FOUND_MAX + 1}, UsageError),
        ({"kind": "bid", "text": "abcd"}, RefusedError),
    ]
    for params, error in wrong:
        with pytest.raises(error):
            read_locally(settings_of(data_dir), "id.find", params)
