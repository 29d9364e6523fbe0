"""Commands that read change nothing, wait for nobody and need no rights to write (own-3, own-4, disk-7)."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from crabnet.errors import ExitCode
from crabnet.node.operations.reading import READERS
from crabnet.operations.model import Alone
from crabnet.operations.table import OPERATIONS
from tests.support.nodes import CRABNET, crabnet, environment, quiet

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]
NOBODY = 65_534


def published(data_dir: Path, *more: str) -> str:
    done = crabnet(*PUBLISH, *quiet(data_dir), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def reading(seed_id: str) -> list[list[str]]:
    return [
        ["status"],
        ["id"],
        ["peers"],
        ["seed", "list"],
        ["seed", "show", seed_id],
        ["state", "vector"],
        ["events"],
        ["config", "show"],
        ["audit", "verify"],
    ]


class Entry(NamedTuple):
    inode: int
    owner: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def everything_in(place: Path) -> dict[str, Entry]:
    """All that a change of anything would change."""
    found = {}
    for path in [place, *sorted(place.rglob("*"))]:
        status = path.stat(follow_symlinks=False)
        found[str(path.relative_to(place))] = Entry(
            status.st_ino, status.st_uid, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
    return found


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Somebody else owns the data dir."""
    with (data_dir / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(
    "state",
    [
        "torn",
        *(pytest.param(state, marks=pytest.mark.deep) for state in ("clean", "killed", "no checkpoint", "no index")),
    ],
)
def test_reading_changes_nothing_and_waits_for_nobody(tmp_path: Path, state: str) -> None:
    data_dir = tmp_path / "d"
    seed_id = published(data_dir)
    if state != "clean":
        (data_dir / "sealed").unlink()
    if state == "no checkpoint":
        (data_dir / "state.json").unlink()
    if state == "torn":
        segment = sorted((data_dir / "journal").glob("*.log"))[-1]
        segment.write_bytes(segment.read_bytes() + b"0123abcd 000")
    if state == "no index":
        (data_dir / "index.sqlite").unlink()
        (data_dir / "archive.sqlite").unlink()
    before = everything_in(data_dir)
    with locked(data_dir):
        for words in reading(seed_id)[: -1 if state == "torn" else None]:  # an audit finds what is torn
            done = crabnet(*words, *quiet(data_dir), "--lock-wait-ms", "0")
            assert done.returncode == 0, (words, done.stderr)
            assert done.stdout or words == ["peers"], words
    assert everything_in(data_dir) == before


@pytest.mark.deep
def test_what_is_read_is_what_a_start_would_find(tmp_path: Path) -> None:
    data_dir, copy = tmp_path / "d", tmp_path / "copy"
    seed_ids = {published(data_dir) for _ in range(3)}
    status = json.loads(crabnet("status", "--json", *quiet(data_dir)).stdout)
    assert (status["running"], status["seeds"]["Open"], status["feed_risk"]) == (False, 3, False)
    shown = crabnet("seed", "list", *quiet(data_dir)).stdout.splitlines()
    assert {line.split()[0] for line in shown} == seed_ids
    shutil.copytree(data_dir, copy)
    assert json.loads(crabnet("status", "--json", *quiet(copy)).stdout)["feed_risk"] is True
    assert json.loads(crabnet("status", "--json", *quiet(copy)).stdout)["state_hash"] == status["state_hash"]


@pytest.mark.parametrize(
    "place", ["absent", *(pytest.param(each, marks=pytest.mark.deep) for each in ("empty", "only a file of settings"))]
)
def test_a_typo_makes_no_node(tmp_path: Path, place: str) -> None:
    data_dir = tmp_path / "typo"
    if place != "absent":
        data_dir.mkdir()
    if place == "only a file of settings":
        (data_dir / "crabnet.toml").write_text('alias = "me"\n')
    before = everything_in(tmp_path)
    words = [each for each in reading("x") if each[0] != "config"]
    words += [["seed", "bid", "x", "--price", "1"], ["seed", "claim", "x", "y"], ["seed", "run", "x"]]
    words += [["seed", "cancel", "x"], ["seed", "settle", "x", "--accepted"], ["id", "renew"], ["fsck"]]
    words += [["state", "export", str(tmp_path / "export")]]
    for each in words:
        done = crabnet(*each, "--data-dir", str(data_dir), "--announce-addr", "")
        assert done.returncode == ExitCode.USAGE, (each, done.stdout)
        assert f"no data dir at {data_dir}" in done.stderr, each
        assert done.stdout == ""
    assert everything_in(tmp_path) == before
    assert "crabnet listen" in crabnet("status", "--data-dir", str(data_dir)).stderr


def as_user(uid: int, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A command as another user, who has rights on what lies in ``home`` only by the mode of files."""
    return subprocess.run(
        [*CRABNET, *words],
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd=home,
        env=environment(HOME=str(home), XDG_STATE_HOME=str(home / "state"), TMPDIR="/tmp"),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in the way of another user")
def test_root_leaves_nothing_on_the_data_dir_of_a_service_user(tmp_path: Path) -> None:
    if not os.access(sys.executable, os.X_OK) or not _may_be_run_by_anybody(Path(sys.executable)):
        pytest.skip("another user cannot run this interpreter: the place of the tests is closed to others")
    for place in (tmp_path, *tmp_path.parents[:3]):
        place.chmod(place.stat().st_mode | 0o111)
    home = tmp_path / "service"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    data_dir = home / "d"
    done = as_user(NOBODY, *PUBLISH, *quiet(data_dir), home=home)
    assert done.returncode == 0, done.stderr
    before = everything_in(data_dir)
    for words in reading(done.stdout.split()[-1]):
        assert crabnet(*words, *quiet(data_dir)).returncode == 0, words
    assert everything_in(data_dir) == before
    for words in (PUBLISH, ["listen"], ["fsck"], ["fsck", "--repair"], ["seed", "cancel", done.stdout.split()[-1]]):
        refused = crabnet(*words, *quiet(data_dir))
        assert refused.returncode == ExitCode.USAGE, words
        assert pwd.getpwuid(NOBODY).pw_name in refused.stderr
    assert everything_in(data_dir) == before
    assert as_user(NOBODY, *PUBLISH, *quiet(data_dir), home=home).returncode == 0


def _may_be_run_by_anybody(program: Path) -> bool:
    places = [program, *program.parents, *program.resolve().parents, Path(__file__).parents[2] / "src"]
    return all(place.stat().st_mode & 0o001 for place in places)


def test_a_data_dir_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere: run the tests as an ordinary user for this one")
    data_dir = tmp_path / "d"
    seed_id = published(data_dir)
    for path in [*data_dir.rglob("*"), data_dir]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    for words in reading(seed_id):
        done = crabnet(*words, *quiet(data_dir))
        assert done.returncode == 0, (words, done.stderr)
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == ExitCode.STORAGE_FAILED
    for path in [data_dir, *data_dir.rglob("*")]:
        path.chmod(0o700)


def test_every_method_that_reads_is_done_by_reading() -> None:
    assert {*READERS, "config", "events.list"} == {each.name for each in OPERATIONS if each.alone is Alone.READS}
