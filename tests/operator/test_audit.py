"""`crabnet audit verify`: sound data dirs pass, and every changed byte is found and located."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import UsageError
from crabnet.node.node import Node
from crabnet.operator.findings import LivePoint
from crabnet.storage.journal.segment import FRAME_PREFIX_BYTES, HEADER_BYTES, encode_frame, encode_header, hash_line
from crabnet.storage.layout import encode_seal
from tests.operator.support import Clock, ledger_files, publish, verify, whole_job, work


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a settled seed, three sessions, two checkpoints and history."""
    data_dir = tmp_path_factory.mktemp("audit") / "data"
    work(data_dir, publish_one)
    work(data_dir, finish_one)
    work(data_dir, publish_one)
    return data_dir


async def publish_one(node: Node) -> None:
    await publish(node)


async def finish_one(node: Node) -> None:
    await whole_job(node)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a seed in the archive, one that came back from it, and one that never went."""
    data_dir = tmp_path_factory.mktemp("audit") / "data"
    clock = Clock()
    work(data_dir, finish_one, clock)
    work(data_dir, finish_one, clock)
    clock.now_ms += 30 * 24 * 3_600_000
    work(data_dir, archive_all, clock)
    work(data_dir, finish_one, clock)
    return data_dir


async def archive_all(node: Node) -> None:
    while await node.archivist.archive_due():
        pass
    assert not node.core.replica.state.records


def copy_of(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy", dirs_exist_ok=True, symlinks=True))


def flips(path: Path, step: int) -> Iterator[tuple[int, bytes]]:
    content = path.read_bytes()
    for at in range(0, len(content), step):
        yield at, content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_archived_seeds_are_part_of_the_hash(archived: Path, start: str) -> None:
    report = verify(archived, start)
    assert report.ok, report.findings
    assert report.comparisons


def test_changed_bytes_of_the_archive_are_found_and_located(archived: Path, tmp_path: Path) -> None:
    data_dir = copy_of(archived, tmp_path)
    (segment,) = (data_dir / "archive").glob("*.seg")
    original = segment.read_bytes()
    for at, changed in flips(segment, 61):
        segment.write_bytes(changed)
        located = [each for each in verify(data_dir).findings if each.path == segment]
        assert located, f"the flip at {at} was not located"
    segment.write_bytes(original)
    segment.unlink()
    assert segment in [each.path for each in verify(data_dir).findings]


@pytest.mark.parametrize("start", ["genesis", "state", "bak"])
def test_a_sound_data_dir_passes_and_its_hashes_agree(sound: Path, start: str) -> None:
    report = verify(sound, start)
    assert report.ok, report.findings
    assert (report.frames, report.envelopes, report.unsigned) == (8, 8, 0)
    (feed,) = report.feeds
    assert (feed.seq, feed.whole, feed.end) == (8, True, 0)
    assert feed.id in next(sound.glob("journal/*.log")).read_text() + (sound / "state.json").read_text()
    assert report.comparisons
    assert all(each.equal for each in report.comparisons)


def test_the_replay_can_start_from_a_checkpoint_that_was_kept_elsewhere(sound: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    shutil.copy(sound / "state.json.bak", kept)
    report = verify(sound, str(kept))
    assert report.ok, report.findings
    assert report.first_lsn == verify(sound, "bak").first_lsn > 1


def test_it_changes_nothing(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    verify(data_dir)
    assert {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()} == before


def check_flips(sound: Path, tmp_path: Path, step: int) -> int:
    data_dir = copy_of(sound, tmp_path)
    cases = 0
    for path in ledger_files(data_dir):
        original = path.read_bytes()
        for at, changed in flips(path, step):
            path.write_bytes(changed)
            report = verify(data_dir)
            assert not report.ok, f"{path.name}: the flip at {at} was not found"
            located = [each for each in report.findings if each.path == path]
            assert located, f"{path.name}: the flip at {at} was located in {report.findings}"
            assert all(each.offset <= at for each in located[:1])
            cases += 1
        path.write_bytes(original)
    assert verify(data_dir).ok
    return cases


def test_changed_bytes_are_found_and_located(sound: Path, tmp_path: Path) -> None:
    print(check_flips(sound, tmp_path, 61), "flips")


@pytest.mark.deep
def test_every_changed_byte_is_found_and_located(sound: Path, tmp_path: Path) -> None:
    print(check_flips(sound, tmp_path, 1), "flips")


def forge(data_dir: Path, lsn: int, old: bytes, new: bytes) -> None:
    """Change a payload and make all CRCs, hash links and first lines fit, as somebody with write access could."""
    segments = sorted([*(data_dir / "history").glob("*.log"), *(data_dir / "journal").glob("*.log")], key=name_of)
    head, number = "0" * 64, 0
    for path in segments:
        lines = path.read_bytes().splitlines(keepends=True)[1:]
        made = [encode_header(number + 1, head)]
        for line in lines:
            number += 1
            payload = line[FRAME_PREFIX_BYTES:-1]
            if number == lsn:
                assert old in payload
                payload = payload.replace(old, new)
            made.append(encode_frame(number, head, payload))
            head = hash_line(made[-1])
        path.write_bytes(b"".join(made))
    (data_dir / "sealed").write_bytes(encode_seal(number, head))


def name_of(path: Path) -> str:
    return path.name


def test_a_forged_envelope_is_found_by_its_signature(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    forge(data_dir, 2, b"echo hi", b"echo ho")
    report = verify(data_dir)
    path = next(data_dir.glob("*/00000000000000000002.log"))
    found, followed = report.findings
    envelope_id = json.loads(path.read_bytes().splitlines()[1][FRAME_PREFIX_BYTES:])[0][1]["meta"]["id"]
    assert (found.path, found.lsn, found.envelope_id) == (path, 2, envelope_id)
    assert path.read_bytes()[found.offset :].startswith(b'{"meta":{')
    assert "wrong_id" in found.detail
    assert followed.envelope_id == envelope_id
    assert "is not in the journal" in followed.detail


def test_a_forged_decision_is_found_by_the_checkpoints_and_noted_without_them(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    forge(data_dir, 7, b'{"status":"Accepted"', b'{"status":"Rejected"')
    report = verify(data_dir)
    details = [each.detail for each in report.findings]
    assert any("the state hash is" in each for each in details), details
    assert any("is not the frame that" in each for each in details), details
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    report = verify(data_dir)
    assert report.otherwise == 1
    assert "frame 7" in report.notes[0]


def test_a_frame_left_out_is_found_by_the_feed(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    envelope = json.loads(next(data_dir.glob("*/00000000000000000002.log")).read_bytes().splitlines()[1][100:])
    forge(data_dir, 2, json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode(), b"[]")
    report = verify(data_dir)
    assert [(each.lsn, "does not follow" in each.detail) for each in report.findings[:1]] == [(3, True)]
    assert [(feed.seq, feed.whole) for feed in report.feeds] == [(8, False)]


def test_a_changed_checkpoint_is_located_to_the_row(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    path = data_dir / "state.json"
    content = path.read_bytes()
    at = content.rindex(b"echo hi")
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    report = verify(data_dir)
    row = next(each for each in report.findings if each.path == path and each.offset)
    assert content[row.offset :].startswith(b'["seed",')
    assert row.offset < at < content.index(b"\n", row.offset)
    seed_id = json.loads(content[row.offset : content.index(b"\n", row.offset)].rstrip(b","))[1]
    assert seed_id in row.detail


def test_a_changed_row_is_located_behind_lists_that_take_several_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crabnet.core.replica.snapshot._PER_ROW", 1)
    data_dir = tmp_path / "data"
    for _ in range(3):
        work(data_dir, publish_one)
    path = data_dir / "state.json"
    content = path.read_bytes()
    assert content.count(b'\n["open",') == 3
    at = content.rindex(b"echo hi")
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    row = next(each for each in verify(data_dir).findings if each.path == path and each.offset)
    assert content[row.offset :].startswith(b'["seed",')


def test_a_checkpoint_forged_with_its_checksum_is_found(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    path = data_dir / "state.json"
    content = path.read_bytes().replace(b"echo hi", b"echo ho")
    start = content.rindex(b'"checksum"')
    digest = hashlib.sha256(content[:start]).hexdigest().encode()
    path.write_bytes(content[:start] + b'"checksum":"sha256:%s"}\n' % digest)
    report = verify(data_dir)
    assert [each.path for each in report.findings] == [path]
    assert "its rows have the state hash" in report.findings[0].detail


def test_missing_segments_are_found(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    for path in ledger_files(data_dir)[3:]:
        content = path.read_bytes()
        if len(content) == HEADER_BYTES:
            continue
        path.unlink()
        report = verify(data_dir)
        assert any("missing" in each.detail or "had reached" in each.detail for each in report.findings), path
        path.write_bytes(content)


def test_the_word_of_a_running_node_is_compared(sound: Path) -> None:
    state_hash = verify(sound).state_hash
    assert verify(sound, live=LivePoint(state_hash, 8)).ok
    lying = verify(sound, live=LivePoint("0" * 64, 8))
    assert [each.lsn for each in lying.findings] == [8]
    assert not verify(sound, live=LivePoint(state_hash, 9)).ok


def test_frames_behind_what_the_running_node_calls_durable_do_not_count(sound: Path, tmp_path: Path) -> None:
    data_dir = copy_of(sound, tmp_path)
    state_hash = verify(sound).state_hash
    last = max((data_dir / "journal").glob("*.log"))
    last.write_bytes(last.read_bytes() + b"0000")
    assert verify(data_dir, live=LivePoint(state_hash, 8)).ok
    torn = verify(data_dir)
    assert [each.path for each in torn.findings] == [last]


def test_a_start_that_is_no_checkpoint_is_refused(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        verify(sound, str(tmp_path / "none"))
    with pytest.raises(UsageError):
        verify(tmp_path / "none")
