"""A request with an id is done once, and each repetition gets the first answer (ADR 32)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec import structs

import crabnet
from crabnet import limits
from crabnet.core.effects import Effects
from crabnet.core.replica.records import NO_ANSWER, RequestRecord
from crabnet.errors import CrabnetError, Reason
from crabnet.node.node import Node
from crabnet.node.operations.requests import digest_of
from crabnet.operations.seeds import PUBLISH, PublishRequest
from crabnet.protocol.canonical import JsonObject
from tests.support.asking import asked

TASK: JsonObject = {"title": "t", "command": "echo hi", "bid_window_ms": 600_000, "announce": False}
Clock = Callable[[], int]


def settings(data_dir: Path, **changes: int) -> crabnet.Settings:
    return crabnet.Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=(), **changes)  # type: ignore[arg-type]


def opened(data_dir: Path, clock_ms: Clock | None = None, **changes: int) -> Node:
    return Node(settings(data_dir, **changes), listen=False, clock_ms=clock_ms)


def envelopes(node: Node) -> int:
    return node.core.replica.feeds.get(node.node_id).head_seq


async def whole_job(node: Node) -> list[tuple[str, JsonObject]]:
    """One task of this node for itself, with an id for each step. Returns the requests."""
    steps: list[tuple[str, JsonObject]] = [("seed.publish", {**TASK, "request_id": "publish"})]
    seed_id = (await asked(node, *steps[-1]))["seed"]["id"]  # type: ignore[index,call-overload]
    steps.append(("seed.bid", {"seed_id": seed_id, "price": 1, "announce": False, "request_id": "bid"}))
    bid_id = (await asked(node, *steps[-1]))["bid"]["id"]  # type: ignore[index,call-overload]
    steps.append(("seed.claim", {"seed_id": seed_id, "bid_id": bid_id, "announce": False, "request_id": "claim"}))
    await asked(node, *steps[-1])
    steps.append(("seed.run", {"seed_id": seed_id, "announce": False, "request_id": "run"}))
    await asked(node, *steps[-1])
    steps.append(("seed.settle", {"seed_id": seed_id, "outcome": "Accepted", "announce": False, "request_id": "end"}))
    await asked(node, *steps[-1])
    return steps


async def test_each_step_is_done_once_and_answered_alike_also_after_restarts(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        steps = await whole_job(node)
        made = envelopes(node)
        first = [await asked(node, *step) for step in steps]
        assert envelopes(node) == made
    for _ in range(2):
        async with opened(tmp_path) as node:
            assert [await asked(node, *step) for step in steps] == first
            assert envelopes(node) == made


async def test_an_answer_shows_the_state_at_the_time_of_the_first_request(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        wish: JsonObject = {**TASK, "request_id": "p"}
        first = await asked(node, "seed.publish", wish)
        seed_id = first["seed"]["id"]  # type: ignore[index,call-overload]
        await asked(node, "seed.bid", {"seed_id": seed_id, "price": 1})
        assert await asked(node, "seed.publish", wish) == first


@pytest.mark.parametrize("other", [{"title": "another"}, {"reward": 1}, {"announce": True}])
async def test_another_content_is_refused(tmp_path: Path, other: JsonObject) -> None:
    async with opened(tmp_path) as node:
        await asked(node, "seed.publish", {**TASK, "request_id": "p"})
        with pytest.raises(CrabnetError) as caught:
            await asked(node, "seed.publish", {**TASK, **other, "request_id": "p"})
        assert caught.value.reason is Reason.REQUEST_CONFLICT
        assert envelopes(node) == 1


async def test_another_operation_is_another_content(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        published = await asked(node, "seed.publish", {**TASK, "request_id": "p"})
        seed_id = published["seed"]["id"]  # type: ignore[index,call-overload]
        with pytest.raises(CrabnetError) as caught:
            await asked(node, "seed.cancel", {"seed_id": seed_id, "request_id": "p"})
        assert caught.value.reason is Reason.REQUEST_CONFLICT


async def test_defaults_that_are_left_out_are_the_same_content(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        first = await asked(node, "seed.publish", {**TASK, "request_id": "p"})
        assert await asked(node, "seed.publish", {**TASK, "reward": 0, "rules": "", "request_id": "p"}) == first
        assert envelopes(node) == 1


async def test_a_refused_request_is_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        seed_id = (await asked(node, "seed.publish", {**TASK, "min_price": 5}))["seed"]["id"]  # type: ignore[index,call-overload]
        wish: JsonObject = {"seed_id": seed_id, "price": 4, "request_id": "b"}
        for _ in range(2):
            with pytest.raises(CrabnetError) as caught:
                await asked(node, "seed.bid", wish)
            assert caught.value.reason is Reason.PRICE_TOO_LOW
        await asked(node, "seed.bid", {**wish, "price": 5})


async def test_repetitions_at_the_same_time_wait_for_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        answers: list[JsonObject] = []

        async def one() -> None:
            answers.append(await asked(node, "seed.publish", {**TASK, "request_id": "p"}))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert len(answers) == 20
        assert all(answer == answers[0] for answer in answers)
        assert envelopes(node) == 1


def crash(node: Node, record: RequestRecord) -> Effects:
    """What a crash leaves if it comes after this record."""
    effects = Effects()
    node.core.note_request(record, effects)
    return effects


async def test_a_crash_between_the_request_and_its_envelope_lets_it_be_done_again(tmp_path: Path) -> None:
    wish = PublishRequest(title="t", command="echo hi", announce=False, request_id="p")
    digest = digest_of(PUBLISH, wish)
    async with opened(tmp_path) as node:
        alone = RequestRecord("p", PUBLISH.name, digest, node.clock_ms() // 1000, "a seed", "ab" * 32)
        await node.committer.submit(crash(node, alone))
    async with opened(tmp_path) as node:
        params: JsonObject = {"title": "t", "command": "echo hi", "announce": False, "request_id": "p"}
        first = await asked(node, "seed.publish", params)
        assert await asked(node, "seed.publish", params) == first
        assert envelopes(node) == 1


async def test_a_crash_before_the_answer_makes_no_second_envelope(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        steps = await whole_job(node)
        made = envelopes(node)
        for _, params in steps:
            record = node.core.request(str(params["request_id"]), node.clock_ms())
            assert record is not None
            await node.committer.submit(crash(node, structs.replace(record, answer=NO_ANSWER)))
    async with opened(tmp_path) as node:
        answers = {str(params["request_id"]): await asked(node, name, params) for name, params in steps}
        assert envelopes(node) == made
        shown = await asked(node, "seed.show", {"seed_id": answers["publish"]["seed"]["id"]})  # type: ignore[index,call-overload]
    assert answers["bid"]["bid"]["id"] == shown["bids"][0]["id"]  # type: ignore[index,call-overload]
    assert answers["claim"]["claim"]["id"] == shown["claims"][0]["id"]  # type: ignore[index,call-overload]
    assert answers["run"]["result"]["id"] == shown["results"][0]["id"]  # type: ignore[index,call-overload]
    assert answers["end"]["seed"]["status"] == "Accepted"  # type: ignore[index,call-overload]


async def test_an_answer_that_is_too_long_to_keep_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_ANSWER_BYTES_MAX", 10)
    async with opened(tmp_path) as node:
        steps = await whole_job(node)
        made = envelopes(node)
        record = node.core.request("run", node.clock_ms())
        assert record is not None
        assert record.answer == NO_ANSWER
        for name, params in steps:
            await asked(node, name, params)
        assert envelopes(node) == made


async def test_ids_are_forgotten_after_their_time_and_beyond_their_number(tmp_path: Path) -> None:
    now_ms = 1_800_000_000_000

    def clock() -> int:
        return now_ms

    async with opened(tmp_path, clock, request_ids_ttl_s=60, request_ids_max=2) as node:
        for name in ("a", "b", "c"):
            await asked(node, "seed.publish", {**TASK, "request_id": name})
        await asked(node, "seed.publish", {**TASK, "request_id": "a"})
        assert envelopes(node) == 4, "the oldest of three was forgotten"
        await asked(node, "seed.publish", {**TASK, "request_id": "c"})
        assert envelopes(node) == 4
        now_ms += 61_000
        await asked(node, "seed.publish", {**TASK, "request_id": "c"})
        assert envelopes(node) == 5


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "ä", "a\n", 7])
async def test_other_ids_are_refused(tmp_path: Path, bad: str | int) -> None:
    async with opened(tmp_path) as node:
        with pytest.raises(CrabnetError) as caught:
            await asked(node, "seed.publish", {**TASK, "request_id": bad})
        assert caught.value.reason is Reason.INVALID_ARGUMENT
        assert envelopes(node) == 0


async def test_an_import_is_answered_alike(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        first = await asked(node, "state.import", {"envelopes": ["bm8="], "request_id": "i"})
        assert await asked(node, "state.import", {"envelopes": ["bm8="], "request_id": "i"}) == first
