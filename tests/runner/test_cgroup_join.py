"""A process of a run belongs to every control group of the run, whether it is born there or moves there by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.runner.sandbox import cgroups
from crabnet.runner.supervisor.cgroup import RunCgroup
from crabnet.runner.supervisor.order import Bounds

MIB = 1024 * 1024
_FORK = """
import os, sys
from crabnet.runner.supervisor import cgroup_join
if sys.argv[1] == "refused":
    cgroup_join._CLONE3 = 99_999  # no kernel has this call
pid, to_join = cgroup_join.fork_into(cgroup_join.Membership(sys.argv[2], tuple(sys.argv[3:])))
if pid == 0:
    cgroup_join.join(to_join)
    print(os.getpid(), os.getppid(), to_join.cradle, flush=True)
    sys.stdin.read()
    os._exit(7)
print(os.getpid(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pid)
"""


@pytest.mark.parametrize("birth", ["possible", "refused"])
def test_a_new_process_is_a_member_of_each_group(tmp_path: Path, birth: str) -> None:
    tag = cgroups.owner_tag(tmp_path)
    places = cgroups.find_places(tag)
    if places is None:
        pytest.skip("needs control groups that may be made: NOT tested")
    group = RunCgroup(cgroups.order_for(places, "run-born"), Bounds(64 * MIB, 8, 1_000, 100, 0), 0)
    words = [birth, group.membership.cradle, *group.membership.task_files]
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _FORK, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            pid, parent, *cradle = process.stdout.readline().split()
            members = {path: Path(path).read_text().split() for path in group.member_files}
            said, _ = process.communicate("")
        assert members == {path: [pid] for path in group.member_files}
        assert said.split() == [parent, "7", pid]
        if birth == "refused" and group.membership.cradle:
            assert cradle == [group.membership.cradle]
    finally:
        cgroups.sweep(places)
        cgroups.remove_places(places)


def test_without_groups_it_is_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, "possible", ""], input="", capture_output=True, text=True, check=True
    )
    child, parent = (line.split() for line in done.stdout.splitlines())
    assert parent == [child[1], "7", child[0]]
