"""The state.json of the Rust program: imported as unsigned facts, by command or because the data dir holds it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crabnet.domain.model import FactKind, SeedStatus
from crabnet.errors import Reason, RefusedError
from crabnet.node.node import Node
from crabnet.operator.transfer import import_entries
from crabnet.protocol.baseline_state import BaselineState, parse_baseline_state
from tests.operator.support import settings_of, verify, work
from tests.support.nodes import crabnet, quiet

BASELINE = Path(__file__).parents[1] / "vectors" / "baseline_state" / "state.json"
SETTLED = "f940b7cc-6e64-443a-8ec2-e7e35f570c73"
OPEN = "fa94d654-f130-40d0-a175-46cc569ff04c"
RESULT = "9625f6e6-828e-425a-a689-ed1dda257e8f"


def parsed(**changes: dict[str, object] | None) -> BaselineState:
    """The vector with some of its objects changed; the name is part and id, a value None removes it."""
    stored = json.loads(BASELINE.read_bytes())
    for name, change in changes.items():
        part, _, key = name.partition("_")
        key = {"settled": SETTLED, "open": OPEN}.get(key, key)
        if change is None:
            stored[part] = {}
        else:
            stored[part].setdefault(key, {"id": key}).update(change)
    found = parse_baseline_state(json.dumps(stored).encode())
    assert found is not None
    return found


def statuses_in(data_dir: Path, **flags: str | bool) -> dict[str, SeedStatus]:
    found: dict[str, SeedStatus] = {}

    async def look(node: Node) -> None:
        for seed_id, record in node.core.replica.state.records.items():
            found[seed_id] = record.progress.status
            assert not any(fact.signed for fact in record.facts())

    work(data_dir, look, None, **flags)
    return found


def test_the_vector_becomes_facts_and_its_result_is_linked() -> None:
    found = parsed()
    assert [fact.kind for fact in found.facts] == [
        FactKind.SEED, FactKind.SEED, FactKind.BID, FactKind.CLAIM, FactKind.RESULT, FactKind.SETTLE,
    ]  # fmt: skip
    result = found.facts[4]
    assert (result.key, result.seed_id, result.author) == (RESULT, SETTLED, "node-5cedc022-6d0c-4b30-9cf6-b7103fa0ad43")
    assert found.problems == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"results_second": {"id": "second", "seed_id": "", "worker": "", "exit_code": 0, "timed_out": False,
                             "output_hash": "", "duration_ms": 1}}, "names no seed"),
        ({"claims_x": None}, "is not in the file"),
        ({"results_x": None}, "the file lacks its result"),
        ({"seeds_open": {"command": 7}}, "command"),
        ({"seeds_open": {"id": "other"}}, "out of range"),
        ({"seeds_open": {"reward": 2**64}}, "out of range"),
        ({"seeds_open": {"status": "Melted"}}, "Melted"),
        ({"bids_b": {"seed_id": "gone", "bidder": "n", "price": 1, "created_at": 1}}, "'gone' is not in the file"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_left_out_and_reported(changes: dict[str, dict[str, object] | None], problem: str) -> None:
    found = parsed(**changes)
    assert any(problem in each for each in found.problems), found.problems


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"identity":{"node_id":"n"}}', b"\xff", b"[" * 100_000])
def test_other_files_are_not_taken_for_one(content: bytes) -> None:
    assert parse_baseline_state(content) is None


def test_imported_facts_are_durable_unauthenticated_and_imported_once(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    settings = settings_of(data_dir, require_signatures=False)
    found = parsed()
    first = import_entries(settings, found.facts, found.statuses)
    assert (first.entries, first.accepted, first.rejected) == (6, 6, {})
    # The clock of the test is that of this machine: the window of the open seed may be over.
    assert first.statuses[SETTLED] == "Accepted"
    again = import_entries(settings, found.facts)
    assert (again.accepted, again.ignored) == (0, {"duplicate": 6})
    assert statuses_in(data_dir) == {SETTLED: SeedStatus.ACCEPTED, OPEN: SeedStatus.OPEN}
    report = verify(data_dir)
    assert report.ok, report.findings
    assert (report.facts, report.envelopes) == (6, 0)


def test_with_signatures_required_nothing_is_imported(tmp_path: Path) -> None:
    refused = import_entries(settings_of(tmp_path / "data"), parsed().facts)
    assert (refused.accepted, refused.rejected) == (0, {"missing_signature": 6})
    assert statuses_in(tmp_path / "data") == {}


def test_nobody_can_speak_for_a_self_certifying_id_in_it(tmp_path: Path) -> None:
    author = "12D3KooWSRHgVuCySq4vUQ9Y3Kjpq2q6r6vgar9xgBsG6pTD55xa"
    found = parsed(seeds_open={"created_by": author})
    totals = import_entries(settings_of(tmp_path / "data", require_signatures=False), found.facts)
    assert (totals.accepted, totals.rejected) == (5, {"unauthorised": 1})


def test_a_data_dir_of_the_rust_program_is_taken_over_at_the_first_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(BASELINE, data_dir / "state.json")
    with pytest.raises(RefusedError) as refused:
        statuses_in(data_dir)
    assert refused.value.reason is Reason.MISSING_SIGNATURE
    assert (data_dir / "state.json").read_bytes() == BASELINE.read_bytes()
    expected = {SETTLED: SeedStatus.ACCEPTED, OPEN: SeedStatus.OPEN}
    assert statuses_in(data_dir, require_signatures=False) == expected
    assert statuses_in(data_dir) == expected
    assert verify(data_dir).ok


def test_a_takeover_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(BASELINE, data_dir / "state.json")
    found = parsed()

    async def only_half(node: Node) -> None:
        assert node.core.replica.arrivals == 6

    work(data_dir, only_half, require_signatures=False)
    # As after a crash before the first checkpoint: the baseline's file in its place, the journal begun.
    (data_dir / "state.json").unlink()
    (data_dir / "state.json.bak").rename(data_dir / "state.json")
    (data_dir / "sealed").unlink()
    work(data_dir, only_half, require_signatures=False)
    assert statuses_in(data_dir).keys() == found.statuses.keys()


def test_a_start_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    """Also `fsck` and `config verify` foresee it (own-8)."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(BASELINE, data_dir / "state.json")
    words = quiet(data_dir)
    for command in (["listen"], ["seed", "publish", "--title", "t", "--cmd", "true"]):
        done = crabnet(*command, *words)
        assert (done.returncode, done.stdout) == (3, "")
        assert "missing_signature" in done.stderr
        assert {path.name for path in data_dir.iterdir()} == {"state.json"}
    assert crabnet("config", "verify", *words).returncode == 3
    checked = crabnet("fsck", *words)
    assert checked.returncode == 3
    assert "require_signatures = false" in checked.stderr
    assert statuses_in(data_dir, require_signatures=False)


def test_what_the_rust_program_writes_after_the_import_is_put_aside(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(BASELINE, data_dir / "state.json")
    expected = statuses_in(data_dir, require_signatures=False)
    for _ in range(2):
        later = BASELINE.read_bytes().replace(b'"demo"', b'"later"')
        assert later != BASELINE.read_bytes()
        (data_dir / "state.json").write_bytes(later)
        assert statuses_in(data_dir) == expected
        assert verify(data_dir).ok
    assert [path.read_bytes() for path in (data_dir / "damaged").iterdir()] == [later, later]


@pytest.mark.parametrize("by", ["seed", "events", "nothing"])
def test_several_results_without_a_seed_are_linked_by_what_names_them(tmp_path: Path, by: str) -> None:
    """Over the network the Rust program sends results without their seed: the seed, or its own events, name them."""
    stored = json.loads(BASELINE.read_bytes())
    events = []
    for number in range(3):
        seed_id, claim_id, result_id = (f"{kind}-{number}" for kind in ("seed", "claim", "result"))
        seed = {**stored["seeds"][SETTLED], "id": seed_id, "claim_id": claim_id, "status": "Accepted"}
        stored["seeds"][seed_id] = {**seed, "result_id": result_id if by == "seed" else None}
        bid = {**next(iter(stored["bids"].values())), "id": f"bid-{number}", "seed_id": seed_id}
        stored["bids"][bid["id"]] = bid
        claim = {**next(iter(stored["claims"].values())), "id": claim_id, "seed_id": seed_id, "bid_id": bid["id"]}
        stored["claims"][claim_id] = claim
        stored["results"][result_id] = {**stored["results"][RESULT], "id": result_id}
        payload = {"result_id": result_id, "seed_id": seed_id, "exit_code": 0}
        events.append(json.dumps({"ts": 1, "kind": "task_result_generated", "payload": payload}))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "state.json").write_text(json.dumps(stored))
    if by == "events":
        (data_dir / "events.ndjson").write_text('garbage "result_id" "seed_id"\n' + "\n".join(events) + "\n")
    statuses = statuses_in(data_dir, require_signatures=False)
    wanted = SeedStatus.CLAIMED if by == "nothing" else SeedStatus.ACCEPTED
    assert {statuses[f"seed-{number}"] for number in range(3)} == {wanted}


@pytest.mark.deep
def test_imported_facts_are_exported_on_request_and_imported_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", require_signatures=False)
    import_entries(settings, parsed().facts)
    words = [*quiet(tmp_path / "data"), "--no-require-signatures"]
    without = crabnet("state", "export", str(tmp_path / "x"), *words)
    assert without.stdout == f"exported 0 envelopes to {tmp_path / 'x'}\n"
    assert without.stderr == "6 unsigned envelopes or facts were left out; --unsigned includes them\n"
    whole = crabnet("state", "export", str(tmp_path / "y"), "--unsigned", *words)
    assert whole.stdout == f"exported 6 envelopes to {tmp_path / 'y'}\n"
    other = [*quiet(tmp_path / "other"), "--no-require-signatures"]
    done = crabnet("state", "import", str(tmp_path / "y"), *other)
    assert done.stdout == "imported 6 of 6 envelopes\n", done.stderr
    same = crabnet("state", "diff", str(tmp_path / "data"), str(tmp_path / "other"), *other)
    assert same.returncode == 0, same.stdout
    assert crabnet("state", "diff", str(tmp_path / "y"), str(tmp_path / "other"), *other).returncode == 0
    refused = crabnet("state", "import", str(tmp_path / "y"), *quiet(tmp_path / "strict"))
    assert "rejected 6: missing_signature" in refused.stdout
