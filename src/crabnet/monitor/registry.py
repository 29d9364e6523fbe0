"""The registry of event kinds. Every accept, ignore, reject, drop, state change and failure has a name here.

``docs/EVENTS.md`` is generated from this table (``python -m crabnet.monitor.document``). A field that is not
declared for a kind is never written to a file. This keeps secrets, commands and their output out of the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Severity(StrEnum):
    """How much an event matters to the operator, from least to most."""

    DEBUG = "debug"
    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ALERT = "alert"


class Component(StrEnum):
    """The part of the node that an event comes from: the ``source`` of an event."""

    NODE = "node"
    CORE = "core"
    LEDGER = "ledger"
    NETWORK = "network"
    RUNNER = "runner"
    CONTROL = "control"
    MONITOR = "monitor"
    WEB = "web"
    ALERTS = "alerts"


class EventKind(StrEnum):
    """Names of all events. A released name keeps its meaning."""

    __hash__ = (
        str.__hash__
    )  # enum.Enum hashes by a slow function call in Python, and kinds are keys of often-used tables

    NODE_STARTED = "node_started"
    NODE_STOPPED = "node_stopped"
    NODE_DRAINING = "node_draining"
    CONFIG_EFFECTIVE = "config_effective"
    IDENTITY_CREATED = "identity_created"
    JOB_FAILED = "job_failed"
    CHILD_STARTED = "child_started"
    CHILD_FAILED = "child_failed"
    CHILD_ENDED = "child_ended"
    FAULT_CONTAINED = "fault_contained"
    REPLICA_FAILED = "replica_failed"
    NODE_RESTARTED = "node_restarted"
    CLOCK_STEPPED = "clock_stepped"
    CLOCK_BEHIND = "clock_behind"
    CLOCK_SUSPECT = "clock_suspect"
    CLOCK_CONFIRMED = "clock_confirmed"
    NODE_WAS_AWAY = "node_was_away"

    ENVELOPE_CREATED = "envelope_created"
    ENVELOPE_ACCEPTED = "envelope_accepted"
    ENVELOPE_IGNORED = "envelope_ignored"
    ENVELOPE_REJECTED = "envelope_rejected"
    ENVELOPE_PARKED = "envelope_parked"
    ENVELOPE_DROPPED = "envelope_dropped"
    SEED_CHANGED = "seed_changed"
    BID_DECLINED = "bid_declined"
    CLAIM_OVERDUE = "claim_overdue"
    WORKER_FAILED = "worker_failed"
    SETTLEMENT_OVERDUE = "settlement_overdue"
    SETTLEMENT_MISSING = "settlement_missing"
    SEED_RECLAIMED = "seed_reclaimed"
    BID_AWARDED = "bid_awarded"
    AWARD_WAITS = "award_waits"
    RESULT_JUDGED = "result_judged"
    PURCHASE_RETRIED = "purchase_retried"
    PURCHASE_GIVEN_UP = "purchase_given_up"
    PURCHASE_ENDED = "purchase_ended"
    BID_QUOTED = "bid_quoted"
    TASK_DECLINED = "task_declined"
    FORK_DETECTED = "fork_detected"
    FEED_ENDED = "feed_ended"
    SEEN_PRUNED = "seen_pruned"
    GAP_DETECTED = "gap_detected"
    GAP_REQUESTED = "gap_requested"
    GAP_FILLED = "gap_filled"
    SYNC_SERVED = "sync_served"
    FEED_ADOPTED = "feed_adopted"
    FEED_AT_RISK = "feed_at_risk"
    FEED_CONFIRMED = "feed_confirmed"
    FEED_RISK_ACCEPTED = "feed_risk_accepted"
    FEED_UNCONFIRMED = "feed_unconfirmed"
    FEED_MARK_FAILED = "feed_mark_failed"

    LISTENER_STARTED = "listener_started"
    LISTENER_FAILED = "listener_failed"
    DATAGRAM_RECEIVED_BAD = "datagram_received_bad"
    DATAGRAM_DROPPED = "datagram_dropped"
    FRAGMENT_DROPPED = "fragment_dropped"
    SOURCE_BLOCKED = "source_blocked"
    ANNOUNCE_SENT = "announce_sent"
    SEND_FAILED = "send_failed"
    SEND_RECOVERED = "send_recovered"
    PEER_CONFIRMED = "peer_confirmed"
    PEER_FOUND = "peer_found"
    PEER_LOST = "peer_lost"
    PEER_MOVED = "peer_moved"
    PEER_REFUSED = "peer_refused"
    PEERS_FILE_BAD = "peers_file_bad"
    GOSSIP_UNPUBLISHED = "gossip_unpublished"
    BOOTSTRAP_FAILED = "bootstrap_failed"
    BOOTSTRAP_SET_ASIDE = "bootstrap_set_aside"
    LISTENER_FALLBACK = "listener_fallback"
    TOPIC_UNKNOWN = "topic_unknown"
    STRANGERS_REFUSED = "strangers_refused"

    RUN_STARTED = "run_started"
    RUN_FINISHED = "run_finished"
    RUN_REFUSED = "run_refused"
    RUN_INTERRUPTED = "run_interrupted"
    RUN_TIMED_OUT = "run_timed_out"
    RUN_QUEUED = "run_queued"
    RUN_CANCELLED = "run_cancelled"
    RUN_RENEWED = "run_renewed"
    RUN_SILENT = "run_silent"
    RUNS_PAUSED = "runs_paused"
    RUNS_RESUMED = "runs_resumed"
    RUN_UNSANDBOXED = "run_unsandboxed"
    SANDBOX_READY = "sandbox_ready"
    SANDBOX_OFF = "sandbox_off"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"

    LEDGER_RECOVERED = "ledger_recovered"
    LEDGER_POISONED = "ledger_poisoned"
    CHECKPOINT_WRITTEN = "checkpoint_written"
    CHECKPOINT_FAILED = "checkpoint_failed"
    DISK_LOW = "disk_low"
    INDEX_DAMAGED = "index_damaged"
    INDEX_REBUILT = "index_rebuilt"

    CONTROL_REFUSED = "control_refused"
    COMMAND_REFUSED = "command_refused"
    TOKEN_CREATED = "token_created"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - the name of an event
    WEB_LINK_MADE = "web_link_made"
    WEB_LOGIN = "web_login"

    WEB_AUTH_FAILED = "web_auth_failed"
    WEB_CLIENT_DROPPED = "web_client_dropped"
    WEB_OVERLOADED = "web_overloaded"
    WEB_REQUEST_FAILED = "web_request_failed"

    ALERT_SENT = "alert_sent"
    ALERT_UNDELIVERED = "alert_undelivered"
    ALERT_TARGET_UNSERVED = "alert_target_unserved"

    EVENTS_DROPPED = "events_dropped"
    EVENTS_LEFT_OUT = "events_left_out"
    EVENTS_REPAIRED = "events_repaired"
    EVENTS_WRITE_FAILED = "events_write_failed"
    EVENTS_LAGGING = "events_lagging"
    EVENTS_RECOVERED = "events_recovered"
    SYNC_LAGGING = "sync_lagging"
    SYNC_RECOVERED = "sync_recovered"
    SENDING_LAGGING = "sending_lagging"
    SENDING_RECOVERED = "sending_recovered"


FIELDS: Final = MappingProxyType(
    {
        "action": "what was done; for a repair `cut`, `kept_aside`, `moved`, `truncated` or `extended`",
        "ahead_ms": "how far the system's clock is ahead of the node's time, milliseconds; negative if it is behind",
        "address": "network address of the peer or source, `host:port`",
        "address_before": "the network address that was in use before",
        "attempt": "number of the attempt at the seed, from 1; 0 before the first claim",
        "auto": "true if the node goes on with the task by itself",
        "author": "node id of the author of the envelope or feed",
        "bid_id": "id of the bid",
        "bytes": "number of bytes",
        "cause": "why the run ended, as in its result",
        "child": "name of the process that the node keeps beside itself",
        "claim_id": "id of the claim",
        "clean": "true if the shutdown was clean and nothing was repaired",
        "count": "number of things that the event reports",
        "cpu_ms": "processor time used by the command, milliseconds",
        "data_dir": "path of the data dir",
        "detail": "one short sentence for people, not for programs",
        "direction": "`in` for received, `out` for sent",
        "duration_ms": "wall time, milliseconds",
        "entries": "number of envelopes in a sync message",
        "envelope_id": "id of the envelope, 64 hexadecimal digits",
        "escalated": "true if SIGKILL was needed after SIGTERM",
        "event": "kind of the events that were left out",
        "event_id": "id of the event; for several events, of the first one",
        "evicted": "number of entries that were removed because the capacity was reached",
        "exit_code": "exit code of the command; null if a signal ended it",
        "expires_at": "when the right ends, seconds since 1970; absent if never",
        "expired": "number of entries that were removed because their time to live was over",
        "failures": "number of failures since the last success",
        "file": "name of the file, inside the data dir",
        "followed": "whether the node's time gradually follows the system's clock",
        "first_seq": "first sequence number of the range",
        "free_bytes": "bytes still free on the file system of the data dir",
        "future_skew_ms": "how far the time of a message may be in the future, milliseconds",
        "job": "name of the background job",
        "lease_ms": "lease of the run: how long it may be silent, milliseconds",
        "judgement": "`accept`, `reject` or `ask`",
        "key_id": "id of the signing key",
        "kind": "kind of the envelope, such as `SeedCreated`",
        "last_seq": "last sequence number of the range",
        "limits_hit": "limits that the run has reached, comma-separated",
        "lost": "number of alerts among the dropped events",
        "lsn": "log sequence number in the journal",
        "memory_peak_bytes": "highest memory usage of the run",
        "message_ttl_ms": "how old a live message may be, milliseconds",
        "name": "name of the peer in the settings",
        "namespace": "namespace of the envelope or node",
        "network": "transport of the node: `udp` or `dht`",
        "next_try_ms": "when the next try comes, milliseconds since the epoch; absent if there is none",
        "oldest_ms": "how long the oldest thing that waits has waited, milliseconds",
        "offset": "byte offset in the file",
        "operation": "name of the requested operation",
        "other_id": "id of the second envelope for the same place of the feed",
        "outcome": "decision of the recovery, with a name from docs/STORAGE.md",
        "part": "part of the node in which an unexpected error occurred",
        "peer": "node id of the peer",
        "pid": "process id of the node, or of its child that the event names",
        "price": "price of the bid",
        "profile": "profile of the run, or the allowed profiles, comma-separated",
        "failed": "`task` or `worker`: whose failure ended the run",
        "publisher": "node id of the publisher of the seed",
        "reason": "the Reason, the same as in errors and metrics",
        "replayed": "number of replayed journal frames",
        "require_signatures": "whether the node refuses envelopes without a signature",
        "reserve_bytes": "size of the reserve; if less is free, the node stops writing",
        "result_id": "id of the task result",
        "rule": "how a bid is chosen: `cheapest`, `fastest`, `best-history` or `first`",
        "run_id": "id of the run",
        "sandbox": "what confines runs: `bwrap`, `landlock`, `none`, or `unavailable`",
        "scope": "what the token may do: `read`, `operate` or `admin`",
        "settle_by": "until when the result had to be settled, seconds since 1970",
        "seed_id": "id of the seed",
        "seen_capacity": "capacity of the window of seen messages, entries",
        "seen_ttl_ms": "time to live in the window of seen messages, milliseconds",
        "seq": "sequence number in the author's feed",
        "setting": "name of the setting",
        "signal": "number of the signal that ended the command; null if it exited",
        "state_hash": "hash of the replicated state",
        "status": "status of the seed after the change",
        "status_before": "status of the seed before the change",
        "step_ms": "by how much the clock was changed, milliseconds; negative if it was set back",
        "target": "where an alert goes: its number and what may be shown of it",
        "targets": "number of addresses: those to which the envelope was sent, or those to which sending fails",
        "title": "title of the task, as its publisher wrote it",
        "timed_out": "whether the timeout ended the command",
        "timeout_ms": "timeout of the command, milliseconds",
        "token_name": "name of the token; its secret is in no event",
        "topic": "topic of the libp2p network",
        "transport": "transport: `udp` or `dht`",
        "truncated": "whether captured output was cut at its bound",
        "value": "effective value of the setting as text; `<set>` instead of a secret",
        "version": "version of Crabnet",
        "worker": "node id of the worker",
    }
)
"""All payload fields. A name has the same meaning in every kind of event."""


@dataclass(frozen=True, slots=True)
class KindSpec:
    """Description of an event kind: default severity, source component, payload fields, names in the baseline."""

    severity: Severity
    source: Component
    description: str
    fields: frozenset[str]
    baseline: tuple[str, ...] = ()


_ENVELOPE = "envelope_id author kind seq namespace seed_id address transport"
_SEVERITY = {"D": Severity.DEBUG, "I": Severity.INFO, "N": Severity.NOTICE, "W": Severity.WARNING, "A": Severity.ALERT}


def _spec(severity: str, source: Component, fields: str, description: str, baseline: str = "") -> KindSpec:
    return KindSpec(_SEVERITY[severity], source, description, frozenset(fields.split()), tuple(baseline.split()))


_NODE, _CORE, _LEDGER, _NETWORK = Component.NODE, Component.CORE, Component.LEDGER, Component.NETWORK
_RUNNER, _CONTROL, _MONITOR, _WEB = Component.RUNNER, Component.CONTROL, Component.MONITOR, Component.WEB
_ALERTS = Component.ALERTS

EVENTS: Final = MappingProxyType(
    {
        EventKind.NODE_STARTED: _spec(
            "N",
            _NODE,
            "version network namespace data_dir pid message_ttl_ms future_skew_ms seen_ttl_ms seen_capacity"
            " require_signatures state_hash",
            "The node has opened its data dir and is ready. The event contains the effective bounds for messages.",
            "node_start",
        ),
        EventKind.NODE_STOPPED: _spec(
            "N",
            _NODE,
            "reason detail clean duration_ms state_hash",
            "The node is stopping. `reason` is absent if the node was asked to stop.",
        ),
        EventKind.NODE_DRAINING: _spec(
            "N",
            _NODE,
            "count timeout_ms",
            "The node is about to end: it makes no bid and starts no run. `count` runs go on or wait. They have"
            " `timeout_ms`.",
        ),
        EventKind.CONFIG_EFFECTIVE: _spec(
            "I",
            _NODE,
            "setting value",
            "A node that listens has started with this setting, which differs from its default. All others have the "
            "defaults of the version that `node_started` names.",
        ),
        EventKind.IDENTITY_CREATED: _spec(
            "N", _NODE, "key_id file", "The data dir had no identity. The node has created a new key."
        ),
        EventKind.JOB_FAILED: _spec(
            "A", _NODE, "job reason detail failures", "A background job ended with an unexpected error."
        ),
        EventKind.CHILD_STARTED: _spec(
            "I",
            _NODE,
            "child pid duration_ms failures detail",
            "A child process of the node works, after `failures` failures in a row.",
        ),
        EventKind.CHILD_FAILED: _spec(
            "A",
            _NODE,
            "child reason detail failures next_try_ms",
            "A child process of the node does not work. The node goes on without it and starts it again at"
            " `next_try_ms`. Further failures in a row are reported"
            " if their reason is another one, or if `failures` is a power of two.",
        ),
        EventKind.CHILD_ENDED: _spec(
            "I",
            _NODE,
            "child pid escalated",
            "A child process has ended because the node does not need it any more, or ends itself.",
        ),
        EventKind.FAULT_CONTAINED: _spec(
            "A",
            _NODE,
            "part reason detail address count",
            "An unexpected error occurred, and the node continues. It has recreated the part, or (`judging`) refused "
            "the message. The message and the traceback are in `quarantine/`.",
        ),
        EventKind.REPLICA_FAILED: _spec(
            "A",
            _NODE,
            "part reason detail address count",
            "An unexpected error occurred while `applying` or `committing`. The node ends, and `listen` restarts it"
            " from the journal. The node refuses `count` messages from then on.",
        ),
        EventKind.NODE_RESTARTED: _spec(
            "A",
            _NODE,
            "detail count",
            "The node was restarted after an unexpected error, for the `count`th time in the window.",
        ),
        EventKind.CLOCK_STEPPED: _spec(
            "A",
            _NODE,
            "step_ms ahead_ms followed detail",
            "The system's clock was changed while the node ran. Deadlines depend on elapsed time, so nothing expires or"
            " re-opens because of it. `detail` says how the node continues.",
        ),
        EventKind.CLOCK_BEHIND: _spec(
            "A",
            _NODE,
            "duration_ms count detail",
            "At the start, the system's clock is `duration_ms` behind the time of the last stored data. Nevertheless"
            " `count` deadlines of this node's seeds have passed.",
        ),
        EventKind.CLOCK_SUSPECT: _spec(
            "A",
            _CORE,
            "detail reason",
            "This node's clock is wrong according to peers or to its own data. The node signs nothing until that "
            "changes.",
        ),
        EventKind.CLOCK_CONFIRMED: _spec(
            "N", _CORE, "", "This node's clock is no longer suspect. The node signs again."
        ),
        EventKind.NODE_WAS_AWAY: _spec(
            "N",
            _NODE,
            "duration_ms count detail",
            "The node was not running for `duration_ms`. Meanwhile `count` deadlines of its seeds have passed.",
        ),
        EventKind.ENVELOPE_CREATED: _spec(
            "I",
            _CORE,
            "envelope_id kind seq namespace seed_id",
            "This node wrote an envelope into its own feed. The envelope is durable.",
            "seed_published bid_submitted claim_created",
        ),
        EventKind.ENVELOPE_ACCEPTED: _spec(
            "I", _CORE, _ENVELOPE, "An envelope of a peer was verified and applied, and is durable.", "store_sync"
        ),
        EventKind.ENVELOPE_IGNORED: _spec(
            "D", _CORE, _ENVELOPE + " reason count", "An envelope had no effect and is harmless: duplicate, expired, …"
        ),
        EventKind.ENVELOPE_REJECTED: _spec(
            "W",
            _CORE,
            _ENVELOPE + " reason detail count",
            "An envelope is hostile or broken. It counts against the address that it came from. `count` is given where"
            " a libp2p peer sent several within a second.",
        ),
        EventKind.ENVELOPE_PARKED: _spec(
            "D",
            _CORE,
            _ENVELOPE + " reason",
            "An envelope that was not requested waits for an earlier part of its feed or for its parent.",
        ),
        EventKind.ENVELOPE_DROPPED: _spec(
            "N",
            _CORE,
            _ENVELOPE + " reason count",
            "A parked envelope was dropped, because its waiting time was over or there was no room.",
        ),
        EventKind.SEED_CHANGED: _spec(
            "N",
            _CORE,
            "seed_id status status_before attempt author worker claim_id result_id envelope_id reason title bid_id"
            " price auto",
            "The status or the attempt of a seed changed. The first event of a seed has its `title`. `bid_id` and "
            "`price` are those of a bid of this node that was chosen, as long as that choice counts.",
        ),
        EventKind.BID_DECLINED: _spec(
            "N",
            _CORE,
            "seed_id worker reason detail price address",
            "A worker says why it does not bid for this node's seed. `price` is the least for which it would. `detail`"
            " is a reason that this version does not know.",
        ),
        EventKind.CLAIM_OVERDUE: _spec(
            "A",
            _CORE,
            "seed_id claim_id worker attempt status_before reason",
            "A claim of this node's seed had no result in time, and the node has forfeited it. `status_before` shows"
            " whether the worker had begun.",
        ),
        EventKind.WORKER_FAILED: _spec(
            "W",
            _CORE,
            "seed_id claim_id worker attempt detail",
            "A worker said that it, and not the task, has failed; the node has forfeited the attempt.",
        ),
        EventKind.SETTLEMENT_OVERDUE: _spec(
            "A",
            _CORE,
            "seed_id publisher worker result_id settle_by reason",
            "A result of a task of this node was not settled in time. Every node shows that. Reported once per start.",
        ),
        EventKind.SETTLEMENT_MISSING: _spec(
            "W",
            _CORE,
            "seed_id publisher worker result_id settle_by reason",
            "A publisher did not settle a result of this node in time. Reported once per start.",
        ),
        EventKind.SEED_RECLAIMED: _spec(
            "N", _CORE, "seed_id worker attempt", "After a forfeit the node claimed the next bid automatically."
        ),
        EventKind.BID_AWARDED: _spec(
            "N",
            _CORE,
            "seed_id bid_id worker price rule attempt",
            "By the terms of a purchase or by `auto_award`, the node claimed a bid.",
        ),
        EventKind.AWARD_WAITS: _spec(
            "I", _CORE, "seed_id reason detail next_try_ms", "No bid is claimed yet: `reason` says why."
        ),
        EventKind.RESULT_JUDGED: _spec(
            "N",
            _CORE,
            "seed_id result_id worker judgement status reason detail",
            "The node judged a result. `status` is how it settled the task; absent if its operator has to.",
        ),
        EventKind.PURCHASE_RETRIED: _spec(
            "N", _CORE, "seed_id attempt reason", "The node published the task of `seed_id` once more, as a new one."
        ),
        EventKind.PURCHASE_GIVEN_UP: _spec(
            "W", _CORE, "seed_id reason detail", "The node withdrew a task of a purchase: no bid will be claimed."
        ),
        EventKind.PURCHASE_ENDED: _spec(
            "I", _CORE, "seed_id status reason", "The node does nothing more with a task by itself."
        ),
        EventKind.BID_QUOTED: _spec(
            "I", _CORE, "seed_id author price", "By `auto_bid` the node bid for a task of `author`."
        ),
        EventKind.TASK_DECLINED: _spec(
            "D",
            _CORE,
            "seed_id author price reason detail",
            "By `auto_bid` the node did not bid for a task. With the reason `price`, `price` is the least that would"
            " do. A task is told again only when the reason changes.",
        ),
        EventKind.FORK_DETECTED: _spec(
            "A",
            _CORE,
            "author namespace seq envelope_id other_id address",
            "An author signed two envelopes for one place of its feed. The feed ends before that place. Both envelopes"
            " are kept as proof.",
        ),
        EventKind.FEED_ENDED: _spec(
            "A",
            _CORE,
            "seq envelope_id other_id reason detail",
            "This node's feed has ended, because its key signed two envelopes for `seq`. The node writes nothing more.",
        ),
        EventKind.SEEN_PRUNED: _spec(
            "D", _CORE, "expired evicted count", "The window of seen messages was pruned. `count` entries remain."
        ),
        EventKind.GAP_DETECTED: _spec(
            "I", _CORE, "author namespace first_seq last_seq address", "Envelopes of a feed are missing."
        ),
        EventKind.GAP_REQUESTED: _spec(
            "D", _CORE, "author namespace first_seq last_seq address attempt", "The node requested missing envelopes."
        ),
        EventKind.GAP_FILLED: _spec(
            "I", _CORE, "author namespace first_seq last_seq duration_ms", "A gap in a feed is closed."
        ),
        EventKind.SYNC_SERVED: _spec(
            "D",
            _CORE,
            "author namespace first_seq entries bytes address",
            "The node sent a peer envelopes that it lacked.",
        ),
        EventKind.FEED_ADOPTED: _spec(
            "N",
            _CORE,
            "namespace first_seq last_seq address",
            "After a recovery, this node fetched the end of its own feed from a peer before it wrote to the feed.",
        ),
        EventKind.FEED_AT_RISK: _spec(
            "A",
            _CORE,
            "namespace last_seq reason detail",
            "This node may lack envelopes that it has sent. It writes none until a peer reports how far its feed goes.",
        ),
        EventKind.FEED_CONFIRMED: _spec(
            "N",
            _CORE,
            "namespace last_seq address",
            "A peer has confirmed the end of this node's own feed. The node writes to the feed again.",
        ),
        EventKind.FEED_UNCONFIRMED: _spec(
            "W",
            _CORE,
            "namespace last_seq outcome",
            "At the start no peer reported how far this node's own feed goes. The node `writes`, or `waits` for an "
            "answer.",
        ),
        EventKind.FEED_MARK_FAILED: _spec(
            "W",
            _CORE,
            "detail",
            "The node cannot note outside of the data dir how far its own feed goes.",
        ),
        EventKind.FEED_RISK_ACCEPTED: _spec(
            "A",
            _CORE,
            "namespace last_seq detail",
            "The operator allowed the node to write to its feed after a recovery without any peer.",
        ),
        EventKind.LISTENER_STARTED: _spec(
            "N",
            _NETWORK,
            "transport address bytes",
            "A listening address is bound. `bytes` is the receive buffer for datagrams that the system granted.",
            "udp_listener_init udp_sender_init",
        ),
        EventKind.LISTENER_FAILED: _spec(
            "A", _NETWORK, "transport address reason detail", "A listening address cannot be bound or was lost."
        ),
        EventKind.DATAGRAM_RECEIVED_BAD: _spec(
            "W",
            _NETWORK,
            "transport address bytes reason detail count",
            "A datagram could not be read: it was empty, oversized or malformed. With transport `p2p`: a connection or"
            " a stream of a peer broke the rules.",
        ),
        EventKind.DATAGRAM_DROPPED: _spec(
            "W",
            _NETWORK,
            "transport address bytes reason direction count",
            "Datagrams were dropped unread or unsent, because of a rate limit, a blocked source or a full queue.",
        ),
        EventKind.FRAGMENT_DROPPED: _spec(
            "N",
            _NETWORK,
            "address bytes reason count",
            "Fragments were dropped: they were malformed or over a bound, or the others did not come in time.",
        ),
        EventKind.SOURCE_BLOCKED: _spec(
            "W", _NETWORK, "address reason duration_ms count", "The node ignores an address for a while after misuse."
        ),
        EventKind.ANNOUNCE_SENT: _spec(
            "D",
            _NETWORK,
            "transport envelope_id kind seed_id bytes targets",
            "An envelope of this node was sent.",
            "udp_broadcast",
        ),
        EventKind.SEND_FAILED: _spec(
            "W",
            _NETWORK,
            "transport address envelope_id bytes reason detail failures",
            "Sending failed. Durable envelopes stay and are sent again.",
        ),
        EventKind.SEND_RECOVERED: _spec(
            "N", _NETWORK, "transport address failures duration_ms", "Sending works again after failures."
        ),
        EventKind.PEER_CONFIRMED: _spec(
            "I", _NETWORK, "transport address peer", "A peer proved that it owns its node id and address."
        ),
        EventKind.PEER_FOUND: _spec(
            "N",
            _NETWORK,
            "transport address peer",
            "A peer is there: it is heard for the first time, again after it was lost, or with another node id.",
        ),
        EventKind.PEER_LOST: _spec(
            "N",
            _NETWORK,
            "transport address peer reason duration_ms",
            "A peer was silent for `duration_ms` (`timeout`), or there was no room for it (`replaced`). The node "
            "keeps a silent peer for 15 minutes.",
        ),
        EventKind.PEER_MOVED: _spec(
            "N", _NETWORK, "name address_before address", "A configured host name resolves to another address."
        ),
        EventKind.PEER_REFUSED: _spec(
            "W",
            _NETWORK,
            "address reason detail",
            "The node refuses messages of a configured peer, for a Reason that it has not reported for this peer "
            "before.",
        ),
        EventKind.PEERS_FILE_BAD: _spec(
            "W",
            _NETWORK,
            "file detail",
            "The file of remembered peers could not be used. The node continues without it.",
        ),
        EventKind.GOSSIP_UNPUBLISHED: _spec(
            "N",
            _NETWORK,
            "envelope_id kind reason outcome",
            "No libp2p peer could be given an envelope: none is connected, or all queues are full. Sync brings it. "
            "With outcome `udp` it was also sent to `dht_udp_fallback`.",
        ),
        EventKind.BOOTSTRAP_FAILED: _spec(
            "W",
            _NETWORK,
            "address reason detail failures",
            "A configured libp2p peer could not be reached. The node tries again, with growing pauses.",
        ),
        EventKind.BOOTSTRAP_SET_ASIDE: _spec(
            "W",
            _NETWORK,
            "address reason detail failures",
            "A configured libp2p peer could not be reached again and again. The node tries it seldom now and dials "
            "remembered peers instead.",
        ),
        EventKind.LISTENER_FALLBACK: _spec(
            "W",
            _NETWORK,
            "address detail",
            "A port for libp2p is in use, and `dht_listen_fallback` is set, so the node listens on a free port.",
        ),
        EventKind.TOPIC_UNKNOWN: _spec(
            "N",
            _NETWORK,
            "peer topic",
            "A libp2p peer subscribes to a topic of Crabnet that this node does not know: of another version or "
            "namespace. Each peer and topic is reported once.",
        ),
        EventKind.STRANGERS_REFUSED: _spec(
            "N",
            _NETWORK,
            "address detail count",
            "Connections to a private network (`dht_network_key_file`) from which the key was not shown. The node has "
            "closed them without saying anything of itself. There is at most one such event a second. `count` is how "
            "many there were, `address` and `detail` are those of the last one.",
        ),
        EventKind.RUN_STARTED: _spec(
            "N",
            _RUNNER,
            "seed_id claim_id run_id attempt timeout_ms",
            "A command is about to run. The start is durable.",
        ),
        EventKind.RUN_FINISHED: _spec(
            "N",
            _RUNNER,
            "seed_id claim_id run_id result_id exit_code signal timed_out duration_ms cpu_ms bytes truncated"
            " cause limits_hit memory_peak_bytes sandbox profile failed",
            "A command ended, and its result is durable. `bytes` counts its whole output. Events never contain output."
            " `failed` is `task` or `worker`; it is absent if the command succeeded.",
            "task_result_generated",
        ),
        EventKind.RUN_REFUSED: _spec(
            "W", _RUNNER, "seed_id claim_id run_id result_id reason detail", "The runner's policy refused a command."
        ),
        EventKind.RUN_INTERRUPTED: _spec(
            "A",
            _RUNNER,
            "seed_id claim_id run_id reason",
            "A run had begun when the node ended. The node does not repeat it.",
        ),
        EventKind.RUN_TIMED_OUT: _spec(
            "A",
            _RUNNER,
            "seed_id claim_id run_id timeout_ms duration_ms signal escalated",
            "A command was terminated because of its timeout.",
        ),
        EventKind.RUNS_PAUSED: _spec(
            "N", _RUNNER, "count", "The operator has paused the runs: none starts any more. `count` runs are waiting."
        ),
        EventKind.RUNS_RESUMED: _spec("N", _RUNNER, "count", "Runs may start again. `count` runs were waiting."),
        EventKind.RUN_QUEUED: _spec(
            "I", _RUNNER, "seed_id claim_id count", "A run waits until others end. `count` runs are waiting."
        ),
        EventKind.RUN_CANCELLED: _spec(
            "W",
            _RUNNER,
            "seed_id claim_id run_id reason status exit_code signal duration_ms cpu_ms bytes",
            "A waiting or begun run was ended early, or its result came too late to count. The operator ended it"
            " (`run_cancelled`), the node stopped (`node_stopping`), or the claim is over (`claim_over`, with the"
            " seed's `status`). Without a `run_id` the run had not begun. The node sends no result for a claim that is"
            " over.",
        ),
        EventKind.RUN_RENEWED: _spec(
            "I",
            _CORE,
            "seed_id claim_id run_id worker attempt count",
            "The worker reports that a run continues, for the `count`th time.",
        ),
        EventKind.RUN_SILENT: _spec(
            "A",
            _CORE,
            "seed_id claim_id run_id worker attempt lease_ms duration_ms",
            "The worker sent nothing about the run of this node's seed within the lease. Reported once per run."
            " `duration_ms` is the time since its last message.",
        ),
        EventKind.RUN_UNSANDBOXED: _spec(
            "A",
            _RUNNER,
            "seed_id claim_id run_id detail",
            "A command runs without a sandbox, as the operator has configured it.",
        ),
        EventKind.SANDBOX_READY: _spec(
            "I",
            _RUNNER,
            "sandbox profile duration_ms count detail",
            "The self-test at the start found a sandbox that works. `count` leftovers of earlier processes were "
            "removed.",
        ),
        EventKind.SANDBOX_OFF: _spec(
            "A",
            _RUNNER,
            "sandbox profile duration_ms count detail",
            "`runner_sandbox = none`: tasks have the rights of this node's user.",
        ),
        EventKind.SANDBOX_UNAVAILABLE: _spec(
            "A",
            _RUNNER,
            "sandbox profile duration_ms count detail",
            "The self-test found no sandbox that works. This node runs no tasks.",
        ),
        EventKind.LEDGER_RECOVERED: _spec(
            "I",
            _LEDGER,
            "clean outcome file offset bytes lsn replayed state_hash duration_ms detail",
            "The ledger was opened. The severity is `alert` if anything but the clean path was taken.",
        ),
        EventKind.LEDGER_POISONED: _spec(
            "A",
            _LEDGER,
            "reason operation file detail",
            "A write, fsync or rename failed. The node acknowledges nothing more and stops.",
        ),
        EventKind.CHECKPOINT_WRITTEN: _spec(
            "I", _LEDGER, "lsn bytes duration_ms state_hash", "A checkpoint was written and read back."
        ),
        EventKind.CHECKPOINT_FAILED: _spec("A", _LEDGER, "lsn reason detail", "A checkpoint could not be written."),
        EventKind.DISK_LOW: _spec(
            "W",
            _LEDGER,
            "free_bytes reserve_bytes",
            "The disk is nearly full. If less than the reserve is free, the node stops.",
        ),
        EventKind.INDEX_DAMAGED: _spec(
            "W", _LEDGER, "file detail", "The index of the journal was damaged while the node ran. No data is lost."
        ),
        EventKind.INDEX_REBUILT: _spec(
            "N",
            _LEDGER,
            "file entries detail",
            "An index is rebuilt: that of the journal from the journal, that of the events from the event files.",
        ),
        EventKind.CONTROL_REFUSED: _spec(
            "W",
            _CONTROL,
            "operation reason detail",
            "A request on the control socket was refused before it was processed.",
        ),
        EventKind.COMMAND_REFUSED: _spec(
            "N", _CONTROL, "operation reason seed_id detail", "A rule refused a command of the operator."
        ),
        EventKind.TOKEN_CREATED: _spec(
            "N",
            _CONTROL,
            "token_name scope expires_at",
            "A token for the HTTP door was made.",
        ),
        EventKind.TOKEN_REVOKED: _spec("N", _CONTROL, "token_name", "A token was revoked, or a login ended."),
        EventKind.WEB_LINK_MADE: _spec(
            "N", _CONTROL, "token_name", "A login link for the web page was made. It is good once, for a minute."
        ),
        EventKind.WEB_LOGIN: _spec(
            "N", _CONTROL, "token_name scope expires_at", "A browser has logged in with a link, and got a token."
        ),
        EventKind.WEB_AUTH_FAILED: _spec(
            "W",
            _WEB,
            "address reason count",
            "Secrets or codes of an address were not accepted. With `rate_limited` the address has failed so often that"
            " it must wait.",
        ),
        EventKind.WEB_CLIENT_DROPPED: _spec(
            "N", _WEB, "address reason count", "The web process ended connections, for example of slow readers."
        ),
        EventKind.WEB_OVERLOADED: _spec(
            "W", _WEB, "address reason count", "The web process refused requests because it has too many."
        ),
        EventKind.WEB_REQUEST_FAILED: _spec(
            "A", _WEB, "address reason count", "An unexpected error occurred in the web process. It continues."
        ),
        EventKind.ALERT_SENT: _spec(
            "I",
            _ALERTS,
            "target event_id count failures",
            "A target took a message about `count` alerts, after `failures` tries that failed.",
        ),
        EventKind.ALERT_UNDELIVERED: _spec(
            "W",
            _ALERTS,
            "target event_id count reason detail failures",
            "A message about `count` alerts was given up, because no try within `alert_retry_s` has succeeded. This"
            " event is never sent as an alert.",
        ),
        EventKind.ALERT_TARGET_UNSERVED: _spec(
            "W", _ALERTS, "target reason detail", "No alert is sent to a target, because something is not installed."
        ),
        EventKind.EVENTS_DROPPED: _spec(
            "W",
            _MONITOR,
            "count lost",
            "Events were dropped because their queue was full: `count` in total, of which `lost` were alerts.",
        ),
        EventKind.EVENTS_LEFT_OUT: _spec(
            "N",
            _MONITOR,
            "event reason count",
            "There were more events of one kind and Reason per second than are written. `count` of them were only "
            "counted.",
        ),
        EventKind.EVENTS_REPAIRED: _spec(
            "W",
            _MONITOR,
            "file offset bytes action detail",
            "The event file ended in bytes that are not an event, and the node has cut them or kept them under another"
            " name. Or another program has moved, truncated or extended the file. Events go to the usual path again.",
        ),
        EventKind.EVENTS_WRITE_FAILED: _spec(
            "A",
            _MONITOR,
            "failures detail",
            "Events could not be written for a while. This event is written when writing works again. The node never "
            "waits.",
        ),
        EventKind.EVENTS_LAGGING: _spec(
            "A",
            _MONITOR,
            "count bytes oldest_ms detail",
            "For `lag_hold_ms`, the unwritten events were more than `events_lag_percent` of the queue, or older than "
            "`events_lag_ms`. `count` events of about `bytes` bytes wait. Reported once, until `events_recovered`.",
        ),
        EventKind.EVENTS_RECOVERED: _spec(
            "N", _MONITOR, "count duration_ms", "`events_lagging` is over. It lasted for `duration_ms`."
        ),
        EventKind.SYNC_LAGGING: _spec(
            "A",
            _NETWORK,
            "count oldest_ms address peer detail",
            "For `lag_hold_ms`, more than `sync_lag_envelopes` envelopes were missing, or one for longer than "
            "`sync_lag_ms`. `address` holds most of the `count` that are missing. Reported once, until "
            "`sync_recovered`.",
        ),
        EventKind.SYNC_RECOVERED: _spec(
            "N", _NETWORK, "count duration_ms", "`sync_lagging` is over. It lasted for `duration_ms`."
        ),
        EventKind.SENDING_LAGGING: _spec(
            "A",
            _NETWORK,
            "count oldest_ms targets detail",
            "For `lag_hold_ms`, an envelope has waited for longer than `sending_lag_ms` to be sent. `count` wait, and "
            "`targets` addresses fail. Reported once, until `sending_recovered`.",
        ),
        EventKind.SENDING_RECOVERED: _spec(
            "N", _NETWORK, "count duration_ms", "`sending_lagging` is over. It lasted for `duration_ms`."
        ),
    }
)
"""The registry of all kinds of events."""
