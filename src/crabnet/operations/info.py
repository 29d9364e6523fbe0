"""The operations that show the node itself, its peers and its replica, and the import of data."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.domain.model import FactKind, Natural, NodeId
from crabnet.errors import Reason
from crabnet.operations.children import ChildHealth
from crabnet.operations.dht import Dht
from crabnet.operations.model import Alone, Empty, Kind, Operation, Route, Scope, Writing


class Identity(Struct, frozen=True, kw_only=True):
    """The identity of a node."""

    node_id: str
    key_id: str
    public_key: str
    """Base64url without padding."""
    alg: str
    alias: str
    namespace: str


class Config(Struct, frozen=True, kw_only=True):
    """Effective settings by the names of CONFIGURATION.md. Secrets are masked."""

    settings: dict[str, str | int | bool | list[str] | None]


class Peer(Struct, frozen=True, kw_only=True):
    """An address of another node."""

    address: str
    """`udp:` and the address of its datagrams, or `p2p:` and its id as a libp2p peer."""
    names: list[str]
    """Its names in the settings, where they differ from the address."""
    node_id: str | None
    """Null while it has not proved itself."""
    configured: bool
    """An announce address or bootstrap peer."""
    confirmed: bool
    """It has proved its address."""
    last_seen_ms: int | None
    """When it was last heard, in milliseconds since 1970. Null: never."""
    silent_ms: int | None
    last_refused_ms: int | None
    """When the node last refused a message of it, in milliseconds since 1970. Null: never."""
    refused_reason: str | None
    refused_detail: str | None
    failures: int
    """Failed tries since it was last heard."""
    equivocator: bool
    """Proved to have signed two envelopes for one place of its feed."""


class PeerList(Struct, frozen=True, kw_only=True):
    """Configured, confirmed and remembered peers, those heard last first."""

    peers: list[Peer]
    own_addresses: list[str] = []
    """Where libp2p peers can reach this node, as they write it in their `bootstrap_peers`. Empty without a running node
    in the dht network.
    """


class Vector(Struct, frozen=True, kw_only=True):
    """A version vector."""

    namespace: str
    node_id: str
    lsn: int
    """The last journal frame that it covers."""
    heads: dict[str, list[int | str]]
    """By node id: seq and id of the last envelope held of that feed, and the end of the feed if it has one.

    The seq is 0 and the id empty if nothing of that feed stands.
    """


class SyncStatus(Struct, frozen=True, kw_only=True):
    """The exchange with neighbours."""

    missing_feeds: int
    """Feeds known to be incomplete here."""
    entries_in_flight: int
    """Entries asked for."""
    envelopes_served: int
    bytes_served: int
    serves_dropped: int


class RunCounts(Struct, frozen=True, kw_only=True):
    """How many runs there are on this node, and the bounds."""

    running: int
    queued: int
    running_max: int
    queued_max: int


class RunLimit(Struct, frozen=True, kw_only=True):
    """A limit of runs, and what enforces it (null: nothing)."""

    value: int
    by: str | None


class SandboxAttempt(Struct, frozen=True, kw_only=True):
    """A kind of sandbox that was tried."""

    usable: bool
    ms: int
    detail: str


class Sandbox(Struct, frozen=True, kw_only=True):
    """What confines runs."""

    mode: str
    """``bwrap``, ``landlock``, ``none``, ``unavailable``, or ``unknown`` while the self-test is not done."""
    detail: str
    chosen_by: str | None = None
    profiles: list[str] = []
    limits: dict[str, RunLimit] = {}
    self_test_ms: int | None = None
    tried: dict[str, SandboxAttempt] = {}


class EventCounts(Struct, frozen=True, kw_only=True):
    """The event log since the start of the node."""

    written: int
    dropped: int
    failed: int


class Status(Struct, frozen=True, kw_only=True):
    """The node: its identity, settings, state and activity."""

    version: str
    node_id: str
    key_id: str
    alias: str
    namespace: str
    network: str
    listen_addr: str | None
    """Where it receives datagrams, several with commas between. Null when no node runs, or without UDP."""
    running: bool
    uptime_ms: int
    state_hash: str
    """Hex. Equal on nodes that hold the same envelopes."""
    state_lsn: int
    """The last journal frame that the state hash covers."""
    lsn: int
    """The last journal frame."""
    seeds: dict[str, int]
    """Tasks by status."""
    archived: int
    """How many of these have left memory."""
    bids: int
    claims: int
    results: int
    feeds: int
    parked: int
    """Envelopes that wait for others."""
    lacking: int
    """Envelopes that those rest on and that are not held."""
    seen: int
    """Ids in the replay window."""
    peers: int
    """Addresses that have proved themselves by a challenge, and configured ones that have been heard."""
    clock_ahead_ms: int
    """How far the system's clock is ahead of the node's time, after a step."""
    relayed: int
    """Copies of other nodes' envelopes that were passed on."""
    peers_remembered: int
    """Addresses that would be tried after a restart."""
    sync: SyncStatus
    unsent: int
    """Envelopes that wait for a target that could not be sent to."""
    runs: RunCounts
    feed_risk: bool
    """This node may not write into its feed yet."""
    feed_unconfirmed: bool
    """It waits until a peer tells how far its feed goes."""
    equivocators: list[str]
    """The latest 100 authors of whom a fork is proved."""
    equivocators_total: int
    sandbox: Sandbox
    children: list[ChildHealth]
    """The processes that the node keeps beside itself. Empty without a running node."""
    dht: Dht | None = None
    """Its part in the dht network. Null without one, or without a running node."""
    events: EventCounts
    counters: dict[str, int]
    """Events by kind and Reason since the start of the node."""


class UnsignedFact(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fact of a baseline state. ``ts`` is in seconds since 1970. ``body`` is the object of that kind."""

    kind: FactKind
    author: NodeId
    ts: Natural
    body: dict[str, object]


class ImportRequest(Writing, frozen=True, kw_only=True):
    """Data of the operator."""

    envelopes: tuple[bytes, ...] = ()
    """Each in base64."""
    facts: tuple[UnsignedFact, ...] = ()
    """Unsigned facts of a baseline state."""
    proofs: tuple[bytes, ...] = ()
    """Documents that prove forks, each in base64."""


class Imported(Struct, frozen=True, kw_only=True):
    """How many entries were accepted, and how many were ignored and rejected by Reason."""

    accepted: int
    ignored: dict[str, int]
    rejected: dict[str, int]


STATUS: Final = Operation(
    name="status",
    route=Route("GET", "/status"),
    request=Empty,
    response=Status,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the node: its identity, settings, state and activity.",
    description="Without a running node it describes the data dir.",
)
ID: Final = Operation(
    name="id",
    route=Route("GET", "/identity"),
    request=Empty,
    response=Identity,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the identity of the node.",
    description="The node id contains the public key.",
)
CONFIG: Final = Operation(
    name="config",
    route=Route("GET", "/config"),
    request=Empty,
    response=Config,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    creates=True,
    summary="Show the effective settings.",
    description="The names are those of CONFIGURATION.md. Secrets are masked.",
)
PEERS: Final = Operation(
    name="peers",
    route=Route("GET", "/peers"),
    request=Empty,
    response=PeerList,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the peers.",
    description="Configured, confirmed and remembered ones, those heard last first.",
)
VECTOR: Final = Operation(
    name="state.vector",
    route=Route("GET", "/state/vector"),
    request=Empty,
    response=Vector,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the version vector: how far each feed goes that this node holds.",
    description="A feed with an end has three values. Its author has signed two envelopes for the place `end`.",
)
IMPORT: Final = Operation(
    name="state.import",
    route=Route("POST", "/state/import"),
    request=ImportRequest,
    response=Imported,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    creates=True,
    summary="Import envelopes, unsigned facts and proofs of forks.",
    description=(
        "Everything is verified as if it came from the network, but it may be old. An accepted proof has ended its"
        " author's feed; `duplicate` says that the feed had ended there before, or earlier. Envelopes that wait for"
        " others are ignored (`gap`, `broken_chain`, `unknown_parent`) until those come; then a later answer counts"
        " them as accepted, and subtracts them from their reason."
    ),
    reasons=frozenset({Reason.REQUEST_CONFLICT}),
)
