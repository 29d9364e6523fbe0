"""The table of all metrics of a node: name, type, help and labels of each.

docs/METRICS.md, the answer of the operation ``metrics``, and the checks of dashboard and alert rules come from it.
Names follow the conventions of Prometheus: base units, ``_total`` for counters. Each label has a closed set of values,
or one value that only the node's own program determines. So strangers cannot make series, and no metric names a task,
a peer or an address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from types import MappingProxyType
from typing import Final

from crabnet.domain.model import SeedStatus
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.monitor.registry import EventKind, Severity
from crabnet.protocol.envelope import FEED_KINDS
from crabnet.protocol.topics import BASELINE, CHANNELS

OTHER: Final = "other"
"""Stands for every value outside the set of a label."""
NONE: Final = "none"


class MetricType(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    """It only grows while the node runs."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    """Always 1. Its labels say something about the node."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label. ``values`` is the closed set of its values besides ``other``; None: one value, of the node's program."""

    name: str
    values: frozenset[str] | None

    def admits(self, value: str) -> bool:
        """Whether a sample may have this value."""
        return self.values is None or value == OTHER or value in self.values


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``bounds`` are the upper bounds of a histogram's buckets, without infinity."""

    name: str
    type: MetricType
    help: str
    labels: tuple[Label, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """``seconds`` or ``bytes``; empty for a number of things."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if stem.endswith(f"_{unit}")), "")

    @property
    def series_max(self) -> int:
        """The most time series that it can ever have."""
        values = prod(1 if label.values is None else len(label.values) + 1 for label in self.labels)
        return values * (len(self.bounds) + 3 if self.type is MetricType.HISTOGRAM else 1)

    @property
    def series_names(self) -> tuple[str, ...]:
        """The names of its time series, as queries write them."""
        if self.type is MetricType.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


def _label(name: str, values: Iterable[str]) -> Label:
    return Label(name, frozenset(map(str, values)))


_BY_REASON: Final = (_label("reason", (*Reason, NONE)),)
_BY_KIND: Final = (_label("kind", FEED_KINDS),)
_FAST_S: Final = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
_DISK_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_DELAY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LONG_S: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
RUN_CAUSES: Final = frozenset(
    [
        "exited",
        "signaled",
        "timeout",
        "output_limit",
        "cancelled",
        "spawn_failed",
        "refused",
        "memory",
        "cpu",
        "file_size",
        "disk",
        "processes",
        "lost",
    ]
)
CHILDREN: Final = frozenset({"signatures", "web", "alerts", "libp2p"})


def _counter(name: str, text: str, labels: tuple[Label, ...] = ()) -> Metric:
    return Metric(f"crabnet_{name}_total", MetricType.COUNTER, text, labels)


def _gauge(name: str, text: str, labels: tuple[Label, ...] = ()) -> Metric:
    return Metric(f"crabnet_{name}", MetricType.GAUGE, text, labels)


def _histogram(name: str, text: str, bounds: tuple[float, ...], labels: tuple[Label, ...] = ()) -> Metric:
    return Metric(f"crabnet_{name}", MetricType.HISTOGRAM, text, labels, bounds)


def _info(name: str, text: str, *labels: Label) -> Metric:
    return Metric(f"crabnet_{name}_info", MetricType.INFO, text, labels)


BUILD: Final = _info("build", "The running program.", Label("version", None), Label("python", None))
SANDBOX: Final = _info(
    "sandbox", "What confines runs.", _label("mode", ("bwrap", "landlock", "none", "unavailable", "unknown"))
)

# --- what arrives ---------------------------------------------------------------------------------------
DATAGRAMS_RECEIVED: Final = _counter("datagrams_received", "Datagrams read from the sockets.")
RECEIVED_BYTES: Final = _counter("received_bytes", "Payload of the datagrams read from the sockets.")
DATAGRAMS_DROPPED: Final = _counter(
    "datagrams_dropped",
    "Datagrams dropped unread or unsent: of blocked sources, over a rate limit, without room in a buffer or queue.",
    _BY_REASON,
)
DATAGRAMS_BAD: Final = _counter("datagrams_bad", "Datagrams that were no message: empty or malformed.", _BY_REASON)
FRAGMENTS_DROPPED: Final = _counter("fragments_dropped", "Fragments of long messages that were dropped.", _BY_REASON)
BLOCKS: Final = _counter("source_blocks", "How often the address of a source was blocked for a while.", _BY_REASON)
ENVELOPES_ACCEPTED: Final = _counter(
    "envelopes_accepted", "Envelopes of others that were verified and applied, and are durable.", _BY_KIND
)
ENVELOPES_IGNORED: Final = _counter(
    "envelopes_ignored", "Envelopes without effect that were harmless. Repeated ones are `duplicate`.", _BY_REASON
)
ENVELOPES_REJECTED: Final = _counter("envelopes_rejected", "Envelopes that were hostile or broken.", _BY_REASON)
ENVELOPES_PARKED: Final = _counter("envelopes_parked", "Envelopes that had to wait for others.", _BY_REASON)
ENVELOPES_DROPPED: Final = _counter(
    "envelopes_dropped", "Envelopes that waited for others and were given up.", _BY_REASON
)
MESSAGE_HANDLING: Final = _histogram(
    "message_handling_seconds",
    "Time in which the core handled one received message: its checks, decision and changes in memory, without the check"
    " of its signature by the other process and without the journal.",
    _FAST_S,
)

# --- what this node states and sends ---------------------------------------------------------------------
ENVELOPES_CREATED: Final = _counter("envelopes_created", "Envelopes that this node wrote into its feed.", _BY_KIND)
DATAGRAMS_SENT: Final = _counter("datagrams_sent", "Datagrams given to the sockets.")
SENT_BYTES: Final = _counter("sent_bytes", "Payload of the datagrams given to the sockets.")
SOCKET_ERRORS: Final = _counter("socket_errors", "Errors of the sockets.", (_label("direction", ("in", "out")),))
SENDS_FAILED: Final = _counter("sends_failed", "Failed attempts to send an envelope to an address.", _BY_REASON)
RELAYED: Final = _counter("envelopes_relayed", "Copies of envelopes of others that were passed on.")
SERVED: Final = _counter("envelopes_served", "Stored envelopes that were sent to peers that lacked them.")
SERVED_BYTES: Final = _counter("served_bytes", "Bytes of the envelopes that were served.")
SERVES_DROPPED: Final = _counter("serves_dropped", "Requests of peers that were dropped for lack of room.")
OUTBOX_MESSAGES: Final = _gauge("outbox_messages", "Messages that wait to be sent.")
OUTBOX_AGE: Final = _gauge("outbox_oldest_seconds", "How long the first message of the outbox has waited.")
UNSENT: Final = _gauge("unsent_envelopes", "Envelopes that wait for an address to which a send has failed.")

UNSENT_AGE: Final = _gauge("unsent_oldest_seconds", "How long the oldest unsent envelope has waited.")
TARGETS_FAILING: Final = _gauge("send_targets_failing", "Addresses to which a send has failed.")
SENDS_DROPPED: Final = _counter("sends_dropped", "Messages that were given up for lack of room or as failed answers.")

# --- the dht network ---------------------------------------------------------------------------------------
_BY_PATH: Final = (_label("path", ("gossip", "sync", "direct")),)
_BY_CHANNEL: Final = (_label("channel", (*CHANNELS, BASELINE)),)
DHT_PEERS: Final = _gauge("dht_peers", "Connected libp2p peers that are nodes of this network.")
DHT_CONNECTIONS: Final = _gauge("dht_connections", "Connections of the libp2p process.")
DHT_STREAMS: Final = _gauge("dht_streams", "Streams of these connections.")
DHT_TOPIC_PEERS: Final = _gauge(
    "dht_topic_peers",
    "Connected peers that subscribe to a topic, by its channel; other versions are `other`.",
    _BY_CHANNEL,
)
DHT_MESH_PEERS: Final = _gauge("dht_mesh_peers", "Peers in the mesh of a topic, by its channel.", _BY_CHANNEL)
DHT_QUEUED: Final = _gauge("dht_publish_queue", "Envelopes that wait to be published.")
DHT_PUBLISHED: Final = _counter("dht_published", "Envelopes that were published and given to a peer at least.")
DHT_UNPUBLISHED: Final = _counter(
    "dht_unpublished", "Envelopes that no libp2p peer could be given; sync brings them.", _BY_REASON
)
DHT_DROPPED: Final = _counter(
    "dht_sends_dropped", "Messages for libp2p peers that were given up: a queue was full, or the peer was gone."
)
DHT_RECEIVED: Final = _counter(
    "dht_messages_received", "Valid messages that libp2p peers sent, by the way that they took.", _BY_PATH
)
DHT_SENT: Final = _counter(
    "dht_messages_sent", "Messages given to libp2p: to a topic, or to a peer's stream.", _BY_PATH
)
DHT_REFUSED_CONNECTIONS: Final = _counter(
    "dht_connections_refused", "Inbound connections over a limit, in all or of one host."
)
DHT_STREAM_ERRORS: Final = _counter("dht_stream_errors", "Streams that ended because their protocol was broken.")
DHT_OVERFLOW: Final = _counter(
    "dht_messages_overflow", "Messages of topics that were left to sync, because the node did not keep up."
)

# --- refusals --------------------------------------------------------------------------------------------
COMMANDS_REFUSED: Final = _counter("commands_refused", "Operations that a rule refused.", _BY_REASON)
CONTROL_REFUSED: Final = _counter("control_requests_refused", "Broken requests on the control socket.", _BY_REASON)
JOBS_FAILED: Final = _counter("jobs_failed", "Failures of background jobs.", _BY_REASON)
FAULTS: Final = _counter("faults_contained", "Unexpected errors after which the node went on.", _BY_REASON)

# --- state -----------------------------------------------------------------------------------------------
SEEDS: Final = _gauge("seeds", "Tasks by status, archived ones included.", (_label("status", SeedStatus),))
SEEDS_ARCHIVED: Final = _gauge("seeds_archived", "Tasks that have left memory.")
BIDS: Final = _gauge("bids", "Bids of the tasks in memory.")
CLAIMS: Final = _gauge("claims", "Claims of the tasks in memory.")
RESULTS: Final = _gauge("results", "Results of the tasks in memory.")
FEEDS: Final = _gauge("feeds", "Feeds of which an envelope is held.")
EQUIVOCATORS: Final = _gauge("equivocators", "Authors of whom a fork is proved.")
PARKED: Final = _gauge("parked_envelopes", "Envelopes that wait for others.")
PARKED_BYTES: Final = _gauge("parked_bytes", "Bytes of the envelopes that wait for others.")
LACKING: Final = _gauge("lacking_envelopes", "Envelopes that parked ones rest on and that are not held.")
SEEN: Final = _gauge("seen_ids", "Ids in the window of seen messages.")
FEED_RISK: Final = _gauge("feed_at_risk", "1 while this node may not write into its feed, because it may lack its end.")

# --- disk ------------------------------------------------------------------------------------------------
FSYNC: Final = _histogram(
    "journal_fsync_seconds", "Time of each fdatasync of the journal: one for each frame.", _DISK_S
)
COMMIT: Final = _histogram(
    "commit_seconds", "Time to write one frame and make it durable, as the node's loop sees it.", _DISK_S
)
COMMIT_RECORDS: Final = _histogram(
    "commit_records", "Records of each frame.", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
)
COMMIT_BYTES: Final = _histogram(
    "commit_bytes", "Payload of each frame.", tuple(float(1 << bits) for bits in range(10, 25, 2))
)
COMMIT_QUEUE: Final = _gauge("commit_queue_records", "Records that wait for a frame.")
COMMIT_QUEUE_BYTES: Final = _gauge("commit_queue_bytes", "Bytes of the records that wait for a frame.")
JOURNAL_LSN: Final = _gauge("journal_lsn", "Number of the last durable frame.")
JOURNAL_BYTES: Final = _gauge("journal_bytes", "Size of all segments of the journal, history included.")
JOURNAL_SEGMENTS: Final = _gauge("journal_segments", "Segments of the journal, history included.")
REPLAY_BYTES: Final = _gauge("journal_replay_bytes", "Bytes of the journal that a restart would replay.")
CHECKPOINT_AGE: Final = _gauge("checkpoint_age_seconds", "Age of the last checkpoint. Absent without one.")
CHECKPOINT_LSN: Final = _gauge("checkpoint_lsn", "Last frame that the checkpoint covers. 0 without a checkpoint.")
ARCHIVE_SEGMENTS: Final = _gauge("archive_segments", "Segments of the archive.")
REPLAYED_FRAMES: Final = _counter("replayed_frames", "Frames of the journal that the start has replayed.")
REPLAYED_ENVELOPES: Final = _counter(
    "replayed_envelopes",
    "Envelopes in these frames by the decision that the journal holds. Accepted ones have no Reason (`none`).",
    (_label("outcome", Outcome), *_BY_REASON),
)
DISK_FREE: Final = _gauge("disk_free_bytes", "Free space of the file system of the data dir.")
DISK_SIZE: Final = _gauge("disk_size_bytes", "Size of the file system of the data dir.")
DISK_LOW: Final = _gauge("disk_low", "1 while the free space is low.")

# --- peers and sync --------------------------------------------------------------------------------------
PEERS: Final = _gauge(
    "peers",
    "Addresses of other nodes: `confirmed` has proved itself, or is configured and was heard; `silent` is"
    " configured and was not heard; `remembered` would be tried after a restart and is neither.",
    (_label("state", ("confirmed", "silent", "remembered")),),
)
PEERS_BEHIND: Final = _gauge("peers_behind", "Neighbours that lack envelopes which this node holds.")
PEER_BEHIND_MAX: Final = _gauge(
    "peer_missing_envelopes_max", "Envelopes of this node that the neighbour lacks that is furthest behind."
)
SYNC_FEEDS: Final = _gauge("sync_missing_feeds", "Feeds that are incomplete here, as neighbours say.")
SYNC_ENVELOPES: Final = _gauge("sync_missing_envelopes", "Envelopes that neighbours say they hold and this node lacks.")
SYNC_AGE: Final = _gauge("sync_oldest_want_seconds", "How long the node has lacked what it lacks for longest.")
SYNC_NAMED: Final = _gauge("sync_wanted_by_name", "Fork proofs, and envelopes that others rest on, that are wanted.")
SYNC_FLYING: Final = _gauge("sync_envelopes_in_flight", "Envelopes that were requested and have not arrived.")

# --- runs ------------------------------------------------------------------------------------------------
_BY_STAGE: Final = (_label("state", ("running", "queued")),)
RUNS: Final = _gauge("runs", "Runs of this node.", _BY_STAGE)
RUNS_MAX: Final = _gauge("runs_max", "The most runs that the settings allow.", _BY_STAGE)
RUNS_REFUSED: Final = _counter("runs_refused", "Runs that the runner's policy refused.", _BY_REASON)
RUNS_CANCELLED: Final = _counter("runs_cancelled", "Runs that were ended early, begun or not.", _BY_REASON)
RUN_DURATION: Final = _histogram(
    "run_duration_seconds",
    "Wall time of each run that was begun, by the cause of its end as its result has it.",
    _LONG_S,
    (_label("cause", RUN_CAUSES),),
)
RUN_QUEUED: Final = _histogram("run_queue_seconds", "Time that each run waited for its turn.", _LONG_S)

# --- events ----------------------------------------------------------------------------------------------
EVENTS: Final = _counter(
    "events",
    "Events by kind and severity, written or not. One that stands for several things counts once.",
    (_label("kind", EventKind), _label("severity", Severity)),
)
EVENTS_WRITTEN: Final = _counter("events_written", "Events written to the event log.")
EVENTS_DROPPED: Final = _counter(
    "events_dropped", "Events lost because their queue was full.", (_label("kind", EventKind),)
)
EVENT_FAILURES: Final = _counter("event_write_failures", "Failed attempts to write the event log.")
EVENT_QUEUE: Final = _gauge("event_queue_events", "Events that wait to be written.")
EVENT_AGE: Final = _gauge("event_queue_oldest_seconds", "Age of the oldest unwritten event.")
EVENT_BYTES: Final = _gauge("event_queue_bytes", "Estimate of what the unwritten events take in the file.")

# --- process ---------------------------------------------------------------------------------------------
UPTIME: Final = _gauge("uptime_seconds", "Time since the node was opened.")
CLOCK_AHEAD: Final = _gauge("clock_ahead_seconds", "How far the system's clock is ahead of the node's time.")
LOOP_DELAY: Final = _histogram(
    "loop_delay_seconds", "How late the node's loop woke a task that sleeps for 50 ms, each time.", _DELAY_S
)
LOOP_DELAY_MAX: Final = _gauge("loop_delay_max_seconds", "The longest delay of the loop in the last minute.")
CHILD_UP: Final = _gauge("child_up", "1 while a child process of the node runs.", (_label("child", CHILDREN),))
CHILD_RESTARTS: Final = _counter(
    "child_restarts", "How often a child process was started again after a failure.", (_label("child", CHILDREN),)
)
STARTED: Final = _gauge("start_time_seconds", "When the node was opened, in seconds since 1970.")
MEMORY: Final = _gauge("process_resident_memory_bytes", "Resident memory of the node's process.")
CPU: Final = _counter("process_cpu_seconds", "Processor time of the node's process, user and system.")
OPEN_FDS: Final = _gauge("process_open_fds", "Open file descriptors of the node's process.")
MAX_FDS: Final = _gauge("process_max_fds", "The most file descriptors that the node's process may have.")

METRICS: Final = tuple(each for each in list(vars().values()) if isinstance(each, Metric))
"""All metrics, in the order of this file."""
BY_EVENT: Final = MappingProxyType(
    {
        EventKind.DATAGRAM_DROPPED: DATAGRAMS_DROPPED,
        EventKind.DATAGRAM_RECEIVED_BAD: DATAGRAMS_BAD,
        EventKind.FRAGMENT_DROPPED: FRAGMENTS_DROPPED,
        EventKind.SOURCE_BLOCKED: BLOCKS,
        EventKind.ENVELOPE_IGNORED: ENVELOPES_IGNORED,
        EventKind.ENVELOPE_REJECTED: ENVELOPES_REJECTED,
        EventKind.ENVELOPE_PARKED: ENVELOPES_PARKED,
        EventKind.ENVELOPE_DROPPED: ENVELOPES_DROPPED,
        EventKind.SEND_FAILED: SENDS_FAILED,
        EventKind.GOSSIP_UNPUBLISHED: DHT_UNPUBLISHED,
        EventKind.COMMAND_REFUSED: COMMANDS_REFUSED,
        EventKind.CONTROL_REFUSED: CONTROL_REFUSED,
        EventKind.JOB_FAILED: JOBS_FAILED,
        EventKind.FAULT_CONTAINED: FAULTS,
        EventKind.RUN_REFUSED: RUNS_REFUSED,
        EventKind.RUN_CANCELLED: RUNS_CANCELLED,
    }
)
"""The counters by Reason that events are counted in."""
