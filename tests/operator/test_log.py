"""`crabnet audit log`: who claimed, returned and settled what, when, and what was decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crabnet.errors import DataDirDamagedError
from crabnet.node.node import Node
from crabnet.node.operations.importing import import_entries
from crabnet.operations.history import Decision
from crabnet.operator.log import LogFilter, describe_row, newest, read_log
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind
from crabnet.storage.files import RealFiles
from tests.operator.support import START_MS, Clock, publish, whole_job, work
from tests.support.envelopes import Author
from tests.support.forked_jobs import disputed, taken_back
from tests.support.nodes import crabnet, quiet

NOW_S = START_MS // 1000
EVERYTHING = LogFilter(kinds=frozenset())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settled task at the start, an hour later an open one, and a stranger's claim of it, which is void."""
    path = tmp_path_factory.mktemp("log") / "data"
    clock = Clock()

    async def first(node: Node) -> None:
        await whole_job(node)

    async def second(node: Node) -> None:
        seed = await publish(node)
        stranger = Author("stranger")
        definition = node.core.record(seed.id).seed
        assert definition is not None
        claim: JsonObject = {"id": stranger.next_object_id(), "seed_id": seed.id, "bid_id": "b", "worker": stranger.id,
                 "created_at": clock() // 1000, "rests_on": definition.envelope}  # fmt: skip
        raw = stranger.say(Kind.CLAIM_CREATED, {"claim": claim}, clock() // 1000).raw
        await import_entries(node, [raw], [])

    work(path, first, clock)
    clock.now_ms += 3_600_000
    work(path, second, clock)
    return path


def rows(data_dir: Path, wanted: LogFilter) -> list[Decision]:
    return list(read_log(RealFiles(), data_dir, wanted))


def test_claims_results_and_settlements_are_shown(data_dir: Path) -> None:
    found = rows(data_dir, LogFilter())
    assert [(row.kind, row.decision, row.reason, row.status) for row in found] == [
        ("claim", "accepted", None, "Claimed"),
        ("result", "accepted", None, "Done"),
        ("settle", "accepted", None, "Accepted"),
        ("claim", "rejected", "wrong_parent", None),
    ]
    assert {row.via for row in found} == {"local", "import"}
    assert [row.at for row in found] == ["2026-01-01T00:00:00Z"] * 3 + ["2026-01-01T01:00:00Z"]
    stranger = found[-1]
    assert (stranger.author, stranger.signed) == (Author("stranger").id, True)
    assert all(each in describe_row(stranger) for each in ("rejected (wrong_parent)", stranger.envelope_id or "?"))


def test_filters(data_dir: Path) -> None:
    everything = rows(data_dir, EVERYTHING)
    assert [row.kind for row in everything] == [
        "seed", "bid", "claim", "started", "result", "settle", "seed", "claim",
    ]  # fmt: skip
    seed_id = everything[0].seed_id
    assert len(rows(data_dir, LogFilter(seed_id=seed_id, kinds=frozenset()))) == 6
    assert [row.kind for row in rows(data_dir, LogFilter(kinds=frozenset({"bid", "seed"})))] == ["seed", "bid", "seed"]
    assert [row.lsn for row in rows(data_dir, LogFilter(after_lsn=6, kinds=frozenset()))] == [7, 8]
    assert [row.lsn for row in rows(data_dir, LogFilter(since_s=NOW_S + 1, kinds=frozenset()))] == [7, 8]
    assert [row.lsn for row in newest(everything, 2)] == [7, 8]


def test_what_the_end_of_a_feed_changes_is_shown(tmp_path: Path) -> None:
    told = [taken_back(), disputed()]

    async def job(node: Node) -> None:
        for each in told:
            await import_entries(node, [envelope.raw for envelope in each.told], [])

    work(tmp_path, job)
    found = rows(tmp_path, LogFilter(seed_id=told[0].seed_id))
    assert [(row.kind, row.decision, row.status) for row in found] == [
        ("claim", "accepted", "Claimed"),
        ("refold", "accepted", "Open"),
    ]
    assert "by=" not in describe_row(found[-1])
    assert "status=Open" in describe_row(found[-1])
    [quarrel] = rows(tmp_path, LogFilter(seed_id=told[1].seed_id, kinds=frozenset({"refold"})))[-1:]
    assert quarrel.status == "Disputed"


def test_damage_ends_the_log_with_a_refusal(data_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(data_dir, tmp_path / "copy"))
    path = max((copy / "journal").glob("*.log"), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    shown: list[Decision] = []
    with pytest.raises(DataDirDamagedError) as refused:
        shown.extend(read_log(RealFiles(), copy, EVERYTHING))
    assert str(path) in refused.value.message


def test_the_command(data_dir: Path, tmp_path: Path) -> None:
    words = quiet(data_dir)
    lines = crabnet("audit", "log", "--json", "--limit", "2", *words).stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["settle", "claim"]
    lines = crabnet("audit", "log", "--after", "2", "--limit", "1", "--all", *words).stdout.splitlines()
    assert len(lines) == 1
    assert "lsn=3 claim accepted" in lines[0]
    assert crabnet("audit", "log", "--since", "never", *words).returncode == 2
    assert crabnet("audit", "log", *quiet(tmp_path / "none")).returncode == 2
