"""What a worker's operator is told at start of how runs are confined, and what a publisher gets back of a run."""

from __future__ import annotations

import hashlib
from typing import cast

import pytest

from tests.support.nodes import Json, NodeProcess, Nodes, wait_for, whole_job

ANY = ("--runner-allowed-commands", "*", "--runner-allow-shell-operators")


@pytest.fixture
def pair(nodes: Nodes) -> tuple[NodeProcess, NodeProcess]:
    """A publisher, and a worker that gives commands to a shell."""
    publisher = nodes.start("publisher")
    worker = nodes.start("worker", [publisher.listen], *ANY)
    wait_for("they know each other", lambda: publisher.ask("status")["peers"])
    return publisher, worker


def result_of(publisher: NodeProcess, seed_id: str) -> Json:
    [result] = publisher.rows(seed_id, "results")
    return result


def test_a_listening_node_tells_what_confines_runs_and_what_it_takes(nodes: Nodes) -> None:
    node = nodes.start("node", [], "--runner-memory-bytes", str(64 * 1024 * 1024), "--newcomer-envelopes-per-sec", "7")
    found = wait_for(
        "the self-test", lambda: node.errors() if "confined" in node.errors() or "will be" in node.errors() else ""
    )
    assert "sandbox auto, profiles strict, memory 64 MiB" in found
    assert "7 of all newcomers" in found
    sandbox = cast(Json, node.ask("status")["sandbox"])
    expected = f"runs confined by {sandbox['mode']}: " if sandbox["mode"] != "unavailable" else "no command will be run"
    assert expected in found
    for setting, value in (("runner_memory_bytes", str(64 * 1024 * 1024)), ("newcomer_envelopes_per_sec", "7")):
        node.await_event("config_effective", setting=setting, value=value)


def test_a_node_without_a_sandbox_says_so(nodes: Nodes) -> None:
    node = nodes.start("node", [], "--runner-sandbox", "none")
    wait_for("the warning", lambda: "WARNING: no sandbox" in node.errors())
    node.await_event("sandbox_off")


def test_the_publisher_gets_a_list_of_the_files_that_a_run_left(pair: tuple[NodeProcess, NodeProcess]) -> None:
    publisher, worker = pair
    command = "mkdir out; printf abc > 'out/ä b'; printf '' > empty; ln -s /usr/bin/env link; mkfifo fifo"

    result = result_of(publisher, whole_job(publisher, worker, command))

    assert result["files"] == [
        {"name": "empty", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()},
        {"name": "out/ä b", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
    ]
    assert result["files_omitted"] == 2
    shown = publisher.ok("seed", "show", str(result["seed_id"]))
    assert "\n    - name: out/ä b, size: 3, sha256: " in shown


def test_the_largest_result_comes_through(pair: tuple[NodeProcess, NodeProcess]) -> None:
    """Output that is six times as long in JSON, on both streams, and as many files as a result lists."""
    publisher, worker = pair
    command = (
        "head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; i=0;"
        " while [ $i -lt 300 ]; do : > a-file-with-a-longer-name-$i; i=$((i+1)); done"
    )

    result = result_of(publisher, whole_job(publisher, worker, command, timeout_ms=60_000))

    assert (result["exit_code"], result["stdout_truncated"], result["stderr_truncated"]) == (0, True, True)
    assert result["output_hash"] == hashlib.sha256(bytes(400_000)).hexdigest()
    assert len(cast(list[Json], result["files"])) + cast(int, result["files_omitted"]) == 300
