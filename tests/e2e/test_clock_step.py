"""A real node whose machine's clock is set while it runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import NodeProcess, Nodes, environment, wait_for

COMPILER: Final = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
DAY_MS: Final = 24 * 3_600_000
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: steps of a real process's clock NOT tested")


@pytest.fixture(name="offset")
def _offset(tmp_path: Path) -> Path:
    """A file that holds by how many milliseconds the clock is ahead."""
    path = tmp_path / "offset"
    path.write_text("0", encoding="utf-8")
    return path


@pytest.fixture(name="shimmed")
def _shimmed(tmp_path: Path, offset: Path) -> dict[str, str]:
    """The environment of a process whose clock the file ``offset`` sets."""
    library = tmp_path / "clock_shim.so"
    source = Path(__file__).parents[1] / "support" / "clock_shim.c"
    command = [COMPILER or "cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return environment(LD_PRELOAD=str(library), CLOCK_SHIM_FILE=str(offset))


def closed(node: NodeProcess, seed_id: str) -> bool:
    """True once the creator's node has closed the seed, which is a fact; before, it is only shown as expired."""
    return node.seed(seed_id).get("note") == "deadline_passed: no bid was claimed in time"


@pytest.mark.deep
def test_a_day_forth_or_back_expires_nothing_and_is_told(nodes: Nodes, offset: Path, shimmed: dict[str, str]) -> None:
    node = nodes.start("node", env=shimmed)
    kept = node.publish("true", bid_window_ms=3_600_000)
    offset.write_text(str(DAY_MS), encoding="utf-8")
    forth = node.await_event("clock_stepped", followed=False)
    assert abs(int(str(forth.payload["step_ms"])) - DAY_MS) < 60_000
    short = node.publish("true", bid_window_ms=1_000, claim_window_ms=1_000)
    wait_for("time goes on", lambda: closed(node, short))
    assert node.status(kept) == "Open"
    offset.write_text(str(-DAY_MS), encoding="utf-8")
    wait_for("the step back is told", lambda: len(node.events("clock_stepped")) == 2)
    another = node.publish("true", bid_window_ms=1_000, claim_window_ms=1_000)
    wait_for("time goes on", lambda: closed(node, another))
    assert node.status(kept) == "Open"
    assert abs(int(str(node.ask("status")["clock_ahead_ms"])) + DAY_MS) < 60_000
    node.end()
    node.start()
    behind = node.await_event("clock_behind")
    assert behind.severity.value == "alert"
    assert (node.status(kept), node.status(short), node.status(another)) == ("Open", "Expired", "Expired")
    node.end()
    offset.write_text(str(DAY_MS), encoding="utf-8")
    node.start()
    node.await_event("node_was_away", count=1)
    wait_for("what passed meanwhile is closed", lambda: closed(node, kept))
