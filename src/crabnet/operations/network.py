"""The operations that show the network as this node sees it: topology, sync, feeds and forks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason
from crabnet.operations.model import Alone, Empty, Kind, Operation, Request, Route, Scope


class Knowledge(StrEnum):
    """Where knowledge about a node or an edge comes from."""

    MEASURED = "measured"
    """This node has exchanged messages with that address and has checked the answer to a challenge."""
    TOLD = "told"
    """Another node said so, or passed on what that node has signed."""
    REMEMBERED = "remembered"
    """From an earlier run of this node (`peers.json`)."""
    CONFIGURED = "configured"
    """From the settings."""


class Path(StrEnum):
    """How envelopes of a node come here."""

    DIRECT = "direct"
    """From an address of that node."""
    RELAYED = "relayed"
    """Through other nodes."""


class TopologyNode(Struct, frozen=True, kw_only=True):
    """A node of the network."""

    node_id: str
    alias: str
    """What the node calls itself. It proves nothing. Empty if it is not known."""
    agent: str
    """The program and version that the node says it runs. Empty if it is not known."""
    own: bool
    """This node itself."""
    sources: list[Knowledge]
    equivocator: bool
    """Proved to have signed two envelopes for one place of its feed."""
    head_seq: int
    """How many envelopes of its feed are held here without a gap."""


class TopologyEdge(Struct, frozen=True, kw_only=True):
    """A way from this node to another one."""

    node_id: str | None
    """The node at the other end. Null while the address has not shown which node is there."""
    address: str | None
    """As in `peers`. Null for a node without a known address."""
    names: list[str]
    """The names of the address in the settings, where they differ from it."""
    path: Path
    transport: str | None
    """`udp` or `dht`. Null for a relayed path."""
    via: str | None
    """The node that passed on the last live envelope, for a relayed path. Null if it is not known."""
    via_address: str | None
    """`p2p:*` for the libp2p network as a whole: what is published there comes by any of its nodes."""
    sources: list[Knowledge]
    confirmed: bool
    """The address has proved itself in this run, or is configured and was heard."""
    last_seen_ms: int | None
    """When it was last heard, in milliseconds since 1970. Null: never."""
    silent_ms: int | None
    round_trip_ms: int | None
    """From a question to its answer, with the time that both nodes take to handle it. Null: not measured."""
    feeds_behind: int | None
    """Feeds of which the neighbour holds more than this node. Null: not known."""
    envelopes_behind: int | None
    feeds_ahead: int | None
    """Feeds of which this node holds more, according to what the neighbour said last. Null: not known."""
    envelopes_ahead: int | None
    failures: int
    """Failed tries since it was last heard."""
    refused_reason: str | None
    """Why the node last refused a message of it. Null: it did not."""


class Topology(Struct, frozen=True, kw_only=True):
    """The network as this node sees it. Other nodes may see more, or other parts."""

    node_id: str
    running: bool
    """False: only what was remembered and configured."""
    at_ms: int
    """When this was true, in milliseconds since 1970."""
    nodes: list[TopologyNode]
    """This node first."""
    edges: list[TopologyEdge]
    """Direct ones first, those heard last first."""
    nodes_total: int
    edges_total: int


class Neighbour(Struct, frozen=True, kw_only=True):
    """A neighbour that is configured or has proved its address, and how far both sides are apart."""

    address: str
    node_id: str | None
    silent_ms: int | None
    """Time since its last message. Null: none yet."""
    feeds_behind: int
    """Feeds of which it says that it holds more than this node."""
    envelopes_behind: int
    feeds_ahead: int | None
    """Feeds of which this node holds more, according to what it said or asked for last. Null: it has said nothing."""
    envelopes_ahead: int | None


class Sync(Struct, frozen=True, kw_only=True):
    """The exchange with neighbours."""

    neighbours: list[Neighbour]
    """Those with the largest differences first."""
    neighbours_total: int
    feeds_missing: int
    """Feeds of which this node lacks envelopes that a neighbour says it holds."""
    envelopes_missing: int
    oldest_want_ms: int
    """How long the node has lacked what it lacks for longest. 0: nothing is missing."""
    requests_in_flight: int
    """Ranges that were requested and have not arrived."""
    envelopes_in_flight: int
    wanted_by_name: int
    """Fork proofs, and envelopes on which others rest, that are to be requested."""
    parked: int
    """Envelopes that wait for others."""
    envelopes_served: int
    """Since the start of the node."""
    bytes_served: int
    serves_dropped: int


class FeedsRequest(Request, frozen=True, kw_only=True):
    """Which feeds: those that fit all given fields."""

    forked: bool | None = None
    """True: only feeds that have ended because of a fork. False: only others."""
    behind: bool | None = None
    """True: only feeds of which this node lacks envelopes that a neighbour says it holds. False: only others."""
    limit: Annotated[int, Meta(ge=1, le=limits.FEEDS_PAGE_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class FeedRow(Struct, frozen=True, kw_only=True):
    """The feed of an author."""

    author: str
    own: bool
    head_seq: int
    """The last envelope that is held without a gap. 0: none."""
    head_id: str
    """Empty without a head."""
    end: int | None
    """The place for which the author has provably signed two envelopes. The feed ends before it."""
    missing_to: int | None
    """The last place that a neighbour says it holds, if that is beyond the head."""
    missing_since_ms: int | None
    """How long this node has lacked a part of the feed."""


class FeedPage(Struct, frozen=True, kw_only=True):
    """A page of feeds, by author."""

    feeds: list[FeedRow]
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""
    total: int
    """All feeds that are known."""
    forked_total: int
    """Those that have ended because of a fork."""


class FeedRequest(Request, frozen=True, kw_only=True):
    """A feed."""

    author: str
    """The node id of its author."""


class FeedShown(FeedRow, frozen=True, kw_only=True):
    """A feed, with the proof of its fork."""

    open_seeds: int
    """Tasks of the author that count towards its limit."""
    proof: bytes | None
    """The document that proves the fork, in base64. Anybody can check it with `crabnet audit proof --check`."""


TOPOLOGY: Final = Operation(
    name="topology",
    route=Route("GET", "/topology"),
    request=Empty,
    response=Topology,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the network as this node sees it: nodes, and the ways to them.",
    description=(
        "A node that is known only through others has an edge with the path `relayed`. At most"
        f" {limits.TOPOLOGY_NODES_MAX} nodes are listed. Without a running node it is what was remembered and"
        " configured."
    ),
)
SYNC: Final = Operation(
    name="sync",
    route=Route("GET", "/sync"),
    request=Empty,
    response=Sync,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Show how far this node and each neighbour are behind each other.",
    description="What addresses say that have not proved themselves does not count.",
)
FEEDS: Final = Operation(
    name="feed.list",
    route=Route("GET", "/feeds"),
    request=FeedsRequest,
    response=FeedPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List the feeds: how far each is held, and where forks have ended it.",
    description="A feed ends before the lowest place for which its author has signed two envelopes.",
)
FEED: Final = Operation(
    name="feed.show",
    route=Route("GET", "/feeds/{author}"),
    request=FeedRequest,
    response=FeedShown,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.FAILS,
    summary="Show a feed, with the proof of its fork.",
    description="The proof is null while the feed has not ended, and if its envelopes cannot be read at the moment.",
    reasons=frozenset({Reason.UNKNOWN_KEY}),
)
