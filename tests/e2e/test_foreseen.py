"""What cannot work is refused or warned of in one line (run-6), and lists tell what can be done (run-7)."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.nodes import CRABNET, DEADLINE_S, NodeProcess, Nodes, crabnet, environment, quiet, wait_for

PUBLISH = ["seed", "publish", "--title", "t"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cmd", " "], "the command is empty"),
        pytest.param(["--cmd", "# nothing"], "the command is empty", marks=pytest.mark.deep),
        (["--cmd", "echo 'hi"], "the command cannot be split into words: a single quote is not closed"),
        pytest.param(["--cmd", "echo hi\\"], "the command cannot be split into words", marks=pytest.mark.deep),
        (["--cmd", "true", "--min-price", "10", "--reward", "5"], "the lowest price 10 is above the reward 5"),
        pytest.param(
            ["--cmd", "true", "--rules", "run: foo=1"], "no worker would understand the rules", marks=pytest.mark.deep
        ),
        pytest.param(
            ["--cmd", "true", "--rules", "be nice\nrun: profile=none"],
            "no worker would understand the rules",
            marks=pytest.mark.deep,
        ),
    ],
)
def test_a_task_that_cannot_work_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    done = crabnet(*PUBLISH, *words, *quiet(tmp_path / "d"))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    listed = crabnet("seed", "list", *quiet(tmp_path / "d"))
    assert listed.stdout == ""


@pytest.mark.parametrize("rules", ["be nice", "run: memory_mib=64 processes=8\nas agreed", "run: profile=network"])
def test_rules_that_can_be_kept_are_taken(tmp_path: Path, rules: str) -> None:
    done = crabnet(*PUBLISH, "--cmd", "true", "--rules", rules, *quiet(tmp_path / "d"))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_doubts_are_told_and_nothing_is_refused(tmp_path: Path) -> None:
    words = quiet(tmp_path / "d")
    done = crabnet(*PUBLISH, "--cmd", "true", "--exec-deadline-ms", "1", "--reward", "3", *words)
    assert done.returncode == 0
    assert "WARNING: the result is due 1 ms after the claim, though the command may take 120000 ms\n" in done.stderr
    bid = crabnet("seed", "bid", done.stdout.split()[2], "--price", "4", *words)
    assert bid.returncode == 0
    assert "WARNING: the price of 4 is above the reward of 3 that is offered\n" in bid.stderr


def statuses(node: NodeProcess, *words: str) -> dict[str, str]:
    """The status shown of each seed listed."""
    rows = node.ok("seed", "list", *words).splitlines()
    return {row.split()[0]: re.findall(r"\[([A-Z]+)\]", row)[0] for row in rows}


def test_open_seeds_are_those_that_take_bids(nodes: Nodes) -> None:
    node = nodes.start("node")
    takes = node.publish("echo takes", bid_window_ms=600_000)
    full = node.publish("echo full", bid_window_ms=600_000, max_bids=1)
    node.bid(full, 1)
    over = node.publish("echo over", bid_window_ms=1)
    wait_for("the window is over", lambda: not node.seed(over)["biddable"])
    assert statuses(node) == {takes: "OPEN", full: "CLOSED", over: "CLOSED"}
    assert set(statuses(node, "--status", "open")) == {takes}
    assert set(statuses(node, "--status", "closed")) == {full, over}
    [row] = node.ok("seed", "list", "--status", "open").splitlines()
    until = re.findall(r"bids_until=(\S+)Z$", row)
    assert until
    assert time.strptime(until[0], "%Y-%m-%dT%H:%M:%S") > time.gmtime()


def test_seeds_of_one_second_are_listed_in_one_order(nodes: Nodes) -> None:
    node = nodes.start("node")
    for number in range(20):
        node.publish(f"echo {number}")
    before = node.ok("seed", "list")
    node.end()
    node.start()
    assert node.ok("seed", "list") == before


def worked(node: NodeProcess, command: str) -> tuple[str, subprocess.CompletedProcess[str]]:
    seed_id = node.publish(command)
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    return seed_id, node.cli("seed", "run", seed_id)


def on_a_terminal(node: NodeProcess, *words: str) -> tuple[int, str]:
    """The command with a terminal for standard input; exit code and stderr."""
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [*CRABNET, *words, "--data-dir", str(node.data_dir)],
            stdin=slave, capture_output=True, text=True, check=False, env=environment(), timeout=DEADLINE_S,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    return done.returncode, done.stderr


def test_runs_tell_exit_code_and_output_and_failed_ones_are_not_paid_for_by_a_slip(nodes: Nodes) -> None:
    node = nodes.start("node")
    good, done = worked(node, "echo fine")
    assert re.fullmatch(r"task result \S+ hash=\S+\nexit code 0 after \d+ ms\nfine\n", done.stdout)
    bad, done = worked(node, "ls /no/such/place")
    assert re.search(r"^exit code [1-9]", done.stdout, re.M)
    assert "/no/such/place" in done.stderr
    rows = {row.split()[0]: row for row in node.ok("seed", "list").splitlines()}
    assert rows[good].endswith(" exit=0")
    assert re.search(r" exit=[1-9]\d*$", rows[bad])
    code, said = on_a_terminal(node, "seed", "settle", bad, "--accepted")
    assert (code, node.status(bad)) == (2, "Done")
    assert "failed (exit=" in said
    assert "--force" in said
    assert on_a_terminal(node, "seed", "settle", bad, "--accepted", "--force")[0] == 0
    assert on_a_terminal(node, "seed", "settle", good, "--accepted")[0] == 0
    assert (node.status(good), node.status(bad)) == ("Accepted", "Accepted")


def test_long_texts_are_cut_for_people_and_whole_for_programs(nodes: Nodes) -> None:
    node = nodes.start("node")
    seed_id = node.publish("echo " + "x" * 3_000, description="d" * 20_000)
    assert max(map(len, node.ok("seed", "list").splitlines())) < 300
    shown = node.ok("seed", "show", seed_id)
    assert max(map(len, shown.splitlines())) < 2_100
    assert "(20000 characters)" in shown
    assert "d" * 20_000 in node.ok("seed", "show", seed_id, "--json")
