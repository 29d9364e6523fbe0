"""What `crabnet listen` tells its operator on standard error, and what it does not."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import cast

import pytest

from crabnet.errors import ExitCode
from crabnet.monitor.reader import read_events
from tests.support.nodes import (
    CRABNET,
    DEADLINE_S,
    Json,
    NodeProcess,
    Nodes,
    crabnet,
    environment,
    quiet,
    wait_for,
    whole_job,
)
from tests.support.polling import readable

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
HOSTILE = "evil\x1b[31m\u202e\nALERT: forged"


def lines_of(node: NodeProcess) -> list[str]:
    """The log without its time stamps, which each line must have."""
    lines = node.errors().splitlines()
    assert all(STAMPED.match(line) for line in lines), lines
    return [STAMPED.sub("", line, count=1) for line in lines]


def says(node: NodeProcess, pattern: str) -> None:
    wait_for(f"{pattern} in {node.errors()}", lambda: [each for each in lines_of(node) if re.fullmatch(pattern, each)])


def test_a_whole_job_and_the_peers_are_told_in_plain_words(nodes: Nodes) -> None:
    publisher = nodes.start("publisher", (), "--peer-silence-ms", "2000")
    worker = nodes.start("worker", [publisher.listen])
    seed_id = whole_job(publisher, worker, "echo secret-command", title=HOSTILE)
    title = r"evil\\x1b\[31m\\u202e\\nALERT: forged"
    says(publisher, f"peer 12D3…{worker.node_id[-4:]} found at {worker.source}")
    says(publisher, f"task {seed_id} published: {title}")
    says(publisher, f"task {seed_id} has a result of 12D3….*")
    says(publisher, f"task {seed_id} is Accepted now")
    says(worker, f"peer 12D3…{publisher.node_id[-4:]} found at {publisher.source}")
    says(worker, f"task {seed_id} published by 12D3…{publisher.node_id[-4:]}: {title}")
    says(worker, rf"bid [0-9a-f-]{{36}} of 5 won: task {seed_id} can run now: crabnet seed run {seed_id}")
    says(worker, rf"run of task {seed_id} finished: exit code 0 in \d+ m?s")
    worker.end()
    assert re.fullmatch(r"the node has stopped after \d+ m?(s|in)", lines_of(worker)[-1])
    says(publisher, rf"peer 12D3…{worker.node_id[-4:]} at {worker.source} lost: not heard for \d+ m?s")
    assert "secret-command" not in publisher.errors() + worker.errors()
    assert not [line for line in lines_of(publisher) if line.startswith("ALERT")]


def test_json_is_objects_on_both_streams_and_to_the_last_line(nodes: Nodes, tmp_path: Path) -> None:
    words = ["--log-format", "json", "--log-level", "debug"]
    process = subprocess.Popen(
        [*CRABNET, "listen", *quiet(tmp_path / "d"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    seen: list[Json] = []
    try:
        while not seen or seen[-1]["kind"] != "listen_started":
            seen.append(json.loads(process.stdout.readline()))
        assert re.fullmatch(r"listen started on Udp:127\.0\.0\.1:\d+", str(seen[-1]["message"]))
        done = crabnet("seed", "publish", "--title", HOSTILE, "--cmd", "true", "--data-dir", str(tmp_path / "d"))
        assert done.returncode == 0, done.stderr
        busy = crabnet("listen", *quiet(tmp_path / "d"), "--log-format", "json", "--lock-wait-ms", "0")
        [last] = [json.loads(line) for line in busy.stderr.splitlines()]
        assert (busy.returncode, last["level"], last["kind"]) == (ExitCode.BUSY, "error", "ended")
        assert last["fields"] == {"reason": "data_dir_busy"}
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.communicate()
    seen += [json.loads(line) for line in out.splitlines()]
    assert all(each.keys() == {"ts", "level", "kind", "message", "fields"} for each in seen)
    [published] = [each for each in seen if each["kind"] == "seed_changed"]
    assert (published["level"], cast(Json, published["fields"])["title"]) == ("info", HOSTILE)
    assert {"debug", "info"} <= {each["level"] for each in seen}
    assert seen[-1]["kind"] == "node_stopped"


def test_a_level_leaves_out_what_is_below_it_but_not_the_line_that_scripts_wait_for(nodes: Nodes) -> None:
    node = nodes.start("node", (), "--log-level", "warning", "--runner-sandbox", "none")
    node.publish()
    says(node, "WARNING: no sandbox .*")
    node.end()
    assert len(lines_of(node)) == 1


def test_a_terminal_gets_no_time_stamps(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*CRABNET, "listen", *quiet(tmp_path / "d")],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment(),
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        text, deadline = b"", time.monotonic() + DEADLINE_S
        while b"stopped" not in text and time.monotonic() < deadline and readable([ours], DEADLINE_S):
            text += os.read(ours, 65_536)
        assert process.wait(DEADLINE_S) == 0
    os.close(ours)
    assert text.splitlines()[0].startswith(b"no identity was found")


def test_the_journal_of_the_system_adds_the_time_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as errors:
        found = os.fstat(errors.fileno())
        for stream, stamped in ((f"{found.st_dev}:{found.st_ino}", False), ("1:1", True)):
            done = subprocess.Popen(
                [*CRABNET, "listen", *quiet(tmp_path / "d")], stdout=subprocess.PIPE, stderr=errors, text=True,
                env=environment(JOURNAL_STREAM=stream),
            )  # fmt: skip
            assert done.stdout is not None
            done.stdout.readline()
            done.send_signal(signal.SIGTERM)
            done.communicate(timeout=DEADLINE_S)
            assert bool(STAMPED.match(log.read_text().splitlines()[-1])) is stamped


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """Its pipe is full after some lines; the node goes on, and says later how many were lost."""
    process = subprocess.Popen(
        [*CRABNET, "listen", *quiet(tmp_path / "d"), "--log-level", "debug", "--log-format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    node = NodeProcess(tmp_path / "d")
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4_096)
        process.stdout.readline()
        for number in range(50):
            node.publish(title=f"{number} " + "x" * 150)
        assert len(node.seed_ids()) == 50
        errors = os.read(process.stderr.fileno(), 1_000_000).decode()
        node.publish(title="the pipe has room again")
        process.send_signal(signal.SIGTERM)
        errors += process.communicate(timeout=DEADLINE_S)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    seen = [json.loads(line) for line in errors.splitlines()]
    assert [each["fields"]["count"] > 50 for each in seen if each["kind"] == "lines_lost"][:1] == [True]


def test_one_shot_commands_write_no_settings_and_say_nothing_more(tmp_path: Path) -> None:
    for number in range(3):
        words = ["seed", "publish", "--title", f"t{number}", "--cmd", "true", "--author-envelopes-per-sec", "7"]
        done = crabnet(*words, *quiet(tmp_path / "d"))
        assert done.returncode == 0
        assert not STAMPED.search(done.stderr)
        assert "published" not in done.stderr
    kinds = {event.kind for event in read_events(tmp_path / "d").events}
    assert "seed_changed" in kinds
    assert "config_effective" not in kinds


@pytest.mark.parametrize("words", [("--log-level", "loud"), ("--log-format", "xml")])
def test_other_levels_and_formats_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    done = crabnet("listen", *quiet(tmp_path / "d"), *words)
    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert not (tmp_path / "d").exists()
