"""The picture that ``crabnet top`` draws: pure functions from the answers of a node to lines of text."""

from __future__ import annotations

from typing import Final, NamedTuple

from crabnet.cli.tables import fit
from crabnet.operations.info import Status
from crabnet.operations.network import Sync, Topology, TopologyEdge
from crabnet.operations.seeds import RunList, RunRow
from crabnet.plain import plain
from crabnet.source import is_p2p

_ID_CHARS: Final = 8
_COLUMNS_MIN: Final = 20
_RATES: Final = (
    ("accepted", ("envelope_accepted",)),
    ("ignored", ("envelope_ignored",)),
    ("rejected", ("envelope_rejected",)),
    ("dropped", ("datagram_dropped", "fragment_dropped", "datagram_received_bad")),
    ("created", ("envelope_created",)),
)
"""What is shown per second, and the events whose counters it adds up."""


class View(NamedTuple):
    """The answers of a node at one moment. ``at_s`` is a time of a clock that never goes back, in seconds."""

    at_s: float
    status: Status
    topology: Topology
    sync: Sync
    runs: RunList


class Screen(NamedTuple):
    """The size of the picture, in characters."""

    columns: int
    lines: int


def picture(view: View, before: View | None, screen: Screen) -> list[str]:
    """The lines of the picture: at most ``screen.lines``, each at most ``screen.columns`` wide, without controls.

    Rates are shown if there is an earlier view. Text of other nodes is escaped.
    """
    columns = max(screen.columns, _COLUMNS_MIN)
    head = [_title(view), _tasks(view), _rates(view, before), _queues(view), _runs(view), *_dht(view), ""]
    left = max(0, screen.lines - len(head))
    runs = [_run_row(run) for run in view.runs.runs]
    peers = [_peer_row(edge, view) for edge in view.topology.edges]
    # Peers and runs share the rest. What one does not need is the other's.
    room_runs = min(len(runs) + 1, max(left // 2, left - len(peers) - 1))
    room_peers = left - room_runs
    body = _section(f"{'PEER':<24}{'NODE':<10}{'SEEN':>8}{'TRIP':>9}{'BEHIND':>9}{'AHEAD':>8}  NAME", peers, room_peers)
    body += _section(f"{'RUN':<11}{'STAGE':<10}{'FOR':>8}  COMMAND", runs, room_runs)
    return [fit(line, columns) for line in [*head, *body][: screen.lines]]


def _section(title: str, rows: list[str], room: int) -> list[str]:
    if room <= 0:
        return []
    shown = rows[: max(0, room - 1)]
    if len(shown) < len(rows) and shown:
        shown[-1] = f"… and {len(rows) - len(shown) + 1} more"
    return [title, *shown]


def _title(view: View) -> str:
    status = view.status
    flags = [" PAUSED"] if view.runs.paused else []
    flags += [" DRAINING"] if view.runs.draining else []
    flags += [" FEED AT RISK"] if status.feed_risk else []
    return (
        f"crabnet {plain(status.version)}  {plain(status.alias)} …{plain(status.node_id[-_ID_CHARS:])}"
        f"  {plain(status.namespace)}  up {_span(status.uptime_ms)}{''.join(flags)}"
    )


def _tasks(view: View) -> str:
    counts = "  ".join(f"{plain(name)} {count}" for name, count in view.status.seeds.items() if count)
    return f"tasks    {counts or 'none'}"


def _rates(view: View, before: View | None) -> str:
    if before is None or view.at_s <= before.at_s:
        return f"per s    (after the next look)   frame {view.status.lsn}"
    seconds = view.at_s - before.at_s
    parts = [f"{name} {_rate(_total(view, kinds) - _total(before, kinds), seconds)}" for name, kinds in _RATES]
    frames = view.status.lsn - before.status.lsn
    served = view.sync.bytes_served - before.sync.bytes_served
    parts += [f"frames {_rate(frames, seconds)}", f"served {_rate(served / 1024, seconds)} KiB"]
    return "per s    " + " ".join(parts)


def _total(view: View, kinds: tuple[str, ...]) -> int:
    """The sum of the counters of these kinds of events. A counter is named by a kind, and a Reason if there is one."""
    return sum(count for name, count in view.status.counters.items() if name.partition(".")[0] in kinds)


def _rate(count: float, seconds: float) -> str:
    rate = max(0.0, count / seconds)
    return f"{rate:.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"


def _queues(view: View) -> str:
    status, sync = view.status, view.sync
    return (
        f"queues   missing {sync.envelopes_missing} in {sync.feeds_missing} feeds  requested {sync.envelopes_in_flight}"
        f"  parked {status.parked}  unsent {status.unsent}  lost events {status.events.dropped}"
    )


def _runs(view: View) -> str:
    runs = view.status.runs
    return (
        f"runs     {runs.running} of {runs.running_max} go on  {runs.queued} of {runs.queued_max} wait"
        f"   peers {view.status.peers}  nodes {view.topology.nodes_total}"
    )


def _dht(view: View) -> list[str]:
    dht = view.status.dht
    if dht is None:
        return []
    counts = f"published {dht.published}  unpublished {dht.unpublished}  dropped {dht.dropped}"
    reachability = plain(dht.reachability)
    return [f"dht      {dht.state.value}  libp2p peers {dht.peers}  reachability {reachability}  {counts}"]


def _peer_row(edge: TopologyEdge, view: View) -> str:
    name = next((node.alias for node in view.topology.nodes if node.node_id == edge.node_id), "")
    node_id = f"…{plain(edge.node_id[-_ID_CHARS:])}" if edge.node_id else "-"
    address = edge.address if edge.address is not None else f"via …{(edge.via or '')[-_ID_CHARS:]}"
    if is_p2p(address):
        address = f"p2p:…{address[-_ID_CHARS:]}"
    seen = "-" if edge.silent_ms is None else _span(edge.silent_ms)
    trip = "-" if edge.round_trip_ms is None else f"{edge.round_trip_ms} ms"
    behind = "-" if edge.envelopes_behind is None else str(edge.envelopes_behind)
    ahead = "-" if edge.envelopes_ahead is None else str(edge.envelopes_ahead)
    return (
        f"{fit(plain(address), 23, pad=True)} {fit(node_id, 9, pad=True)} {seen:>8}{trip:>9}{behind:>9}{ahead:>8}"
        f"  {plain(name)}"
    )


def _run_row(run: RunRow) -> str:
    here = run.local_run
    stage = here.stage if here.position is None else f"{here.stage} {here.position}"
    return (
        f"{fit(plain(run.seed_id), 10, pad=True)} {fit(plain(stage), 9, pad=True)} {_span(here.since_ms):>8}"
        f"  {plain(run.command)}"
    )


def _span(ms: int) -> str:
    """A span of time in at most 7 characters."""
    seconds = max(0, ms) // 1000
    if seconds < 100:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    return f"{minutes} min" if minutes < 100 else f"{hours} h" if hours < 100 else f"{min(days, 99_999)} d"
