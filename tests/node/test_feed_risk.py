"""Real nodes whose data dir was repaired, or replaced by an older copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from crabnet.monitor.reader import read_events
from tests.support.nodes import NodeProcess, Nodes, crabnet, quiet, wait_for

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A maker of nodes in the test's own directory."""
    made = Nodes(tmp_path)
    yield made
    made.close()


def damage(data_dir: Path) -> None:
    """Leave something at the end of the journal that may have been a frame: the node starts, but may lack it."""
    (data_dir / "sealed").unlink(missing_ok=True)
    with sorted((data_dir / "journal").glob("*.log"))[-1].open("ab") as segment:
        segment.write(b"anything")


def pair(nodes: Nodes) -> tuple[NodeProcess, NodeProcess]:
    """Two nodes; the second knows the first's address, and holds its feed."""
    first = nodes.start("first")
    second = nodes.start("second", peers=[first.listen])
    first.publish()
    wait_for("the second to hold the feed of the first", lambda: first.state_hash() == second.state_hash())
    return first, second


def test_a_repaired_data_dir_needs_a_peer_or_the_operators_word(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    damage(data_dir)
    for _ in range(3):
        done = crabnet(*PUBLISH, *quiet(data_dir))
        assert done.returncode == ExitCode.REFUSED
        assert "feed_risk" in done.stderr
        assert "crabnet listen" in done.stderr
    assert crabnet("status", *quiet(data_dir)).returncode == 0
    assert crabnet(*PUBLISH, *quiet(data_dir), "--accept-feed-risk").returncode == 0
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0


@pytest.mark.parametrize(
    ("closed", "destroyed"),
    [
        (True, ("state.json",)),
        pytest.param(False, ("state.json", "state.json.bak"), marks=pytest.mark.deep),
        pytest.param(False, ("state.json",), marks=pytest.mark.deep),
        pytest.param(True, ("state.json", "state.json.bak"), marks=pytest.mark.deep),
        pytest.param(True, ("state.json.bak",), marks=pytest.mark.deep),
        pytest.param(False, ("state.json.bak",), marks=pytest.mark.deep),
    ],
)
def test_a_destroyed_checkpoint_costs_nothing_but_an_alert(
    tmp_path: Path, closed: bool, destroyed: tuple[str, ...]
) -> None:
    """The journal is whole, so nothing that was sent can be missing (own-5)."""
    data_dir = tmp_path / "data"
    for _ in range(2):
        assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    if not closed:
        (data_dir / "sealed").unlink(missing_ok=True)
    for name in destroyed:
        (data_dir / name).write_bytes((data_dir / name).read_bytes()[:100])
    done = crabnet(*PUBLISH, *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    assert len(crabnet("seed", "list", *quiet(data_dir)).stdout.splitlines()) == 3
    assert read_events(data_dir, kinds=["ledger_recovered"]).events
    assert crabnet("audit", "verify", *quiet(data_dir)).returncode == 0


def test_a_repaired_node_writes_again_when_a_peer_has_confirmed_its_feed(nodes: Nodes) -> None:
    first, second = pair(nodes)
    second.end()
    first.end()
    damage(first.data_dir)
    first.start()
    assert first.cli(*PUBLISH).returncode == ExitCode.REFUSED
    second.start()
    first.await_event("feed_confirmed")
    wait_for("the mark to go", lambda: not (first.data_dir / "feed-risk").exists())
    first.ok(*PUBLISH)
    wait_for("both to agree", lambda: first.state_hash() == second.state_hash())
    assert not second.events("fork_detected")


@pytest.mark.deep
def test_an_older_copy_of_a_data_dir_takes_its_feed_back_before_it_writes(nodes: Nodes) -> None:
    first, second = pair(nodes)
    first.end()
    backup = first.data_dir.with_name("backup")
    shutil.copytree(first.data_dir, backup)
    first.start()
    later = {first.publish() for _ in range(5)}
    wait_for("the second to hold all", lambda: later <= second.seed_ids())
    first.end()
    shutil.rmtree(first.data_dir)
    backup.rename(first.data_dir)
    first.start()
    first.await_event("feed_adopted")
    first.await_event("feed_confirmed")
    assert later <= first.seed_ids()
    first.ok(*PUBLISH)
    wait_for("both to agree", lambda: first.state_hash() == second.state_hash())
    assert not second.events("fork_detected")
    assert not first.events("fork_detected")


@pytest.mark.deep
def test_the_risk_is_remembered_over_kills(nodes: Nodes) -> None:
    first, second = pair(nodes)
    second.end()
    first.end()
    damage(first.data_dir)
    for _ in range(2):
        first.start()
        assert first.ask("status")["feed_risk"] is True
        first.kill()
    second.start()
    first.start()
    first.await_event("feed_confirmed")
    assert first.ask("status")["feed_risk"] is False


def test_a_lone_node_needs_nobodys_word_after_a_kill(tmp_path: Path) -> None:
    """kill -9 in the middle of writes: what they leave was never sent, so the next command may go on."""
    data_dir = tmp_path / "data"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    segment = sorted((data_dir / "journal").glob("*.log"))[-1]
    lsn = int(segment.stem)
    header = segment.read_bytes()
    (data_dir / "sealed").unlink(missing_ok=True)
    previous = header.split(b" ")[3]
    segment.write_bytes(header + b"0123abcd 00000200 %016x %s " % (lsn, previous) + b'[["envelope",{"meta":')
    state = data_dir / "state.json"
    shutil.copy(state, data_dir / "state.json.tmp")
    state.rename(data_dir / "state.json.bak")
    done = crabnet(*PUBLISH, *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    outcomes = {event.payload["outcome"] for event in read_events(data_dir, kinds=["ledger_recovered"]).events}
    assert {"journal_unfinished", "checkpoint_unfinished"} <= outcomes
    assert crabnet("audit", "verify", *quiet(data_dir)).returncode == 0


@pytest.mark.deep
def test_an_older_copy_waits_for_a_peer_that_comes_late(nodes: Nodes) -> None:
    """Nobody is there: it refuses, also a command alone. When a peer comes it asks, adopts, and goes on."""
    first, second = pair(nodes)
    first.end()
    backup = first.data_dir.with_name("backup")
    shutil.copytree(first.data_dir, backup)
    first.start()
    later = {first.publish() for _ in range(3)}
    wait_for("the second to hold all", lambda: later <= second.seed_ids())
    first.end()
    second.end()
    shutil.rmtree(first.data_dir)
    backup.rename(first.data_dir)
    done = crabnet(*PUBLISH, *quiet(first.data_dir))
    assert done.returncode == ExitCode.REFUSED
    assert "feed_risk" in done.stderr
    first.start()
    for _ in range(2):
        assert first.cli(*PUBLISH).returncode == ExitCode.REFUSED
    second.start()
    first.await_event("feed_adopted")
    first.await_event("feed_confirmed")
    assert later <= first.seed_ids()
    first.ok(*PUBLISH)
    wait_for("both to agree", lambda: first.state_hash() == second.state_hash())
    assert first.ask("status")["equivocators"] == second.ask("status")["equivocators"] == []


@pytest.mark.deep
def test_a_copy_is_told_from_a_data_dir_that_was_moved(tmp_path: Path) -> None:
    """A copy may be an old one, whoever made it; a directory under another name is the same."""
    data_dir, moved, copied = (tmp_path / name for name in ("data", "moved", "copied"))
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    data_dir.rename(moved)
    assert crabnet(*PUBLISH, *quiet(moved)).returncode == 0
    shutil.copytree(moved, copied)
    for _ in range(2):
        assert crabnet(*PUBLISH, *quiet(copied)).returncode == ExitCode.REFUSED
    assert crabnet(*PUBLISH, *quiet(copied), "--accept-feed-risk").returncode == 0
    assert crabnet(*PUBLISH, *quiet(copied)).returncode == 0
    done = crabnet(*PUBLISH, *quiet(moved))
    assert done.returncode == ExitCode.REFUSED, "the copy has written in its place since"
    assert "feeds" in done.stderr


@pytest.mark.deep
def test_a_copy_in_the_very_place_of_the_original_is_one_too(tmp_path: Path) -> None:
    """File systems give the numbers of removed files to new ones."""
    data_dir, backup = tmp_path / "data", tmp_path / "backup"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    shutil.copytree(data_dir, backup)
    for _ in range(3):
        shutil.rmtree(data_dir)
        shutil.copytree(backup, data_dir)
        assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == ExitCode.REFUSED


@pytest.mark.parametrize("content", [b'{"identity.key":[1]}', b"\xff"])
def test_a_mark_of_the_place_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    data_dir = tmp_path / "data"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    (data_dir / "origin").write_bytes(content)
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    assert crabnet("fsck", *quiet(data_dir)).returncode == 0
