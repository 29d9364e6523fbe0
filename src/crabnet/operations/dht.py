"""What a node says of its part in the dht network."""

from __future__ import annotations

from msgspec import Struct

from crabnet.errors import Reason
from crabnet.operations.children import ChildState


class DhtTopic(Struct, frozen=True, kw_only=True):
    """A topic that the node reads or publishes to."""

    topic: str
    peers: int
    """Connected peers that subscribe to it."""
    mesh: int
    """How many of them pass messages on to this node, and get them from it, at once."""


class Dht(Struct, frozen=True, kw_only=True):
    """The part of a node in the dht network. Counters are since the start of the node."""

    state: ChildState
    """Of the libp2p process. While it does not run, everything else goes on, and sync brings later what was missed."""
    restarts: int
    reason: Reason | None
    """Why the process does not work, if it has failed."""
    detail: str
    peers: int
    """Connected nodes of this network."""
    connections: int
    """Connections, also those to other programs."""
    streams: int
    addresses: list[str]
    """Where others can reach this node, as they write it in their `bootstrap_peers`."""
    observed: list[str]
    """Addresses of this node as its peers see them."""
    reachability: str
    """`public` or `private` once peers have tried to reach this node, else `unknown`."""
    relays: list[str]
    """Addresses of this node behind relays."""
    topics: list[DhtTopic]
    queued: int
    """Envelopes that wait to be published."""
    published: int
    unpublished: int
    """Envelopes that no peer could be given. Sync brings them."""
    sent: int
    """Messages given to the streams of single peers."""
    dropped: int
    """Messages given up because a queue was full, or the peer was gone. Sync brings them."""
    counters: dict[str, int]
    """What the libp2p process counts."""
