"""Real nodes: late joiners, restarts of either side in the middle, and peers that are remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.nodes import Json, NodeProcess, Nodes, converge, json_line, wait_for

HISTORY = 300


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A maker of nodes in the test's own directory."""
    made = Nodes(tmp_path)
    yield made
    made.close()


def held(node: NodeProcess) -> int:
    """Envelopes held of all feeds."""
    heads = cast(dict[str, tuple[int, str]], node.ask("state.vector")["heads"])
    return sum(seq for seq, _ in heads.values())


def peers(node: NodeProcess) -> list[Json]:
    return cast(list[Json], json_line(node.ok("peers", "--json"))["peers"])


@pytest.mark.deep
def test_a_late_joiner_gets_everything_though_both_sides_restart_meanwhile(nodes: Nodes) -> None:
    """The old part of the history lies in moved segments and the archive; nobody is anybody's configured peer twice."""
    slow = ["--sync-serve-peer-bytes-per-s", "40000"]
    archiving = ["--archive-after-s", "1", "--checkpoint-journal-bytes", "20000"]
    source = nodes.start("source", [], *slow, *archiving)
    for _ in range(HISTORY // 2):
        source.publish(bid_window_ms=1_000, claim_window_ms=1_000)
    wait_for("seeds are archived", lambda: cast(int, source.ask("status")["archived"]) > HISTORY // 4)
    for _ in range(HISTORY // 2):
        source.publish(bid_window_ms=3_600_000)
    joiner = nodes.start("joiner", [source.listen])
    wait_for("some of it came", lambda: held(joiner) > 20)
    joiner.kill()
    assert held_offline_is_less(joiner, source)
    joiner.start()
    wait_for("it goes on", lambda: held(joiner) > 100)
    source.kill()
    source.start()
    converge([source, joiner])
    assert held(joiner) >= HISTORY
    assert not joiner.events("envelope_rejected")


def held_offline_is_less(joiner: NodeProcess, source: NodeProcess) -> bool:
    vector = json_line(joiner.ok("state", "vector", "--json"))
    return sum(seq for seq, _ in cast(dict[str, tuple[int, str]], vector["heads"]).values()) < held(source)


def test_peers_are_remembered_and_found_again_without_configuration(nodes: Nodes) -> None:
    first = nodes.start("first")
    second = nodes.start("second", [first.listen])
    first.await_event("peer_confirmed", address=second.source)
    (known,) = peers(first)
    assert (known["address"], known["node_id"], known["confirmed"]) == (second.source, second.node_id, True)
    second.end()
    first.end()
    stored = json.loads((first.data_dir / "peers.json").read_text())
    assert [peer["address"] for peer in stored["peers"]] == [second.source]
    (known,) = [peer for peer in peers(first) if peer["address"] == second.source]
    assert (known["confirmed"], known["configured"]) == (False, False)
    second.peers = ()
    second.start()
    seed_id = second.publish()
    first.start()
    wait_for("the first finds the second", lambda: first.status(seed_id) == "Open")
    converge([first, second])


def test_a_damaged_file_of_peers_is_told_and_counts_as_none(nodes: Nodes) -> None:
    node = nodes.make("node")
    node.data_dir.mkdir(parents=True)
    (node.data_dir / "peers.json").write_text('{"format":"crabnet-peers-1","peers":[{"address":"nowhere"')
    node.start()
    node.await_event("peers_file_bad")
    assert peers(node) == []
