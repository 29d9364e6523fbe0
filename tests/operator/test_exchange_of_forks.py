"""Exports of nodes that hold forks: proofs, pins, and what lies behind the end of a feed."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.core.replica.records import Via
from crabnet.core.replica.replica import Replica
from crabnet.node.node import Node
from crabnet.operator.compare import describe_difference
from crabnet.operator.envelopes import any_age_policy
from crabnet.operator.exchange import (
    VectorEntry,
)
from tests.operator.exchanging import (
    bring,
    difference,
    envelopes_in,
    export,
    import_at,
    source_of,
    state_hash,
)
from tests.operator.support import verify, whole_job, work
from tests.support.envelopes import NOW_S, Author
from tests.support.forked_jobs import all_of_them


def test_of_a_fork_the_vector_gets_the_proof(tmp_path: Path) -> None:
    first = Author("forker")
    common = first.publish()
    second = first.twin()
    a, b = first.publish(title="a"), second.publish(title="b")
    here, there = tmp_path / "here", tmp_path / "there"
    told = import_at(here, [common.raw, a.raw, b.raw])
    assert (told["accepted"], told["rejected"]) == (2, {"fork": 1})
    assert import_at(there, [common.raw, a.raw])["accepted"] == 2
    [feed] = difference(here, there).feeds
    assert (feed.node_id, feed.a, feed.b) == (
        first.id,
        VectorEntry(1, common.meta.id, 2),
        VectorEntry(2, a.meta.id),
    )
    delta = tmp_path / "delta"
    result = export(here, delta, source_of(there).heads)
    assert envelopes_in(delta) == [b.raw]
    assert result.header.heads == {first.id: VectorEntry(1, common.meta.id, 2)}
    import_at(there, [b.raw])
    assert difference(here, there).same


def test_one_who_does_not_know_of_a_fork_differs_from_one_who_does(tmp_path: Path) -> None:
    """The heads are the same: a fork behind them is what one has heard of and the other not."""
    first = Author("forker")
    common = first.publish()
    rival = first.twin().publish(title="b")
    lost = first.publish(title="a")
    here, there = tmp_path / "here", tmp_path / "there"
    import_at(here, [common.raw, lost.raw, rival.raw])
    import_at(there, [common.raw])
    found = difference(here, there)
    head = f"has 1 ({common.meta.id[:16]}…)"
    assert list(describe_difference(found, "here", "there")) == [
        f"feed {first.id}: here {head} and knows that it ends before 2, there {head}"
    ]


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node that holds one of each kind of forked jobs, and something of its own, written in several sessions."""
    data_dir = tmp_path_factory.mktemp("exchange") / "forked"
    for job in all_of_them():
        import_at(data_dir, [each.raw for each in job.told])

    async def own(node: Node) -> None:
        await whole_job(node)
        statuses = {job.seed_id: node.core.record(job.seed_id).progress.status.value for job in all_of_them()}
        assert list(statuses.values()) == ["Accepted", "Disputed", "Open", "Open"]

    work(data_dir, own)
    return data_dir


def test_a_node_with_forks_and_pins_is_exported_whole(forked: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "x.ndjson", tmp_path / "other"
    result = export(forked, path)
    assert result.header.incomplete == ()
    assert sorted(head.end for head in result.header.heads.values() if head.end) == [1, 2, 2, 3]
    bring(other, path)
    assert difference(forked, other).same
    assert difference(path, other).same
    assert state_hash(forked) == state_hash(other)
    for data_dir in (forked, other):
        report = verify(data_dir)
        assert (report.findings, report.state_hash) == ([], state_hash(forked))
    for taken in (2, 0):  # mere evidence may be what a later line rests on: it is taken once more, and then not again
        totals = bring(other, path)
        assert (totals.accepted, totals.ignored, totals.rejected) == (taken, {"duplicate": 33 - taken}, {})
        assert state_hash(other) == state_hash(forked)
    back = tmp_path / "back.ndjson"
    export(other, back)
    bring(tmp_path / "third", back)
    assert state_hash(tmp_path / "third") == state_hash(forked)


def test_what_lies_behind_an_end_is_known_when_it_comes_again_though_no_window_of_messages_knows_it(
    forked: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.ndjson"
    export(forked, path)
    entries = envelopes_in(path)
    replica = Replica(any_age_policy("default"), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=60)
    news = []
    for _ in range(3):
        applied = [each for raw in entries for each in replica.receive(raw, NOW_S, via=Via.IMPORT)]
        news.append(sum(each.record is not None and not each.quiet for each in applied))
    assert news == [33, 2, 0]


def test_a_node_that_knows_only_what_came_before_the_forks_is_completed_by_a_delta(
    forked: Path, tmp_path: Path
) -> None:
    other, path = tmp_path / "other", tmp_path / "delta"
    for job in all_of_them():
        import_at(other, [each.raw for each in job.told[:3]])
    export(forked, path, source_of(other).heads)
    bring(other, path)
    assert difference(forked, other).same
    assert state_hash(other) == state_hash(forked)
