"""`audit verify` follows what rests on what in every task, and finds what rests on nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from crabnet import limits
from crabnet.core.replica.records import Via
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.state import assembled
from crabnet.node.node import Node
from crabnet.node.operations.importing import import_entries
from crabnet.operator.chains import ChainReport, TaskChains, describe, follow
from crabnet.operator.envelopes import any_age_policy
from crabnet.protocol.envelope import Envelope
from tests.operator.support import Clock, publish, verify, whole_job, work
from tests.operator.test_audit import forge
from tests.support.envelopes import NOW_S, Author, job, seed_id_of
from tests.support.forked_jobs import all_of_them, disputed, settled_behind_the_end
from tests.support.nodes import crabnet, json_line, quiet

WHOLE = ["seed", "bid", "claim", "started", "result", "settle", "acknowledged"]


def record_of(envelopes: list[Envelope]) -> Record:
    replica = Replica(any_age_policy("default"), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=60)
    for envelope in envelopes:
        replica.receive(envelope.raw, NOW_S, via=Via.IMPORT)
        replica.settling.settle_all(NOW_S)
    return replica.state.records[seed_id_of(envelopes[0])]


def followed(record: Record) -> TaskChains:
    return follow("task", record, lambda *_: True)


def kinds(task: TaskChains) -> list[list[str]]:
    return [[link.kind.value for link in chain.links] for chain in task.chains]


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_job_is_followed_as_far_as_it_goes(steps: int) -> None:
    envelopes = job(steps)
    task = followed(record_of(envelopes))
    assert kinds(task) == ([["seed"]] if steps <= 2 else [WHOLE[:steps]])
    assert list(task.faults()) == []
    assert (task.complete, task.acknowledged) == (steps >= 6, steps == 7)
    if steps > 2:
        assert [link.envelope_id for link in task.chains[0].links] == [each.meta.id for each in envelopes]
        assert [link.author for link in task.chains[0].links] == [each.meta.from_ for each in envelopes]


def test_renewals_are_no_links_and_each_attempt_has_its_chain() -> None:
    creator, worker, late = Author("creator"), Author("worker"), NOW_S + 100
    seed = creator.publish(bid_deadline_ts=late, exec_deadline_ms=1_000, timeout_ms=1_000)
    bid = worker.bid(seed)
    first = creator.claim(bid)
    forfeit = creator.settle(first, "Forfeited", NOW_S + 50)
    second = creator.claim(bid, NOW_S + 51, attempt=2)
    start = worker.start(second, NOW_S + 52)
    renewal = worker.start(second, NOW_S + 53, renews=str(json.loads(start.raw)["payload"]["run"]["id"]))
    result = worker.finish(start, NOW_S + 54)
    task = followed(record_of([seed, bid, first, forfeit, second, start, renewal, result]))
    assert kinds(task) == [["seed", "bid", "claim", "forfeit"], ["seed", "bid", "claim", "started", "result"]]
    assert list(task.faults()) == []
    assert not task.complete


def test_a_forfeit_rests_on_the_workers_failure() -> None:
    creator, worker, rival = Author("creator"), Author("worker"), Author("rival")
    seed = creator.publish()
    bid, other = worker.bid(seed), rival.bid(seed)
    claim = creator.claim(bid)
    start = worker.start(claim)
    failure = worker.finish(start, failed="worker", exit_code=126)
    forfeit = creator.settle(failure, "Forfeited")
    second = creator.claim(other, attempt=2)
    record = record_of([seed, bid, other, claim, start, failure, forfeit, second])
    task = followed(record)
    assert kinds(task) == [["seed", "bid", "claim", "started", "result", "forfeit"], ["seed", "bid", "claim"]]
    assert list(task.faults()) == []
    unknown = followed(structs.replace(record, fallen=()))
    assert kinds(unknown) == [["seed", "bid", "claim", "forfeit"], ["seed", "bid", "claim"]]
    assert list(unknown.faults()) == []


def test_of_a_disputed_task_both_chains_are_shown_and_its_creator_is_named() -> None:
    quarrel = disputed()
    record = record_of(quarrel.told)
    task = followed(record)
    assert (task.status, task.creator) == (SeedStatus.DISPUTED, quarrel.creator.id)
    assert kinds(task) == [["seed", "bid", "claim", "started"]] * 2
    assert list(task.faults()) == []
    report = ChainReport()
    report.add(task)
    lines = list(describe(report))
    assert quarrel.creator.id in lines[1]
    for chain, line in zip(task.chains, lines[2:], strict=True):
        assert all(link.envelope_id in line for link in chain.links)


def test_two_seeds_that_stand_against_each_other_are_shown_with_who_has_bid_on_them() -> None:
    creator, worker, rival = Author("creator"), Author("worker"), Author("rival")
    other = creator.twin().publish(title="other")
    seed = creator.publish()
    bids = [worker.bid(seed), rival.bid(other)]
    task = followed(record_of([seed, bids[0], other, bids[1], other]))
    assert task.status is SeedStatus.DISPUTED
    assert sorted(chain.links[0].envelope_id for chain in task.chains) == sorted([seed.meta.id, other.meta.id])
    assert kinds(task) == [["seed", "bid"]] * 2


# --- what does not hold ------------------------------------------------------------------------------------------


def changed(record: Record, kind: FactKind, **changes: object) -> Record:
    """The record with one fact of it otherwise; of its body what starts with ``body_``."""
    facts = []
    for fact in record.facts():
        if fact.kind is kind:
            body = {name[5:]: value for name, value in changes.items() if name.startswith("body_")}
            own = {name: value for name, value in changes.items() if not name.startswith("body_")}
            fact = structs.replace(fact, body=structs.replace(fact.body, **body), **own)
        facts.append(fact)
    return assembled(facts, record.progress)


def without(record: Record, kind: FactKind) -> Record:
    return assembled([fact for fact in record.facts() if fact.kind is not kind], record.progress)


def restated(record: Record, **changes: object) -> Record:
    return structs.replace(record, progress=structs.replace(record.progress, **changes))


K = FactKind
FORGED: dict[str, tuple[Callable[[Record], Record], str]] = {
    "a bid of another": (lambda r: changed(r, K.BID, author="nobody"), "only"),
    "a bid for another": (lambda r: changed(r, K.BID, body_bidder="nobody"), "only nobody may sign it"),
    "a claim of another": (lambda r: changed(r, K.CLAIM, author="nobody"), "is by nobody"),
    "a claim of another bid": (lambda r: changed(r, K.CLAIM, body_bid_id="other"), "does not match the step"),
    "a claim for another": (lambda r: changed(r, K.CLAIM, body_worker="nobody"), "does not match the step"),
    "a claim that rests on the seed": (
        lambda r: changed(r, K.CLAIM, body_rests_on=next(iter(r.facts())).envelope),
        "rests on seed",
    ),
    "a start of another": (lambda r: changed(r, K.STARTED, author="nobody"), "is by nobody"),
    "a start of another claim": (lambda r: changed(r, K.STARTED, body_claim_id="other"), "does not match the step"),
    "a result of another": (lambda r: changed(r, K.RESULT, author="nobody"), "is by nobody"),
    "a result that rests on nothing": (lambda r: changed(r, K.RESULT, body_rests_on="0" * 64), "does not count"),
    "a result that calls its claim unsigned": (lambda r: changed(r, K.RESULT, body_rests_on=""), "is not allowed"),
    "a settlement of another": (lambda r: changed(r, K.SETTLE, author="nobody"), "is by nobody"),
    "a settlement of nothing": (lambda r: changed(r, K.SETTLE, body_rests_on="0" * 64), "does not count"),
    "an acknowledgement of another": (lambda r: changed(r, K.ACKNOWLEDGED, author="nobody"), "is by nobody"),
    "a seed of another": (lambda r: changed(r, K.SEED, body_created_by="nobody"), "only nobody may sign it"),
    "no bid": (lambda r: without(r, K.BID), "does not count"),
    "no claim": (lambda r: without(r, K.CLAIM), "does not count"),
    "no start": (lambda r: without(r, K.STARTED), "does not count"),
    "no result": (lambda r: without(r, K.RESULT), "does not count"),
    "no settlement": (lambda r: without(r, K.SETTLE), "does not count"),
    "another status": (lambda r: restated(r, status=SeedStatus.REJECTED), "status is Rejected, but no chain"),
    "another claim": (lambda r: restated(r, claim_id="other"), "the claim other"),
    "another run": (lambda r: restated(r, run_id="other"), "the run other"),
    "another result": (lambda r: restated(r, result_id="other"), "the result other"),
}


@pytest.mark.parametrize("name", FORGED)
def test_whatever_does_not_hold_is_found(name: str) -> None:
    forge_it, expected = FORGED[name]
    task = followed(forge_it(record_of(job())))
    assert not task.complete
    faults = [wrong for _, wrong in task.faults()]
    assert any(expected in wrong for wrong in faults), faults


def test_what_the_journal_does_not_hold_is_found() -> None:
    envelopes = job()
    for missing in envelopes:
        held = {(each.meta.from_, each.meta.seq, each.meta.id) for each in envelopes if each is not missing}
        task = follow("task", record_of(envelopes), lambda *place, held=held: place in held)
        assert [at for at, _ in task.faults()] == [missing.meta.id]


# --- the report ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with a settled task of its own in the archive, an open one, and one of each kind of forked jobs."""
    path = tmp_path_factory.mktemp("chains") / "data"
    clock = Clock()

    async def first(node: Node) -> None:
        await whole_job(node)

    async def second(node: Node) -> None:
        while await node.archivist.archive_due():
            pass
        assert not node.core.replica.state.records
        await publish(node)
        for each in all_of_them():
            await import_entries(node, [envelope.raw for envelope in each.told], [])

    work(path, first, clock)
    clock.now_ms += 30 * 24 * 3_600_000
    work(path, second, clock)
    return path


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_the_report_has_every_task_archived_or_not(data_dir: Path, start: str) -> None:
    report = verify(data_dir, start)
    assert report.ok, report.findings
    chains = report.chains
    assert (chains.tasks, chains.complete, chains.acknowledged, chains.disputed, chains.broken) == (7, 2, 1, 1, 0)
    assert chains.shown()[0].status is SeedStatus.DISPUTED
    assert settled_behind_the_end().seed_id in {task.seed_id for task in chains.shown() if task.acknowledged}


def test_the_command_tells_of_all_of_them(data_dir: Path) -> None:
    words = quiet(data_dir)
    tasks = cast(dict[str, Any], json_line(crabnet("audit", "verify", "--json", *words).stdout)["tasks"])
    chains = tasks.pop("chains")
    assert tasks == {"total": 7, "complete": 2, "acknowledged": 1, "disputed": 1, "broken": 0, "left_out": 0}
    [whole] = [task for task in chains if task["acknowledged"]]
    assert [link["kind"] for link in whole["chains"][0]["links"]] == WHOLE
    assert {tuple(link) for link in whole["chains"][0]["links"]} == {
        ("kind", "author", "seq", "envelope_id", "object_id")
    }
    text = crabnet("audit", "verify", *words).stdout
    assert "7 tasks, 2 with a complete chain from seed to settlement, 1 of them acknowledged by the worker" in text
    assert f"task {disputed().seed_id} is disputed" in text
    assert f"its creator is {disputed().creator.id}" in text


def test_beyond_a_bound_tasks_are_counted_and_disputed_ones_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crabnet.operator.chains.AUDIT_CHAINS_MAX", 2)
    report = ChainReport()
    for _ in range(3):
        report.add(followed(record_of(job())))
    report.add(followed(record_of(disputed().told)))
    assert (report.tasks, len(report.shown())) == (4, 2)
    assert report.shown()[0].status is SeedStatus.DISPUTED
    assert limits.AUDIT_CHAINS_MAX > 2


def test_a_decision_forged_in_the_journal_is_found_without_any_checkpoint(tmp_path: Path) -> None:
    """The journal itself is sound after that: CRCs, links between frames, envelopes."""

    async def once(node: Node) -> None:
        await whole_job(node)

    work(tmp_path, once)
    for name in ("state.json", "state.json.bak"):
        (tmp_path / name).unlink(missing_ok=True)
    forge(tmp_path, 6, b'{"status":"Accepted"', b'{"status":"Rejected"')
    report = verify(tmp_path)
    assert ["its status is Rejected, but no chain ends with that" in each.detail for each in report.findings] == [True]
    assert report.chains.broken == 1
