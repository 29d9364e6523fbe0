"""Nodes in odd places: as process 1 or 2 of a container, and where nothing temporary can be made (run-2, run-3)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from crabnet.core.commands import Publish
from crabnet.node.node import Node
from crabnet.runner import scratch
from crabnet.settings import Settings
from tests.support.nodes import CRABNET, crabnet, environment, quiet

PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a process id namespace needs root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
@pytest.mark.parametrize("before", ["", "true & "], ids=["process 1", "process 2"])
def test_a_node_that_is_the_first_process_of_a_container_has_its_sandbox(tmp_path: Path, before: str) -> None:
    """Within the sandbox these numbers are those of other processes."""
    assert crabnet(*PUBLISH, *quiet(tmp_path / "d")).returncode == 0
    status = ["status", "--json", *quiet(tmp_path / "d")]
    usual = json.loads(crabnet(*status).stdout)["sandbox"]
    words = [*CRABNET, *status]
    if before:
        words = ["sh", "-c", '"$@"; exit $?', "sh", *words]
    inside = ["unshare", "--pid", "--fork", "--mount-proc", *words]
    done = subprocess.run(inside, capture_output=True, text=True, check=False, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["sandbox"]
    assert found["mode"] == usual["mode"], found["tried"]
    assert not any("can signal the node" in tried["detail"] for tried in found["tried"].values())


def test_members_of_a_group_in_another_namespace_are_not_taken_for_ourselves(tmp_path: Path) -> None:
    """The kernel writes 0 for them, and 0 is the own process group for whoever sends a signal."""
    program = (
        "import sys\n"
        "from crabnet.runner.supervisor.cgroup import RunCgroup\n"
        "from crabnet.runner.supervisor.order import Bounds, CgroupOrder\n"
        "group = RunCgroup(CgroupOrder(2, {'pids': sys.argv[1]}, '', 'run-1'), Bounds(1, 1, 1, 1, 0), 0)\n"
        "open(sys.argv[1] + '/run-1/cgroup.procs', 'w').write('0\\n0\\n')\n"
        "group.kill()\n"
        "print('alive')\n"
    )
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "pids.max").touch()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, check=False, start_new_session=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_node_without_a_temporary_directory_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs nothing that needs one, and says why; it publishes all the same."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setattr(scratch, "_PLACES", ())
    settings = Settings(data_dir=tmp_path / "d", listen_addr="127.0.0.1:0", announce_addrs=())

    async def scenario() -> None:
        with trio.fail_after(60):
            async with Node(settings) as node:
                report = await node.runner.prepare()
                assert report.fence is None
                assert "TMPDIR" in report.detail
                assert (await node.publish(Publish(title="t", command="echo hi"))).title == "t"

    trio.run(scenario)
