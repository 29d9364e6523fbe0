"""The operations that show at a glance how a node is, and whether it is fit to work."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet import limits
from crabnet.operations.children import ChildHealth
from crabnet.operations.dht import Dht
from crabnet.operations.info import EventCounts, RunCounts, SyncStatus
from crabnet.operations.model import Alone, Empty, Kind, Operation, Route, Scope
from crabnet.operations.problems import Doubt


class Health(Struct, frozen=True, kw_only=True):
    """Whether the node is fit to work: it can write, has read its journal, and is not far behind its peers."""

    ready: bool
    reasons: tuple[Doubt, ...]
    """Why it is not ready; empty if it is."""


class Disk(Struct, frozen=True, kw_only=True):
    """The file system of the data dir."""

    free_bytes: int
    low: bool
    """So little is free that the node may soon stop."""


class Overview(Struct, frozen=True, kw_only=True):
    """The node at a glance."""

    version: str
    node_id: str
    alias: str
    namespace: str
    network: str
    listen_addr: str | None
    """Where it receives datagrams, several with commas between. Null without UDP."""
    now_ms: int
    """The node's time, in milliseconds since 1970."""
    uptime_ms: int
    health: Health
    peers: int
    """Addresses that have proved themselves by a challenge, and configured ones that have been heard."""
    peers_remembered: int
    """Addresses that would be tried after a restart."""
    seeds: dict[str, int]
    """Tasks by status."""
    archived: int
    """How many of these have left memory."""
    runs: RunCounts
    sync: SyncStatus
    behind: int
    """Envelopes that peers say they hold and this node does not."""
    parked: int
    """Envelopes that wait for others."""
    unsent: int
    """Envelopes that wait for a target that could not be sent to."""
    disk: Disk
    lsn: int
    """The last durable journal frame."""
    events: EventCounts
    events_last_id: int
    """The id of the last event that is written."""
    children: list[ChildHealth]
    """The processes that the node keeps beside itself, such as the web process."""
    dht: Dht | None = None
    """Its part in the dht network. Null without one."""
    equivocators: int
    """Authors of whom a fork is proved."""


OVERVIEW: Final = Operation(
    name="overview",
    route=Route("GET", "/overview"),
    request=Empty,
    response=Overview,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    fresh_ms=limits.OVERVIEW_FRESH_MS,
    summary="Show the node at a glance.",
    description=(
        "Who it is, whether it is fit to work, and how much it has to do. Over HTTP the answer may be up to"
        f" {limits.OVERVIEW_FRESH_MS} ms old, so that many who look do not burden the node."
    ),
)
HEALTH: Final = Operation(
    name="health",
    route=Route("GET", "/health"),
    request=Empty,
    response=Health,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Say whether the node is fit to work, and why not.",
    description="It answers although it is not ready, but not before its journal is read.",
)
