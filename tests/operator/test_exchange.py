"""Exports and imports: round trips, deltas, refusals, differences; with data dirs at rest and with running nodes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crabnet.errors import CrabnetError, DataDirDamagedError, ExitCode, Reason, RefusedError, UsageError
from crabnet.node.node import Node
from crabnet.operator.exchange import (
    EXPORT_TYPE,
    VectorEntry,
    check_export,
    encode_trailer,
    parse_vector,
)
from crabnet.operator.export import Wanted, export_state
from crabnet.operator.source import key_seed_of
from crabnet.operator.transfer import import_entries
from crabnet.protocol.statement import sign_statement
from tests.operator.exchanging import (
    FILES,
    bring,
    difference,
    envelopes_in,
    export,
    import_with_clock,
    source_of,
)
from tests.operator.support import Clock, publish, settings_of, verify, whole_job, work
from tests.support.envelopes import NOW_S
from tests.support.nodes import NodeProcess, crabnet, quiet


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with two tasks, one of them settled."""
    data_dir = tmp_path_factory.mktemp("exchange") / "home"

    async def job(node: Node) -> None:
        await whole_job(node)
        await publish(node)

    work(data_dir, job)
    return data_dir


def test_a_full_export_gives_another_node_the_same_state(home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "x.ndjson", tmp_path / "other"
    result = export(home, path)
    assert (result.header.entries, result.header.is_full, result.header.incomplete) == (7, True, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    totals = bring(other, path)
    assert (totals.entries, totals.accepted, totals.rejected) == (7, 7, {})
    assert difference(home, other).same
    assert difference(path, other).same
    assert verify(other).ok


def test_importing_twice_changes_nothing(home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "x.ndjson", tmp_path / "other"
    export(home, path)
    bring(other, path)
    before = verify(other)
    totals = bring(other, path)
    assert (totals.accepted, totals.ignored) == (0, {"duplicate": 7})
    after = verify(other)
    assert (after.last_lsn, after.state_hash) == (before.last_lsn, before.state_hash)


def test_what_is_imported_may_be_old_but_not_from_the_future(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    export(home, path)
    clock = Clock()
    clock.now_ms += 365 * 24 * 3_600_000
    entries = envelopes_in(path)
    assert import_with_clock(tmp_path / "late", entries, clock) == {"accepted": 7, "ignored": {}, "rejected": {}}
    clock.now_ms -= 366 * 24 * 3_600_000
    early = import_with_clock(tmp_path / "early", entries, clock)
    assert early["ignored"] == {"from_the_future": 7}


def test_what_is_imported_may_be_from_the_future_before_what_is_not(tmp_path: Path) -> None:
    """A clock that was 30 days ahead, and was set right: what it has dated is not lost to those who import."""
    path, data_dir, clock = tmp_path / "x.ndjson", tmp_path / "ahead", Clock()
    clock.now_ms += 30 * 24 * 3_600_000

    async def some(node: Node) -> None:
        for _ in range(3):
            await publish(node)

    for clock_check in (True, False):
        work(data_dir, some, clock=clock, clock_check=clock_check)
        clock.now_ms = Clock().now_ms
    export(data_dir, path)
    entries = envelopes_in(path)
    assert import_with_clock(tmp_path / "new", entries, clock) == {"accepted": 6, "ignored": {}, "rejected": {}}


def test_a_restored_node_does_not_fork_its_feed(home: Path, tmp_path: Path) -> None:
    path, restored = tmp_path / "backup", tmp_path / "restored"
    export(home, path)
    restored.mkdir(mode=0o700)
    shutil.copy(home / "identity.key", restored / "identity.key")
    assert bring(restored, path).accepted == 7

    async def say(node: Node) -> None:
        with pytest.raises(RefusedError) as refused:
            await publish(node)
        assert refused.value.reason is Reason.FEED_RISK

    work(restored, say)
    work(restored, say)


def test_a_delta_holds_what_the_vector_lacks_and_nothing_else(home: Path, tmp_path: Path) -> None:
    author = next(iter(source_of(home).heads))
    full = tmp_path / "full"
    export(home, full)
    raws = envelopes_in(full)
    ids = [json.loads(raw)["meta"]["id"] for raw in raws]
    for held in range(1, len(raws) + 1):
        path = tmp_path / f"delta{held}"
        result = export(home, path, {author: VectorEntry(held, ids[held - 1])})
        assert envelopes_in(path) == raws[held:]
        assert not result.header.is_full
        assert result.header.heads == source_of(home).heads


def test_a_delta_onto_a_part_completes_it(home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "full", tmp_path / "other"
    export(home, path)
    raws = envelopes_in(path)
    import_entries(settings_of(other), raws[:3])
    vector = source_of(other).heads
    delta = tmp_path / "delta"
    assert export(home, delta, vector).header.entries == 4
    assert bring(other, delta).accepted == 4
    assert difference(home, other).same


def test_a_delta_that_begins_too_late_is_told_apart(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "full"
    export(home, path)
    raws = envelopes_in(path)
    late = import_entries(settings_of(tmp_path / "other"), raws[2:])
    assert (late.accepted, late.ignored) == (0, {"gap": 5})
    # Out of order in one go, the first releases those that wait.
    turned = import_entries(settings_of(tmp_path / "other"), [*raws[2:], *raws[:2]])
    assert (turned.accepted, turned.ignored) == (7, {})


def rewritten(path: Path, home: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of an export and have its exporter sign it again."""
    import hashlib

    *lines, _ = path.read_bytes().splitlines(keepends=True)
    lines = change(lines)
    sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
    signature = sign_statement(key_seed_of(FILES, home), EXPORT_TYPE, sha256.encode())
    path.write_bytes(b"".join(lines) + encode_trailer(sha256, signature))


def header_with(**changes: object) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        header = {**json.loads(lines[0]), **changes}
        return [json.dumps(header, separators=(",", ":")).encode() + b"\n", *lines[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "reason", "exit_code"),
    [
        (header_with(version=2), Reason.UNSUPPORTED_VERSION, ExitCode.REFUSED),
        (header_with(version=0), Reason.UNSUPPORTED_VERSION, ExitCode.REFUSED),
        (header_with(format="other"), Reason.MALFORMED, ExitCode.REFUSED),
        (header_with(namespace="elsewhere"), Reason.WRONG_NAMESPACE, ExitCode.REFUSED),
        (header_with(node_id="12D3KooWSRHgVuCySq4vUQ9Y3Kjpq2q6r6vgar9xgBsG6pTD55xa"), Reason.BAD_SIGNATURE,
         ExitCode.REFUSED),
        (header_with(entries=99), Reason.FILE_DAMAGED, ExitCode.DAMAGED),
        (lambda lines: lines[:-1], Reason.FILE_DAMAGED, ExitCode.DAMAGED),
    ],
)  # fmt: skip
def test_a_file_that_is_not_in_order_is_refused_whole(
    home: Path, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], reason: Reason, exit_code: ExitCode
) -> None:
    path = tmp_path / "x"
    export(home, path)
    rewritten(path, home, change)
    with pytest.raises(CrabnetError) as refused:
        check_export(FILES, path, "default")
    assert (refused.value.reason, refused.value.exit_code) == (reason, exit_code)


@pytest.mark.parametrize("version", [2, 3, 99])
def test_a_newer_version_is_told_before_anything_else_is_looked_at(home: Path, tmp_path: Path, version: int) -> None:
    path = tmp_path / "x"
    export(home, path)
    lines = header_with(version=version)(path.read_bytes().splitlines(keepends=True))
    for content in (b"".join(lines), lines[0], lines[0] + b"what version 9 has there"):
        path.write_bytes(content)
        with pytest.raises(RefusedError) as refused:
            check_export(FILES, path, "default")
        assert refused.value.reason is Reason.UNSUPPORTED_VERSION
        assert f"version {version}" in refused.value.message


def test_an_unsigned_file_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    export(home, path)
    content = path.read_bytes()
    start = content.rindex(b'{"sha256"')
    sha256 = json.loads(content[start:])["sha256"]
    path.write_bytes(content[:start] + encode_trailer(sha256, ""))
    with pytest.raises(RefusedError) as refused:
        check_export(FILES, path)
    assert refused.value.reason is Reason.MISSING_SIGNATURE


def check_damage(home: Path, tmp_path: Path, step: int) -> int:
    path = tmp_path / "x"
    export(home, path)
    content = path.read_bytes()
    cases = 0
    for at in range(0, len(content), step):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises((RefusedError, DataDirDamagedError)):
                check_export(FILES, path, "default")
            cases += 1
    return cases


def test_damaged_and_cut_files_are_refused(home: Path, tmp_path: Path) -> None:
    print(check_damage(home, tmp_path, 23), "cases")


@pytest.mark.deep
def test_every_flip_and_every_cut_is_refused(home: Path, tmp_path: Path) -> None:
    print(check_damage(home, tmp_path, 1), "cases")


def test_envelopes_are_verified_one_by_one_whatever_the_exporter_signs(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    export(home, path)
    rewritten(path, home, lambda lines: [lines[0], lines[1].replace(b"echo hi", b"echo ho"), *lines[2:]])
    totals = bring(tmp_path / "other", path)
    assert totals.rejected == {"wrong_id": 1}
    assert totals.ignored == {"gap": 6}
    assert totals.accepted == 0


def test_an_existing_file_is_not_overwritten_and_nothing_is_left_of_a_failure(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"precious")
    with pytest.raises(RefusedError) as refused:
        export(home, path)
    assert refused.value.reason is Reason.FILE_EXISTS
    assert path.read_bytes() == b"precious"
    with pytest.raises(CrabnetError):
        export(home, tmp_path / "no such directory" / "x")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x"]


def test_what_the_journal_has_lost_is_said(home: Path, tmp_path: Path) -> None:
    data_dir = Path(shutil.copytree(home, tmp_path / "home"))
    source = source_of(data_dir)
    for place in ("journal", "history"):
        for segment in (data_dir / place).glob("*.log"):
            segment.unlink()
    result = export_state(
        FILES, data_dir, tmp_path / "x", source=source, wanted=Wanted({}),
        key_seed=key_seed_of(FILES, data_dir), now_s=NOW_S,
    )  # fmt: skip
    assert (result.header.entries, result.header.heads) == (0, {})
    assert result.header.incomplete == tuple(source.heads)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": [1, "x"]}',
        '{"a": [0, "%s"]}' % ("0" * 64),
        '{"a": [1, ""]}',
        '{"a": [0, ""]}',
        '{"a": [2, "%s", 2]}' % ("0" * 64),
        '{"a": [2, "%s", -1]}' % ("0" * 64),
        '{"heads": []}',
    ],
)
def test_what_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vector(text)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path / "running")
    node.start()
    yield node
    assert node.running, node.errors()
    node.end()


def test_between_a_running_node_and_one_at_rest(running: NodeProcess, home: Path, tmp_path: Path) -> None:
    rest = Path(shutil.copytree(home, tmp_path / "rest"))
    export(rest, tmp_path / "x")
    words = quiet(running.data_dir)
    # The clock of the tests is behind that of this machine by design; what is imported may be old.
    done = crabnet("state", "import", str(tmp_path / "x"), *words)
    assert (done.returncode, done.stdout) == (0, "imported 7 of 7 envelopes\n"), done.stderr
    assert crabnet("seed", "publish", "--title", "n", "--cmd", "echo n", *words).returncode == 0
    vector = crabnet("state", "vector", "--json", *quiet(rest)).stdout
    delta = tmp_path / "delta"
    (tmp_path / "vector").write_text(vector, encoding="utf-8")
    done = crabnet("state", "export", str(delta), "--vector", str(tmp_path / "vector"), *words)
    assert (done.returncode, done.stdout) == (0, f"exported 1 envelopes to {delta}\n"), done.stderr
    assert crabnet("state", "diff", "live", str(rest), *words).returncode == 9
    assert crabnet("state", "import", str(delta), *quiet(rest)).stdout == "imported 1 of 1 envelopes\n"
    done = crabnet("state", "diff", "live", str(rest), *words)
    assert (done.returncode, done.stdout) == (0, "the same: 2 feeds, 3 tasks\n")
    audited = json.loads(crabnet("audit", "verify", "--json", *words).stdout)
    assert audited["ok"]
    assert "the running node" in [each["with"] for each in audited["comparisons"]]
    log = crabnet("audit", "log", "--all", "--json", *words).stdout.splitlines()
    assert [json.loads(line)["via"] for line in log] == ["import"] * 7 + ["local"]


def test_the_commands_refuse_with_their_exit_codes(home: Path, tmp_path: Path) -> None:
    path, words = tmp_path / "x", quiet(tmp_path / "data")
    export(home, path)

    async def something(node: Node) -> None:
        await publish(node)

    work(tmp_path / "data", something)
    path.write_bytes(path.read_bytes()[:-9])
    assert crabnet("state", "import", str(path), *words).returncode == 5
    path.write_bytes(b"hello\n")
    assert crabnet("state", "import", str(path), *words).returncode == 3
    assert crabnet("state", "export", str(path), *words).returncode == 3
    assert crabnet("state", "import", str(tmp_path / "none"), *words).returncode == 2
    os.mkfifo(tmp_path / "pipe")
    assert crabnet("state", "import", str(tmp_path / "pipe"), *words).returncode in {2, 3, 5, 6}
