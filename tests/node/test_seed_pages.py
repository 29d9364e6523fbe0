"""What ``seed.show`` answers stays within the bound of the control socket, whatever strangers say of a seed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import pytest
from msgspec import structs

import crabnet
from crabnet import limits
from crabnet.control.client import JsonValue
from crabnet.domain.fold import refold
from crabnet.domain.model import Bid, Fact, Seed, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason, UsageError
from crabnet.node.operations.doors import as_json
from crabnet.node.operations.views import story, view_mark
from crabnet.protocol.canonical import JsonObject
from tests.support.asking import asked
from tests.support.facts import START_S, STRANGER, WORKER, Scribe, everything

LONGEST = "\x01"
"""A character that takes more bytes in JSON than any other."""
NOTES = LONGEST * limits.NOTES_CHARS_MAX
OUTPUT = LONGEST * (limits.OUTPUT_CHARS_MAX // 2)
NOTE = LONGEST * limits.RULES_CHARS_MAX


def crowded(bids: int, results: int, attempts: int = 1) -> Record:
    """A seed about which as much as can be was said, and as long as can be, accepted in the last of its attempts."""
    scribe = Scribe()
    seed = scribe.seed(claim_window_s=10**6)
    seed_id = seed.key
    facts = [with_body(seed, Seed, description=LONGEST * (limits.DESCRIPTION_CHARS_MAX // 2))]
    facts += [with_body(scribe.bid(seed_id), Bid, notes=NOTES) for _ in range(bids)]
    facts += [scribe.bid(seed_id, STRANGER, price=1) for _ in range(3)]
    winner = facts[1].key
    for attempt in range(1, attempts + 1):
        claim = scribe.claim(seed_id, winner, attempt=attempt)
        facts.append(claim)
        run = scribe.started(seed_id, claim.key)
        facts.append(run)
        facts += [scribe.started(seed_id, claim.key, renews=run.key) for _ in range(limits.RUN_RENEWALS_MAX)]
        if attempt < attempts:
            scribe.now_s += 20
            forfeit = scribe.settle(seed_id, SeedStatus.FORFEITED, claim.key, attempt=attempt)
            facts.append(with_body(forfeit, Settlement, note=NOTE))
    returned = scribe.result(seed_id, claim.key)
    accepted = scribe.settle(seed_id, SeedStatus.ACCEPTED, claim.key, returned.key, attempt=attempts)
    facts += [with_body(returned, TaskResult, stdout=OUTPUT), with_body(accepted, Settlement, note=NOTE)]
    facts += [
        with_body(scribe.result(seed_id, claim.key, STRANGER), TaskResult, stdout=OUTPUT, stderr=OUTPUT)
        for _ in range(results)
    ]
    return refold(facts, everything)


def with_body(fact: Fact, body_type: type[Seed | Bid | TaskResult | Settlement], **changes: JsonValue) -> Fact:
    assert isinstance(fact.body, body_type)
    return structs.replace(fact, body=structs.replace(fact.body, **changes))


def page(record: Record, limit: int, after: str | None = None) -> JsonObject:
    return cast(JsonObject, as_json(story(record, START_S, lambda _: False, limit=limit, after=after)))


def ids(rows: JsonValue) -> list[str]:
    return [str(row["id"]) for row in cast(list[JsonObject], rows)]


@pytest.mark.deep
def test_a_crowded_seed_is_shown_in_pages_within_the_bound() -> None:
    record = crowded(bids=10_000, results=600, attempts=limits.ATTEMPTS_MAX)
    bids: list[str] = []
    after: str | None = None
    while True:
        shown = page(record, limits.SEED_ROWS_MAX, after)
        if after is None or shown["next"] is None:  # those between are like the first, and take a second each
            assert len(msgspec.json.encode({"id": 1, "result": shown})) <= limits.CONTROL_RESPONSE_BYTES_MAX
        bids += ids(shown["bids"])
        for counting, number in (("claims", 100), ("runs", 33), ("results", 1), ("settlements", 100)):
            assert len(cast(list[JsonValue], shown[counting])) == number
        after = cast(str | None, shown["next"])
        if after is None:
            break
    assert cast(JsonObject, shown["seed"])["status"] == "Accepted"
    assert shown["totals"] == {"bids": 10_000}
    assert bids == [bid.key for bid in record.bids if bid.author == WORKER]


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 9])
def test_pages_of_any_size_hold_every_bid_once(limit: int) -> None:
    record = crowded(bids=8, results=2)
    whole = page(record, 100)
    assert whole["next"] is None
    found: list[str] = []
    after: str | None = None
    while True:
        shown = page(record, limit, after)
        rows = ids(shown["bids"])
        assert len(rows) == limit or shown["next"] is None
        found += rows
        after = cast(str | None, shown["next"])
        if after is None:
            break
    assert found == ids(whole["bids"])
    assert len(found) == 8


def test_what_changes_beyond_the_page_changes_the_mark() -> None:
    def mark(bids: int, results: int) -> str:
        return view_mark(story(crowded(bids, results), START_S, lambda _: False, limit=5))

    assert mark(8, 2) != mark(9, 2)
    assert mark(8, 2) == mark(8, 3), "what does not count is not shown"


async def test_a_node_shows_pages(tmp_path: Path) -> None:
    settings = crabnet.Settings(data_dir=tmp_path, listen_addr="127.0.0.1:0", announce_addrs=())
    async with crabnet.Node(settings, listen=False) as node:
        seed = await node.publish(crabnet.Publish(title="t", command="true", max_bids=2))
        for price in (1, 2):
            await node.bid(seed.id, price)
        first = await asked(node, "seed.show", {"seed_id": seed.id, "limit": 1})
        rest = await asked(node, "seed.show", {"seed_id": seed.id, "after": first["next"]})
        whole = await asked(node, "seed.show", {"seed_id": seed.id})
        assert ids(first["bids"]) + ids(rest["bids"]) == ids(whole["bids"])
        assert len(ids(first["bids"])) == len(ids(rest["bids"])) == 1
        assert (rest["next"], whole["next"]) == (None, None)
        for wrong, reason in (
            ({"limit": 0}, Reason.INVALID_ARGUMENT),
            ({"limit": limits.SEED_ROWS_MAX + 1}, Reason.INVALID_ARGUMENT),
            ({"after": "nothing"}, Reason.UNKNOWN_BID),
        ):
            with pytest.raises(UsageError) as refused:
                await asked(node, "seed.show", {"seed_id": seed.id, **wrong})
            assert refused.value.reason is reason
