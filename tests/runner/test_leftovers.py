"""What earlier nodes left on the host: control groups, gates, directories; and what is never left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from crabnet.runner import scratch, self_test
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox import cgroups, leftovers
from crabnet.runner.sandbox.model import (
    CgroupPlaces,
    Choice,
)
from crabnet.runner.supervisor.cgroup import RunCgroup
from crabnet.runner.supervisor.order import Bounds
from crabnet.runner.supervisor.spawn import GATE
from tests.runner.support import ANY
from tests.support.nodes import environment, wait_for

MIB = 1024 * 1024


def test_groups_of_this_node_are_found_and_swept(tmp_path: Path) -> None:
    tag = cgroups.owner_tag(tmp_path)
    places = cgroups.find_places(tag)
    if places is None:
        pytest.skip("needs control groups that may be made: NOT tested")
    group = RunCgroup(cgroups.order_for(places, "run-left"), Bounds(64 * MIB, 8, 1_000, 100, 0), 0)
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        for path in group.member_files:
            Path(path).write_text(str(sleeper.pid))

        assert leftovers.sweep(places, tag) == 1
        assert sleeper.wait(30) == -signal.SIGKILL
    assert leftovers.sweep(places, tag) == 0
    cgroups.remove_places(places)
    assert not any(Path(path).exists() for path in group.member_files)


async def test_a_survey_beside_a_running_node_leaves_its_groups_alone(tmp_path: Path) -> None:
    places = cgroups.find_places(cgroups.owner_tag(tmp_path))
    if places is None:
        pytest.skip("needs control groups that may be made: NOT tested")
    held = cgroups.hold(places)
    directories = [*places.parents.values()]

    await self_test.survey(ANY, Choice.NONE, tmp_path)

    assert all(path.is_dir() for path in directories)
    assert not [path for path in directories[0].parent.iterdir() if path.name.startswith(f"{directories[0].name}-")]
    held.release()
    assert not any(path.exists() for path in directories)


@pytest.mark.parametrize("held", [False, True])
def test_groups_of_killed_nodes_are_removed_by_others_unless_somebody_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    monkeypatch.setattr(cgroups, "_ABANDONED_AFTER_S", -1)
    own, other = tmp_path / "crabnet-own", tmp_path / "crabnet-other"
    (other / "run-1").mkdir(parents=True)
    theirs = cgroups.hold(CgroupPlaces(2, {}, other)) if held else None
    own.mkdir()

    cgroups.hold(CgroupPlaces(2, {}, own)).release()

    assert other.exists() is held
    if theirs is not None:
        theirs.release()


def is_gate(pid: int) -> bool:
    """The command line is empty for a moment while a process executes."""
    return GATE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_gate_without_its_supervisor_is_found_by_name(tmp_path: Path) -> None:
    name = leftovers.run_name("0123")
    waiting = [sys.executable, "-c", "import time; time.sleep(600)", GATE]
    with subprocess.Popen([*waiting, name]) as left, subprocess.Popen([*waiting, "run-other-1"]) as other:
        for process in (left, other):
            wait_for("the process has executed", partial(is_gate, process.pid))
        leftovers.clear_run(None, name)

        assert left.wait(30) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_work_dirs_are_swept_at_any_depth_and_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    left, other = tmp_path / "crabnet-run-0123-x", tmp_path / "crabnet-run-4567-x"
    for path in (left, other):
        path.mkdir()
    (left / "link").symlink_to(outside)
    closed = left / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    (tmp_path / "crabnet-run-0123-link").symlink_to(outside)

    assert scratch.sweep("0123") == 1
    assert not left.exists()
    assert other.exists()
    assert (outside / "kept").exists()


def test_what_no_node_locks_is_swept_by_any_node_of_this_user_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    used = scratch.make("4567")
    left, new, foreign = tmp_path / "crabnet-run-89ab-x", tmp_path / "crabnet-run-89ab-y", tmp_path / "other-89ab-x"
    for path in (left, new, foreign):
        path.mkdir()
        (path / "file").touch()
    file = tmp_path / "crabnet-run-89ab-file"
    file.touch()
    for path in (used.path, left, foreign, file):
        os.utime(path, (0, 0))

    assert scratch.sweep("0123") == 0
    assert sorted(tmp_path.iterdir()) == sorted([used.path, new, foreign, file])

    os.close(used.fd)  # as when its node is killed
    assert scratch.sweep("0123") == 0
    assert sorted(tmp_path.iterdir()) == sorted([new, foreign, file])
    assert scratch.sweep("89ab") == 1
    assert sorted(tmp_path.iterdir()) == sorted([foreign, file])


_WATCHED = """
import sys
from crabnet.runner import scratch
sys.addaudithook(lambda event, args: event in ("open", "os.mkdir") and print(args[0], file=sys.stderr))
scratch.sweep("0123")
scratch.make("0123")
"""


def test_nothing_but_directories_of_runs_is_made_for_them_so_that_a_killed_node_leaves_nothing_unknown(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED],
        env=environment(TMPDIR=str(tmp_path)),
        check=True,
        capture_output=True,
        text=True,
    )

    touched = {Path(line) for line in done.stderr.splitlines()}
    (made,) = tmp_path.iterdir()
    assert {path for path in touched if path.parent == tmp_path} == {made}


@pytest.mark.parametrize(
    "bad", ["absent", "file", "file/below", "closed", "closed/below", pytest.param("n" * 300, id="long")]
)
def test_a_temporary_directory_that_cannot_be_used_gives_way_to_the_next(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bad == "closed" and os.geteuid() == 0:
        pytest.skip("root may write everywhere: needs an ordinary user")
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / bad))
    monkeypatch.delenv("TEMP", raising=False)
    monkeypatch.setenv("TMP", str(tmp_path))

    assert scratch.temporary() == tmp_path


_KILLED = """
import os, signal, sys, trio
from pathlib import Path
from crabnet.runner import self_test
from crabnet.runner.sandbox.model import Choice
from crabnet.runner.policy import RunnerPolicy
async def kill():
    while not any(Path(os.environ["TMPDIR"]).glob("*/secret")):
        await trio.sleep(0)
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        await self_test.survey(RunnerPolicy(), Choice.AUTO, Path(sys.argv[1]))
trio.run(main)
"""


async def test_a_self_test_that_was_killed_is_swept_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, temporary = tmp_path / "data", tmp_path / "tmp"
    data.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = await trio.run_process([sys.executable, "-c", _KILLED, str(data)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(temporary.glob("*/secret"))

    runner = Runner(ANY, Choice.AUTO, data)
    await runner.prepare()
    runner.close()

    assert list(temporary.iterdir()) == []
