"""The metrics of real nodes: what happens moves exactly the counters that say so, and strangers make no series."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections import Counter

import pytest

from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.monitor import metrics as table
from crabnet.monitor.metrics import BY_EVENT, METRICS, NONE
from crabnet.monitor.registry import EVENTS, EventKind
from crabnet.web.exposition import render
from tests.hostile.attack import attack, victim
from tests.hostile.corpus import CORPUS
from tests.support.nodes import NodeProcess, Nodes, wait_for, whole_job
from tests.support.scraping import Key, moved, scraped, totals, values

KINDS = {metric.name: kind for kind, metric in BY_EVENT.items()}


def event(kind: EventKind) -> Key:
    return (table.EVENTS.name, kind.value, EVENTS[kind].severity.value)


def lone(nodes: Nodes) -> NodeProcess:
    """A node without peers, which says nothing by itself once it is there."""
    node = nodes.start("node", [], "--sync-interval-ms", "60000")
    node.await_event("sandbox_ready", "sandbox_unavailable", "sandbox_off")
    return node


@pytest.mark.parametrize(
    ("datagram", "kind", "reason", "further"),
    [
        (b"", EventKind.DATAGRAM_RECEIVED_BAD, Reason.EMPTY, {}),
        (b"xx", EventKind.DATAGRAM_RECEIVED_BAD, Reason.MALFORMED, {}),
        (b"{" * 70, EventKind.ENVELOPE_REJECTED, Reason.MALFORMED, {(table.MESSAGE_HANDLING.name,): 1}),
    ],
    ids=["empty", "no message", "no envelope"],
)
def test_a_hostile_datagram_moves_its_counters_and_no_others(
    nodes: Nodes, datagram: bytes, kind: EventKind, reason: Reason, further: dict[Key, int]
) -> None:
    node = lone(nodes)
    before = totals(node)
    node.send_to(datagram)
    wanted = {
        (table.DATAGRAMS_RECEIVED.name,): 1,
        (table.RECEIVED_BYTES.name,): len(datagram),
        (BY_EVENT[kind].name, reason.value): 1,
        event(kind): 1,
        **further,
    }
    wait_for("it is counted", lambda: totals(node)[BY_EVENT[kind].name, reason.value])
    assert moved(before, totals(node)) == {key: count for key, count in wanted.items() if count}


def test_a_refused_command_moves_its_counters_and_no_others(nodes: Nodes) -> None:
    node = lone(nodes)
    before = totals(node)
    assert node.cli("seed", "claim", "no-such-seed", "no-such-bid").returncode == 3
    wanted = {(table.COMMANDS_REFUSED.name, Reason.UNKNOWN_SEED.value): 1, event(EventKind.COMMAND_REFUSED): 1}
    assert moved(before, totals(node)) == wanted


def test_a_whole_job_is_counted_at_both_ends(nodes: Nodes) -> None:
    worker = nodes.start("worker")
    publisher = nodes.start("publisher", [worker.listen])
    whole_job(publisher, worker)
    mine, theirs = ("SeedCreated", "ClaimCreated", "TaskSettle"), (
        "BidSubmitted", "TaskStarted", "TaskResult", "SettleAcknowledged",
    )  # fmt: skip

    def envelopes(node: NodeProcess, metric: str) -> dict[str, float]:
        return {key[1]: value for key, value in values(node).items() if key[0] == metric}

    created, accepted = table.ENVELOPES_CREATED.name, table.ENVELOPES_ACCEPTED.name
    wait_for("the acknowledgement arrives", lambda: "SettleAcknowledged" in envelopes(publisher, accepted))
    assert envelopes(publisher, created) == envelopes(worker, accepted) == dict.fromkeys(mine, 1)
    assert envelopes(worker, created) == envelopes(publisher, accepted) == dict.fromkeys(theirs, 1)
    shown = values(worker)
    for node in (worker, publisher):
        assert values(node)[table.SEEDS.name, SeedStatus.ACCEPTED.value] == 1
        assert {values(node)[metric.name,] for metric in (table.BIDS, table.CLAIMS, table.RESULTS)} == {1}
        assert values(node)[table.FEEDS.name,] == 2
        assert values(node)[table.PEERS.name, "confirmed"] == 1
    ended = {key[1]: value for key, value in shown.items() if key[0] == table.RUN_DURATION.name and value}
    assert ended == {"exited": 1}
    assert shown[table.RUN_QUEUED.name,] == 1
    frames = shown[table.JOURNAL_LSN.name,]
    for metric in (table.FSYNC, table.COMMIT, table.COMMIT_RECORDS, table.COMMIT_BYTES):
        assert shown[metric.name,] == frames
    assert shown[table.JOURNAL_SEGMENTS.name,] == 1
    journal = next((worker.data_dir / "journal").iterdir())
    assert shown[table.JOURNAL_BYTES.name,] == journal.stat().st_size
    assert 0 < shown[table.DISK_FREE.name,] <= shown[table.DISK_SIZE.name,]
    assert shown[table.MEMORY.name,] > 2**20
    assert shown[table.OPEN_FDS.name,] > 3


def test_a_restart_counts_what_it_replays_and_begins_anew(nodes: Nodes) -> None:
    node = nodes.start("node", [])
    for _ in range(3):
        node.publish()
    assert (table.CHECKPOINT_AGE.name,) not in values(node)
    node.kill()
    node.start()
    shown = values(node)
    assert shown[table.REPLAYED_ENVELOPES.name, "accepted", NONE] == 3
    assert shown[table.REPLAYED_FRAMES.name,] == shown[table.JOURNAL_LSN.name,] >= 3
    assert (table.ENVELOPES_CREATED.name, "SeedCreated") not in shown
    assert node.end() == 0
    node.start()
    shown = values(node)
    assert shown[table.REPLAYED_FRAMES.name,] == 0
    assert shown[table.CHECKPOINT_LSN.name,] == shown[table.JOURNAL_LSN.name,]
    assert 0 <= shown[table.CHECKPOINT_AGE.name,] < 3600
    assert shown[table.JOURNAL_SEGMENTS.name,] == 2


def test_the_corpus_is_counted_by_reason_and_makes_no_other_series(nodes: Nodes) -> None:
    node, targets = victim(nodes)
    for group in CORPUS:
        rows = [row for row in group.rows if not row.before and row.reason is not None]
        before = totals(node)
        attack(node, rows, int(time.time()), targets)
        wanted = Counter((row.event_kind, row.reason.value) for row in rows if row.reason is not None)
        grown = moved(before, totals(node))
        told = {kind for kind, _ in wanted}
        assert {
            (KINDS[name].value, *rest): count
            for (name, *rest), count in grown.items()
            if name in KINDS and KINDS[name] in told
        } == wanted, group.title
    table_of = {metric.name: metric for metric in METRICS}
    for family in scraped(node):
        metric = table_of[family.name]
        assert len(family.samples) * len(metric.series_names) <= metric.series_max
        for sample in family.samples:
            for label in metric.labels:
                assert label.values is None or sample.labels[label.name] in label.values, (family.name, sample.labels)
    text = render(scraped(node)).body.decode()
    for secret in (
        node.node_id,
        node.listen,
        "127.0.0.1",
        *(str(targets.seed("open")[key]) for key in ("id", "title")),
    ):
        assert f'"{secret}' not in text
    assert len(text.splitlines()) < sum(metric.series_max + 2 for metric in METRICS)


def test_what_blocks_the_loop_shows(nodes: Nodes) -> None:
    node = nodes.start("node", [])
    wait_for("the probe has looked", lambda: values(node)[table.LOOP_DELAY.name,])
    assert node.process is not None
    node.process.send_signal(19)  # SIGSTOP
    time.sleep(0.3)  # this is the delay that is measured
    node.process.send_signal(18)
    wait_for("the delay shows", lambda: values(node)[table.LOOP_DELAY_MAX.name,] >= 0.2)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt install prometheus")
def test_promtool_has_no_complaint(nodes: Nodes) -> None:
    node = nodes.start("node", [])
    node.publish()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        node.send_to(b"{}", sock)
    text = render(scraped(node)).body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
