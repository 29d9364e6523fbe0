"""A data dir restored over itself, or a key alone: nothing is written before the feed is known (own-1, disk-6)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.nodes import Nodes, crabnet, environment, quiet, wait_for

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]


LONG_MS = "30000"
"""How long to wait for a peer that is there: whatever the load, it answers before."""
SOON = ["--feed-wait-ms", "100"]
"""For a peer that is away."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


def files_in(place: Path) -> set[Path]:
    return {path.relative_to(place) for path in place.rglob("*") if path.is_file()}


def restore_over(backup: Path, place: Path, *, times: bool) -> None:
    """As ``cp -a backup/. place/`` and the removal of what is newer; without ``times`` as a snapshot of the volume is
    seen: no file shows that anything was done to it.
    """
    for extra in files_in(place) - files_in(backup):
        (place / extra).unlink()
    for name in files_in(backup):
        (place / name).parent.mkdir(exist_ok=True)
        with (place / name).open("r+b" if (place / name).exists() else "xb") as file:
            file.truncate()
            file.write((backup / name).read_bytes())
        if times:
            status = (backup / name).stat()
            os.utime(place / name, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))


class Restored:
    """A publisher that has written more since a backup of its data dir and of its notes, and a peer that holds all."""

    def __init__(self, nodes: Nodes, tmp_path: Path) -> None:
        self.state = tmp_path / "notes"
        self.env = environment(XDG_STATE_HOME=str(self.state))
        self.peer = nodes.start("peer")
        self.node = nodes.make("publisher", [self.peer.listen], "--feed-wait-ms", LONG_MS, env=self.env)
        self.data_dir = self.node.data_dir
        self.publish()
        backup, notes = tmp_path / "backup", tmp_path / "backup-notes"
        shutil.copytree(self.data_dir, backup)
        shutil.copytree(self.state, notes)
        self.ids = [self.publish() for _ in range(3)]
        wait_for("the peer to hold all", lambda: set(self.ids) <= self.peer.seed_ids())
        self._backup, self._notes = backup, notes

    def words(self, *more: str) -> list[str]:
        return ["--data-dir", str(self.data_dir), "--announce-addr", self.peer.listen, "--feed-wait-ms", LONG_MS, *more]

    def publish(self, *more: str) -> str:
        done = crabnet(*PUBLISH, *self.words(*more), env=self.env)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def refused(self, *more: str) -> str:
        """What a command that must be refused says."""
        done = crabnet(*PUBLISH, *self.words(*more), env=self.env)
        assert done.returncode == ExitCode.REFUSED, done.stdout
        assert "feed_risk" in done.stderr
        return done.stderr

    def restore(self, *, times: bool, notes: str) -> None:
        restore_over(self._backup, self.data_dir, times=times)
        if notes == "lost":
            shutil.rmtree(self.state)
        elif notes == "restored":
            restore_over(self._notes, self.state, times=times)

    def recover(self) -> None:
        """The node listens until it has its feed back, and goes on."""
        self.node.start()
        self.node.await_event("feed_confirmed")
        assert set(self.ids) <= self.node.seed_ids()
        self.node.ok(*PUBLISH)
        wait_for("both to agree", lambda: self.node.state_hash() == self.peer.state_hash())
        assert not self.peer.events("fork_detected")
        assert not self.node.events("fork_detected")


@pytest.mark.parametrize(
    ("times", "notes"),
    [
        pytest.param(True, "lost", marks=pytest.mark.deep),
        pytest.param(False, "restored", marks=pytest.mark.deep),
        pytest.param(True, "kept", marks=pytest.mark.deep),
        pytest.param(True, "restored", marks=pytest.mark.deep),
        pytest.param(False, "kept", marks=pytest.mark.deep),
        pytest.param(False, "lost", marks=pytest.mark.deep),
    ],
)
def test_a_data_dir_restored_over_itself_writes_nothing_before_it_has_its_feed_back(
    nodes: Nodes, tmp_path: Path, times: bool, notes: str
) -> None:
    publisher = Restored(nodes, tmp_path)
    publisher.restore(times=times, notes=notes)
    publisher.refused()
    publisher.recover()


@pytest.mark.parametrize(
    ("times", "notes"),
    [
        (False, "kept"),
        pytest.param(True, "restored", marks=pytest.mark.deep),
        pytest.param(True, "kept", marks=pytest.mark.deep),
        pytest.param(True, "lost", marks=pytest.mark.deep),
    ],
)
def test_it_is_noticed_without_a_peer_too(nodes: Nodes, tmp_path: Path, times: bool, notes: str) -> None:
    publisher = Restored(nodes, tmp_path)
    publisher.peer.end()
    publisher.restore(times=times, notes=notes)
    for _ in range(2):
        publisher.refused(*SOON)


@pytest.mark.deep
def test_a_whole_machine_that_was_restored_and_hears_of_nobody_asks_for_the_operators_policy(
    nodes: Nodes, tmp_path: Path
) -> None:
    publisher = Restored(nodes, tmp_path)
    publisher.peer.end()
    publisher.restore(times=False, notes="lost")
    assert "feed_unanswered" in publisher.refused(*SOON)
    publisher.restore(times=False, notes="kept")
    done = crabnet(*PUBLISH, *publisher.words(*SOON, "--feed-unanswered", "write"), env=publisher.env)
    assert done.returncode == 0, done.stderr


@pytest.mark.deep
def test_a_peer_that_is_away_delays_what_was_never_restored_for_the_wait_only(nodes: Nodes, tmp_path: Path) -> None:
    publisher = Restored(nodes, tmp_path)
    publisher.peer.end()
    publisher.refused(*SOON, "--feed-unanswered", "refuse")
    publisher.publish(*SOON)
    publisher.node.words = tuple(SOON)
    publisher.node.start()
    publisher.node.publish()
    assert publisher.node.ask("status")["feed_risk"] is False


def test_a_key_alone_takes_its_feed_back_before_it_writes(nodes: Nodes, tmp_path: Path) -> None:
    publisher = Restored(nodes, tmp_path)
    key = (publisher.data_dir / "identity.key").read_bytes()
    shutil.rmtree(publisher.data_dir)
    shutil.rmtree(publisher.state)
    publisher.data_dir.mkdir(0o700)
    (publisher.data_dir / "identity.key").write_bytes(key)
    (publisher.data_dir / "identity.key").chmod(0o600)
    assert "a key and nothing else" in publisher.refused()
    publisher.refused()
    publisher.recover()


@pytest.mark.deep
def test_a_key_alone_and_nobody_to_ask_needs_the_operators_word(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert crabnet(*PUBLISH, *quiet(first)).returncode == 0
    second.mkdir(0o700)
    shutil.copyfile(first / "identity.key", second / "identity.key")
    (second / "identity.key").chmod(0o600)
    assert crabnet(*PUBLISH, *quiet(second)).returncode == ExitCode.REFUSED
    assert crabnet(*PUBLISH, *quiet(second), "--accept-feed-risk").returncode == 0
    assert crabnet(*PUBLISH, *quiet(second)).returncode == 0


def test_a_note_that_cannot_be_written_is_told_and_stops_nothing(nodes: Nodes, tmp_path: Path) -> None:
    place = tmp_path / "notes"
    place.write_text("")
    node = nodes.start("node", [], "--state-dir", str(place))
    node.publish()
    event = node.await_event("feed_mark_failed")
    assert str(place) in str(event.payload["detail"])


def test_one_command_alone_is_remembered_by_no_peer(nodes: Nodes, tmp_path: Path) -> None:
    publisher = Restored(nodes, tmp_path)
    assert publisher.peer.ask("status")["peers"] == 0
    assert publisher.peer.ask("status")["peers_remembered"] == 0
