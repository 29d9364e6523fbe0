"""A real node whose disk fails or is full while clients publish: nothing is acknowledged that is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode, Reason
from tests.faults.preload import COMPILER, build_shim
from tests.support.load import Load
from tests.support.nodes import DEADLINE_S, NodeProcess, Nodes, environment

AFTER_CALLS = 60
"""File calls below journal/ before the fault: some 30 frames, each one pwrite and one fdatasync."""
NO_ANSWER = {Reason.NODE_STOPPING, Reason.NODE_UNREACHABLE}
TMPFS_BYTES = 8 * 1024 * 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and tmpfs are of Linux: NOT tested")


@pytest.fixture(name="shim", scope="module")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler (cc): a failing disk under a real node NOT tested")
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)],
        capture_output=True, check=False, text=True,
    ) if shutil.which("mount") and os.geteuid() == 0 else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root: a node on a full disk NOT tested")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def poisoned(node: NodeProcess, load: Load, reason: Reason) -> None:
    """Wait for the node's end, which a failing disk brings about, and check all that it says about it."""
    assert node.process is not None
    node.process.wait(DEADLINE_S)
    assert node.end() == ExitCode.STORAGE_FAILED
    said = [line for line in node.errors().splitlines() if line.startswith("error: ")]
    assert len(said) == 1, node.errors()
    assert said[0].startswith(f"error: {reason.value}: cannot "), said
    assert "Traceback" not in node.errors()
    reasons = {error.reason for error in load.errors}
    assert reasons
    assert reasons <= {reason, *NO_ANSWER}
    events = node.events("ledger_poisoned")
    assert [event.payload["reason"] for event in events] == [reason.value]
    assert events[0].severity == "alert"


def reopened(node: NodeProcess, load: Load) -> None:
    """Start again on a disk that works: all that was acknowledged is there, and work goes on."""
    node.env = environment()
    node.words = ("--accept-feed-risk",)
    node.start()
    assert load.broken(node) == []
    before = len(load.acknowledged)
    with load.clients(1):
        load.await_more(3)
    assert len(load.acknowledged) >= before + 3
    assert load.broken(node) == []
    assert node.end() == 0


@pytest.mark.parametrize(
    ("mode", "number", "after", "reason"),
    [
        ("error", errno.EIO, AFTER_CALLS, Reason.STORAGE_FAILED),
        pytest.param("error", errno.EIO, AFTER_CALLS + 1, Reason.STORAGE_FAILED, marks=pytest.mark.deep),
        ("fsyncdrop", errno.EIO, AFTER_CALLS, Reason.STORAGE_FAILED),
        pytest.param("fsyncdrop", errno.EIO, AFTER_CALLS + 1, Reason.STORAGE_FAILED, marks=pytest.mark.deep),
        pytest.param("sticky", errno.ENOSPC, AFTER_CALLS, Reason.DISK_FULL, marks=pytest.mark.deep),
        pytest.param("sticky", errno.ENOSPC, AFTER_CALLS + 1, Reason.DISK_FULL, marks=pytest.mark.deep),
        pytest.param("short", errno.EIO, AFTER_CALLS, Reason.STORAGE_FAILED, marks=pytest.mark.deep),
        pytest.param("short", errno.EIO, AFTER_CALLS + 1, Reason.STORAGE_FAILED, marks=pytest.mark.deep),
    ],
)
def test_a_disk_that_fails_under_load(
    nodes: Nodes, shim: Path, mode: str, number: int, after: int, reason: Reason
) -> None:
    node = nodes.make("node")
    node.env = environment(
        LD_PRELOAD=str(shim),
        FAULT_DIR=str(node.data_dir / "journal"),
        FAULT_AT=str(after),
        FAULT_MODE=mode,
        FAULT_ERRNO=str(number),
    )
    node.start()
    load = Load(node.data_dir)
    with load.clients() as threads:
        for thread in threads:
            thread.join(DEADLINE_S)
    assert load.acknowledged
    poisoned(node, load, reason)
    reopened(node, load)


@pytest.mark.parametrize("at", [6, *(pytest.param(at, marks=pytest.mark.deep) for at in (9, 12))])
@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.deep)])
def test_a_checkpoint_that_fails_under_load(nodes: Nodes, shim: Path, at: int, number: int) -> None:
    """Calls below state.json*: the temporary file, the backup, the renames."""
    node = nodes.make("node")
    node.env = environment(
        LD_PRELOAD=str(shim),
        FAULT_DIR=str(node.data_dir / "state.json"),
        FAULT_AT=str(at),
        FAULT_MODE="sticky",
        FAULT_ERRNO=str(number),
        CRABNET_CHECKPOINT_JOURNAL_BYTES="4096",
    )
    node.start()
    load = Load(node.data_dir)
    with load.clients(pause_s=0.01) as threads:
        for thread in threads:
            thread.join(DEADLINE_S)
    assert load.acknowledged
    poisoned(node, load, Reason.DISK_FULL if number == errno.ENOSPC else Reason.STORAGE_FAILED)
    reopened(node, load)


def test_a_disk_that_gets_full_under_load(nodes: Nodes, small_disk: Path) -> None:
    node = NodeProcess(small_disk / "data")
    nodes.made.append(node)
    node.start()
    low = node.await_event("disk_low")
    assert low.severity in {"warning", "alert"}
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 128 * 1024))
    load = Load(node.data_dir)
    with load.clients() as threads:
        for thread in threads:
            thread.join(DEADLINE_S)
    assert load.acknowledged
    poisoned(node, load, Reason.DISK_FULL)
    ballast.unlink()
    reopened(node, load)
