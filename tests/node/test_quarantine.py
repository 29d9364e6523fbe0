"""The quarantine directory: what is kept, within which bounds, and that nothing depends on it."""

from __future__ import annotations

import errno
import json
import stat
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.core.commands import Publish, Received
from crabnet.core.effects import Effects
from crabnet.core.mending import Fault, Part, ReplicaFailedError, hash_of
from crabnet.errors import StorageFailedError
from crabnet.monitor.reader import read_events
from crabnet.node.node import Node
from crabnet.node.quarantine import CONDEMNED_FILE, DIRECTORY, Quarantine
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.storage.files import OpenMode, RealFiles
from tests.core.test_mending import POISON, cannot_apply, cannot_judge
from tests.operator.support import settings_of
from tests.support.envelopes import NOW_S, Author
from tests.support.planted import plant

DEADLINE_S = 60
SOURCE = "192.0.2.1:9012"

pytestmark = pytest.mark.expects_faults


def error_of(text: str) -> Exception:
    try:
        raise ZeroDivisionError(text)
    except ZeroDivisionError as error:
        return error


def stored(data_dir: Path) -> list[Path]:
    return sorted((data_dir / DIRECTORY).glob("*-*.json"))


class BrokenFiles(RealFiles):
    """Nothing can be written in the quarantine directory."""

    def open(self, path: Path, mode: OpenMode) -> int:
        if DIRECTORY in path.parts and mode is not OpenMode.READ:
            raise OSError(errno.EIO, "planted", str(path))
        return super().open(path, mode)


def test_a_fault_is_kept_with_its_message(tmp_path: Path) -> None:
    quarantine = Quarantine(RealFiles(), tmp_path)
    name = quarantine.keep(Fault("relay", error_of("planted"), b"\x00message\xff", SOURCE), 1_234)
    path = tmp_path / DIRECTORY / name
    content = json.loads(path.read_bytes())
    assert b64decode(content.pop("message")) == b"\x00message\xff"
    assert "ZeroDivisionError: planted" in content.pop("traceback")
    assert content.pop("version")
    assert content == {
        "at_ms": 1_234,
        "part": "relay",
        "error": "ZeroDivisionError",
        "source": SOURCE,
        "sha256": hash_of(b"\x00message\xff"),
        "bytes": 9,
    }
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]


def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    quarantine = Quarantine(RealFiles(), tmp_path)
    quarantine.path.mkdir()
    unfinished = quarantine.path / "0000000000001-half.json.tmp"
    unfinished.write_bytes(b"{")
    assert quarantine.load() == ""
    assert not unfinished.exists()


def test_the_same_again_is_kept_once(tmp_path: Path) -> None:
    quarantine = Quarantine(RealFiles(), tmp_path)
    names = {quarantine.keep(Fault("relay", error_of("planted"), b"m"), at_ms) for at_ms in range(5)}
    again = Quarantine(RealFiles(), tmp_path)
    assert again.load() == ""
    names.add(again.keep(Fault("relay", error_of("planted"), b"m"), 6))
    assert len(names) == len(stored(tmp_path)) == 1


@pytest.mark.parametrize("size", [10, 20_000])
def test_quarantine_stays_within_its_bounds(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUARANTINE_BYTES_MAX", 1024 * 1024)
    quarantine = Quarantine(RealFiles(), tmp_path)
    for number in range(10_000):
        message = number.to_bytes(4, "big").ljust(size, b"x")
        last = quarantine.keep(Fault("judging", error_of("planted"), message), number)
        if number % 1_000 == 999:
            quarantine = Quarantine(RealFiles(), tmp_path)
            quarantine.load()
    names = [path.name for path in stored(tmp_path)]
    assert names[-1] == last
    assert len(names) <= limits.QUARANTINE_FILES_MAX
    assert sum(path.stat().st_size for path in stored(tmp_path)) <= limits.QUARANTINE_BYTES_MAX
    assert len(list((tmp_path / DIRECTORY).iterdir())) == len(names)


def test_what_is_refused_is_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONDEMNED_MAX", 3)
    quarantine = Quarantine(RealFiles(), tmp_path)
    messages = [bytes([number]) for number in range(5)]
    for message in messages:
        quarantine.condemn([message], [message])
    again = Quarantine(RealFiles(), tmp_path)
    assert again.load() == ""
    assert again.refused == again.suspects == [hash_of(message) for message in messages[2:]]


def test_the_largest_list_that_is_written_can_be_read(tmp_path: Path) -> None:
    messages = [number.to_bytes(4, "big") for number in range(limits.CONDEMNED_MAX + 1)]
    Quarantine(RealFiles(), tmp_path).condemn(messages, messages)
    again = Quarantine(RealFiles(), tmp_path)
    assert again.load() == ""
    assert len(again.refused) == limits.CONDEMNED_MAX


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"format":"other"}', b'{"format":"crabnet-refused-1",'])
def test_a_damaged_list_is_told_and_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / CONDEMNED_FILE).write_bytes(content)
    quarantine = Quarantine(RealFiles(), tmp_path)
    assert CONDEMNED_FILE in quarantine.load()
    assert quarantine.refused == []


def test_an_error_whose_text_cannot_be_made_is_kept_too(tmp_path: Path) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise self

    quarantine = Quarantine(RealFiles(), tmp_path)
    quarantine.keep(Fault("relay", MuteError(), b"m"), 1)
    assert len(stored(tmp_path)) == 1


def seed(author: Author, title: str) -> Envelope:
    return author.say(Kind.SEED_CREATED, {"seed": author.seed(title=title)})


def open_node(data_dir: Path, files: RealFiles | None = None) -> Node:
    return Node(settings_of(data_dir), files=files, clock_ms=lambda: NOW_S * 1000)


async def tell(node: Node, envelope: Envelope) -> None:
    effects = Effects()
    node.core.handle(Received(SOURCE, envelope.raw), NOW_S * 1000, effects)
    await node.committer.submit(effects)


def alerts(data_dir: Path, kind: str) -> list[object]:
    return [
        event.payload.get("part", event.payload.get("job")) for event in read_events(data_dir, kinds=(kind,)).events
    ]


@pytest.mark.parametrize("part", [Part.RELAY, Part.PEERS, Part.ANNOUNCER])
async def test_a_fault_of_a_soft_part_is_an_alert_and_is_kept(tmp_path: Path, part: Part) -> None:
    call = {Part.RELAY: "targets", Part.PEERS: "heard", Part.ANNOUNCER: "changed"}[part]
    async with open_node(tmp_path) as node:
        plant(node.core, part, call)
        envelope = seed(Author("a"), "t")
        await tell(node, envelope)
        assert (await node.publish(Publish(title="t", command="true"))).title == "t"
        assert len(await node.seeds()) == 2
    assert alerts(tmp_path, "fault_contained") == [part.value]
    [path] = stored(tmp_path)
    assert json.loads(path.read_bytes())["sha256"] == hash_of(envelope.raw)


async def test_a_quarantine_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cannot_judge(monkeypatch, KeyError("planted"))
    async with open_node(tmp_path, BrokenFiles()) as node:
        await tell(node, seed(Author("a"), POISON))
        await tell(node, seed(Author("b"), "t"))
        assert len(await node.seeds()) == 1
    assert alerts(tmp_path, "fault_contained") == ["judging"]
    assert "quarantine" in alerts(tmp_path, "job_failed")
    assert alerts(tmp_path, "node_stopped") == [None]


@pytest.mark.parametrize("files", [RealFiles(), BrokenFiles()])
async def test_a_program_with_a_node_inside_gets_the_error_and_can_open_the_node_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: RealFiles
) -> None:
    """Nothing of what was half applied reaches the journal or a checkpoint."""
    poison = seed(Author("a"), POISON)
    hashes: list[str] = []

    async def life() -> None:
        async with open_node(tmp_path, files) as node:
            await tell(node, seed(Author("b"), "t"))
            hashes.append(await node.state_hash())
            cannot_apply(monkeypatch, KeyError("planted"))
            await tell(node, poison)

    with pytest.raises(ReplicaFailedError), trio.fail_after(DEADLINE_S):
        await life()
    monkeypatch.undo()
    async with open_node(tmp_path) as node:
        assert await node.state_hash() == hashes[0]
        assert not node.core.feed_risk
        await tell(node, poison)
        assert len(await node.seeds()) == (2 if isinstance(files, BrokenFiles) else 1)


async def test_after_an_error_while_applying_nothing_is_written_and_the_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with open_node(tmp_path) as node:
            cannot_apply(monkeypatch, KeyError("planted"))
            with suppress(ReplicaFailedError):
                await tell(node, seed(Author("a"), POISON))
            before = node.ledger.last_lsn
            with pytest.raises(StorageFailedError):
                await node.committer.submit(Effects(records=[b"{}"]))
            assert node.ledger.last_lsn == before
            await trio.sleep_forever()

    with pytest.raises(ReplicaFailedError), trio.fail_after(DEADLINE_S):
        await life()


async def test_a_soft_job_that_fails_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_RETRY_S", 0)
    async with open_node(tmp_path) as node:
        calls = 0

        async def job() -> None:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise ExceptionGroup("of a nursery", [error_of("planted")])

        with trio.fail_after(DEADLINE_S):
            await node.faults.contained("outbox", job)
        assert calls == 3
    assert alerts(tmp_path, "fault_contained") == ["outbox", "outbox"]
    assert len(stored(tmp_path)) == 1
