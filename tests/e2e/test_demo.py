"""`make demo`, from its first word to its last, and when it is interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import environment, wait_for

ROOT: Final = Path(__file__).parents[2]
DEMO: Final = [sys.executable, "-m", "scripts.demo", "--log"]


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, str(tmp_path / "demo.log")], cwd=ROOT, env=environment(TMPDIR=str(tmp_path)), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def left_behind(tmp_path: Path) -> list[str]:
    """Processes that name the demo's directory, and what is left of that."""
    found = [str(path) for path in tmp_path.iterdir() if path.name != "demo.log"]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"crabnet\0" in words and str(tmp_path).encode() in words:
            found.append(entry.parent.name)
    return found


def test_the_demo_shows_the_whole_job(tmp_path: Path) -> None:
    demo = start(tmp_path)
    out, err = demo.communicate(timeout=100)
    assert demo.returncode == 0, out + err
    assert err == ""
    assert "\x1b" not in out
    two = [out.index(line) for line in ("$ crabnet work --join ", "$ crabnet run --max-price 5 -- echo hello\n")]
    assert two == sorted(two)
    assert two[1] < out.index("seed published")
    for line in ("  hello\n", "exit code 0: that of the command", "earned 1", "was accepted at",
                 "This receipt is valid", "is not a valid receipt",
                 "this session: 1 result, 1 accepted; earned 1"):  # fmt: skip
        assert line in out
    for line in ("listen started on", "seed published", "bid submitted", "claim created", "task result", "settled as"):
        assert line in out
    assert "refused it: unauthorised" in out
    assert "same state hash on all nodes: yes" in out
    hashes = {line.split()[-1] for line in out.splitlines() if "seed Accepted, state hash" in line}
    assert len(hashes) == 1
    log = (tmp_path / "demo.log").read_text(encoding="utf-8")
    assert log == out
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.deep) for each in (signal.SIGTERM, signal.SIGHUP))]
)
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    demo = start(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "$ crabnet run" in line:
            break
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 128 + number
    assert left_behind(tmp_path) == []


def test_nodes_end_even_if_the_demo_is_killed(tmp_path: Path) -> None:
    demo = start(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "listen started" in line:
            break
    demo.kill()
    demo.communicate()
    wait_for("its nodes end", lambda: [name for name in left_behind(tmp_path) if name.isdigit()] == [])


@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_are_for_terminals(tmp_path: Path, no_colour: bool) -> None:
    ours, theirs = pty.openpty()
    env = environment(TMPDIR=str(tmp_path))
    env.pop("NO_COLOR", None)
    if no_colour:
        env["NO_COLOR"] = "1"
    demo = subprocess.Popen([*DEMO, str(tmp_path / "demo.log")], cwd=ROOT, env=env, stdout=theirs)
    os.close(theirs)
    shown = os.read(ours, 1_000)
    demo.send_signal(signal.SIGTERM)
    while True:
        try:
            if not os.read(ours, 10_000):
                break
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert demo.wait(60) in {0, 128 + signal.SIGTERM}  # on a busy machine it may have ended before
    assert (b"\x1b[" in shown) is not no_colour
