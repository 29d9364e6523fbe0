"""What other nodes say of themselves cannot harm a terminal or a Graphviz document, and fits the screen."""

from __future__ import annotations

import re
import shutil
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.cli.tables import fit, width_of
from crabnet.cli.top_view import Screen, View, picture
from crabnet.cli.topology_view import dot_text, topology_dot, topology_text
from crabnet.operations.info import EventCounts, RunCounts, Sandbox, Status, SyncStatus
from crabnet.operations.network import Knowledge, Path, Sync, Topology, TopologyEdge, TopologyNode
from crabnet.operations.objects import LocalRun
from crabnet.operations.seeds import RunList, RunRow

HOSTILE = st.text(max_size=60) | st.sampled_from(
    [
        "\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202eevil", '" ]; evil -> "', "\\", "\\N", '\\"', "</table>", "漢字" * 40,
        "e\u0301" * 50, "\x9b31m", "\U000e0041", "🦀" * 30, "\r", "%s{0}",
    ]
)  # fmt: skip
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def topology(own: str, alias: str, other: str, address: str, reason: str) -> Topology:
    def node(node_id: str, *, is_own: bool) -> TopologyNode:
        return TopologyNode(
            node_id=node_id, alias=alias, agent=alias, own=is_own, sources=[Knowledge.TOLD], equivocator=not is_own,
            head_seq=1,
        )  # fmt: skip

    def edge(path: Path) -> TopologyEdge:
        direct = path is Path.DIRECT
        return TopologyEdge(
            node_id=other, address=address if direct else None, names=[alias], path=path,
            transport="udp" if direct else None, via=None if direct else other, via_address=None,
            sources=[Knowledge.TOLD], confirmed=False, last_seen_ms=1, silent_ms=5, round_trip_ms=7, feeds_behind=1,
            envelopes_behind=2, feeds_ahead=3, envelopes_ahead=4, failures=1, refused_reason=reason,
        )  # fmt: skip

    return Topology(
        node_id=own, running=True, at_ms=1, nodes=[node(own, is_own=True), node(other, is_own=False)],
        edges=[edge(Path.DIRECT), edge(Path.RELAYED)], nodes_total=2, edges_total=2,
    )  # fmt: skip


def status(alias: str) -> Status:
    return Status(
        version=alias, node_id=alias, key_id="", alias=alias, namespace=alias, network="udp", listen_addr=None,
        running=True, uptime_ms=10**9, state_hash="", state_lsn=1, lsn=2, seeds={alias: 10**9}, archived=0, bids=0,
        claims=0, results=0, feeds=0, parked=10**12, lacking=0, seen=0, peers=0, clock_ahead_ms=0, relayed=0,
        peers_remembered=0,
        sync=SyncStatus(missing_feeds=0, entries_in_flight=0, envelopes_served=0, bytes_served=0, serves_dropped=0),
        unsent=0, runs=RunCounts(running=1, queued=1, running_max=1, queued_max=1), feed_risk=True,
        feed_unconfirmed=False, equivocators=[], equivocators_total=0, sandbox=Sandbox(mode="none", detail=""),
        children=[],
        events=EventCounts(written=0, dropped=0, failed=0),
        counters={"envelope_accepted": 5, "envelope_ignored.gap": 7},
    )  # fmt: skip


def view(at_s: float, text: str, runs: int, seen: Topology) -> View:
    sync = msgspec.convert(
        {"neighbours": [], "neighbours_total": 0, "feeds_missing": 1, "envelopes_missing": 2, "oldest_want_ms": 3,
         "requests_in_flight": 0, "envelopes_in_flight": 0, "wanted_by_name": 0, "parked": 0, "envelopes_served": 0,
         "bytes_served": 0, "serves_dropped": 0}, Sync,
    )  # fmt: skip
    rows = [
        RunRow(seed_id=text, claim_id="", publisher=text, command=text, timeout_ms=1,
               local_run=LocalRun(stage="queued", position=number + 1, since_ms=10**11))
        for number in range(runs)
    ]  # fmt: skip
    listed = RunList(runs=rows, running_max=1, queued_max=1, paused=True, draining=True)
    return View(at_s, status(text), seen, sync, listed)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, st.integers(1, 200), st.integers(1, 60), st.integers(0, 40))
def test_a_picture_fits_its_screen_whatever_nodes_call_themselves(
    own: str, text: str, other: str, address: str, columns: int, lines: int, runs: int
) -> None:
    seen = topology(own, text, other, address, text)
    now = view(2.0, text, runs, seen)
    for before in (None, view(1.0, text, 0, seen)):
        drawn = picture(now, before, Screen(columns, lines))
        assert len(drawn) <= lines
        assert all(width_of(line) <= max(columns, 20) for line in drawn)
        assert not any(CONTROLS.search(line) for line in drawn)


def test_a_picture_of_80_by_24_shows_peers_and_runs() -> None:
    seen = topology("own", "alias", "other", "192.0.2.1:9012", "gap")
    drawn = picture(view(3.0, "text", 40, seen), view(1.0, "text", 0, seen), Screen(80, 24))
    assert len(drawn) == 24
    assert any(line.startswith("PEER") for line in drawn)
    assert any(line.startswith("192.0.2.1:9012") and "7 ms" in line for line in drawn)
    assert any("… and" in line for line in drawn)
    assert any(line.startswith("per s") and "accepted 0" in line for line in drawn)
    assert "PAUSED" in drawn[0]
    assert "DRAINING" in drawn[0]


@given(HOSTILE, st.integers(0, 100))
def test_what_fits_is_a_beginning_and_padding_fills_it(text: str, columns: int) -> None:
    assert text.startswith(fit(text, columns))
    assert width_of(fit(text, columns)) <= columns
    assert width_of(fit(text, columns, pad=True)) == columns


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_a_topology_in_text_has_a_line_for_each_way(own: str, text: str, other: str, address: str, reason: str) -> None:
    shown = topology_text(topology(own, text, other, address, reason))
    assert shown.count("\n") == 4
    assert not CONTROLS.search(shown.replace("\n", ""))


DOT_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_a_topology_for_graphviz_has_the_same_statements_whatever_nodes_call_themselves(
    own: str, text: str, other: str, address: str, reason: str
) -> None:
    shown = topology_dot(topology(own, text, other, address, reason))
    plain_one = topology_dot(topology("a", "b", "c", "d", "e"))
    assert DOT_STRING.sub('""', shown) == DOT_STRING.sub('""', plain_one)
    assert not CONTROLS.search(shown.replace("\n", ""))


@given(HOSTILE)
def test_quoted_text_is_one_string_of_dot(text: str) -> None:
    assert DOT_STRING.fullmatch(f'"{dot_text(text)}"')


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_takes_the_document() -> None:
    shown = topology_dot(topology("own", '"\\N\x1b<b>', '"other\\', "[::1]:1", ""))
    done = subprocess.run(["dot", "-Tcanon"], input=shown, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
