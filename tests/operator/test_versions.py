"""Every version of every format that was released is read; what was not, and newer ones, are refused by name."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crabnet.domain.model import SeedStatus
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.node.node import Node
from crabnet.operator.compare import compare, load_side
from crabnet.operator.exchange import EXPORT_VERSION, check_export, read_entries
from crabnet.operator.transfer import import_entries
from crabnet.protocol.keys import pem_of_seed
from crabnet.storage.archive.segment import ARCHIVE_VERSION
from crabnet.storage.checkpoint.format import CHECKPOINT_VERSION
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.segment import HEADER_BYTES, JOURNAL_VERSION, seal_header
from crabnet.storage.keyfile import create_key_file
from tests.operator.support import START_MS, Clock, publish, settings_of, verify, work
from tests.support.nodes import crabnet, quiet

FIXTURES = Path(__file__).parents[1] / "fixtures"
STATE_HASH = "7d4120f6fd0f6a47ef9bec6898b2f50f24d60b393c3a2addc794b5cfcc2a277e"
FILES = RealFiles()


def with_key(fixture: Path, place: Path) -> Path:
    """A copy of a data dir with its key, which is no secret."""
    data_dir = Path(shutil.copytree(fixture, place, copy_function=shutil.copyfile))
    data_dir.chmod(0o700)
    create_key_file(FILES, data_dir, lambda: pem_of_seed(hashlib.sha256(b"crabnet fixture, no secret").digest()))
    return data_dir


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path: Path) -> Path:
    """The data dir of version 1."""
    return with_key(FIXTURES / "data-dir-v1", tmp_path / "data")


@pytest.fixture(name="unreleased")
def _unreleased(tmp_path: Path) -> Path:
    """A data dir of a development version."""
    return with_key(FIXTURES / "unreleased" / "data-dir", tmp_path / "unreleased")


def test_there_is_a_fixture_of_every_version() -> None:
    versions = {"data-dir": {CHECKPOINT_VERSION, JOURNAL_VERSION, ARCHIVE_VERSION}, "export": {EXPORT_VERSION}}
    for name, written in versions.items():
        found = {int(match[1]) for path in FIXTURES.iterdir() if (match := re.match(rf"{name}-v(\d+)", path.name))}
        assert found == {version for last in written for version in range(1, last + 1)}


def test_a_data_dir_of_version_1_opens_and_goes_on(data_dir: Path) -> None:
    clock = Clock()
    clock.now_ms = START_MS + 30 * 24 * 3_600_000
    seen: list[tuple[str, dict[SeedStatus, int]]] = []

    async def look(node: Node) -> None:
        state = node.core.replica.state
        seen.append((node.core.replica.state_hash(), {key: n for key, n in state.archived.items() if n}))
        assert len(state.records) == 4
        assert [feed.end for feed in node.core.replica.feeds.all() if feed.end] == [3]
        await publish(node)

    work(data_dir, look, clock)
    assert seen == [(STATE_HASH, {SeedStatus.ACCEPTED: 1})]
    assert verify(data_dir).ok


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_a_data_dir_of_version_1_passes_the_audit(data_dir: Path, start: str) -> None:
    report = verify(data_dir, start)
    assert report.ok, report.findings
    assert report.state_hash == STATE_HASH


def test_an_export_of_version_1_is_imported(data_dir: Path, tmp_path: Path) -> None:
    export = check_export(FILES, FIXTURES / "export-v1.ndjson", "default")
    totals = import_entries(settings_of(tmp_path / "other"), read_entries(FILES, export))
    assert (totals.entries, totals.accepted, totals.ignored, totals.rejected) == (20, 19, {}, {"fork": 1})
    sides = [
        load_side(FILES, str(path), data_dir=path, namespace="default", durable_lsn=lambda _: None)
        for path in (tmp_path / "other", data_dir)
    ]
    difference = compare(sides[0], sides[1])
    assert [(each.a and each.a.seq, each.b and each.b.seq) for each in difference.feeds] == [(7, 8)]
    assert [each.a for each in difference.seeds] == [None]


def test_a_data_dir_of_version_1_is_exported(data_dir: Path, tmp_path: Path) -> None:
    words = quiet(data_dir)
    done = crabnet("state", "export", str(tmp_path / "x"), *words)
    assert (done.returncode, done.stdout) == (0, f"exported 21 envelopes to {tmp_path / 'x'}\n"), done.stderr
    other = quiet(tmp_path / "other")
    done = crabnet("state", "import", str(tmp_path / "x"), *other)
    assert done.stdout == "imported 20 of 21 envelopes\nrejected 1: fork\n", done.stderr
    done = crabnet("state", "diff", str(data_dir), "live", *other)
    assert done.stdout == "the same: 4 feeds, 5 tasks\n"


def contents(data_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


@pytest.mark.deep
@pytest.mark.parametrize("checkpoints", [True, False])
def test_what_was_never_released_is_refused_and_left_as_it_is(unreleased: Path, checkpoints: bool) -> None:
    if not checkpoints:
        for name in ("state.json", "state.json.bak"):
            (unreleased / name).unlink()
    before = contents(unreleased)
    words = quiet(unreleased)
    for command in (["seed", "list"], ["listen"], ["state", "export", "x"], ["audit", "log"]):
        done = crabnet(*command, *words)
        assert (done.returncode, done.stdout) == (5, ""), command
        assert "unsupported_version" in done.stderr
        assert "begin a new one" in done.stderr
    for command in (["fsck"], ["fsck", "--repair"], ["audit", "verify"]):
        done = crabnet(*command, *words)
        assert done.returncode == 5
        assert "begin a new one" in done.stdout + done.stderr
    after = contents(unreleased)
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} <= {"lock", "reserve", "events.lock", "events.ndjson"}


def test_of_an_export_that_was_never_released_no_step_counts(tmp_path: Path) -> None:
    """Its steps do not name what they rest on: each is refused by itself, as if it came from the network."""
    export = check_export(FILES, FIXTURES / "unreleased" / "export.ndjson", "default")
    totals = import_entries(settings_of(tmp_path / "other"), read_entries(FILES, export))
    assert (totals.entries, totals.accepted, totals.rejected) == (7, 2, {"malformed": 5})


def newer_checkpoint(name: str) -> Callable[[Path], None]:
    def change(data_dir: Path) -> None:
        path = data_dir / name
        path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2', 1))
        content = path.read_bytes()
        start = content.rindex(b'"checksum"')
        digest = hashlib.sha256(content[:start]).hexdigest().encode()
        path.write_bytes(content[:start] + b'"checksum":"sha256:%s"}\n' % digest)

    return change


def newer_journal(data_dir: Path) -> None:
    path = max((data_dir / "journal").glob("*.log"))
    content = path.read_bytes()
    path.write_bytes(seal_header(content[:16] + b"0002" + content[20 : HEADER_BYTES - 9]) + content[HEADER_BYTES:])


def newer_archive(data_dir: Path) -> None:
    (path,) = (data_dir / "archive").glob("*.seg")
    content = path.read_bytes()
    end = content.index(b"\n") - 8
    header = content[:end].replace(b"crabnet-archive 0001", b"crabnet-archive 0002")
    path.write_bytes(seal_header(header) + content[end + 9 :])


@pytest.mark.parametrize(
    "change",
    [newer_checkpoint("state.json"), newer_checkpoint("state.json.bak"), newer_journal, newer_archive],
    ids=["state.json", "state.json.bak", "journal", "archive"],
)
def test_a_newer_version_is_refused_and_left_as_it_is(data_dir: Path, change: Callable[[Path], None]) -> None:
    change(data_dir)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}

    async def never(node: Node) -> None:
        raise AssertionError(node)

    with pytest.raises(DataDirDamagedError) as refused:
        work(data_dir, never)
    assert refused.value.reason is Reason.DATA_DIR_NEWER
    assert "upgrade" in refused.value.message
    assert {path: path.read_bytes() for path in before} == before


def test_a_newer_export_is_refused_with_a_clear_word(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'{"format":"crabnet-export","version":2,"anything":true}\n{"end":"unknown to us"}\n')
    with pytest.raises(CrabnetError) as refused:
        check_export(FILES, path)
    assert (refused.value.reason, refused.value.exit_code) == (Reason.UNSUPPORTED_VERSION, 3)
    assert "newer" in refused.value.message
