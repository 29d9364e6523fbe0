"""The one table of knobs: the fields of ``Settings``.

Flags, environment names, TOML keys, ``crabnet config show`` and docs/CONFIGURATION.md derive from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from crabnet import limits
from crabnet.errors import Reason, UsageError
from crabnet.settings.kinds import (
    OFF,
    AddressKind,
    BoolKind,
    ChoiceKind,
    IntKind,
    ListenKind,
    ListKind,
    NumberKind,
    PathKind,
    SecretKind,
    TextKind,
    WebAddressKind,
    Wrong,
    expand_home,
)
from crabnet.settings.knob import Knob, Row, knob_field
from crabnet.settings.multiaddr import PeerAddressKind, parse_multiaddr
from crabnet.settings.schedule import ScheduleKind
from crabnet.settings.secret_kinds import CommandLineKind, SecretsKind, UrlKind

MIB: Final = 1024 * 1024
DAY_S: Final = 24 * 3600
LIMITS_GROUP: Final = "limits"
"""The group of knobs that limit what others can do here. The node prints their values at every start."""
TARGETS_MAX: Final = 256
"""Highest number of configured targets of one node."""
EVENTS_FILE_NAME: Final = "events.ndjson"


_PATHS: Final = (
    "state_dir",
    "monitor_events",
    "runner_workdir",
    "runner_workdir_root",
    "web_socket",
    "web_tls_cert",
    "web_tls_key",
    "alert_urls_file",
    "dht_network_key_file",
)
_ADDRESSES: Final = ListKind(PeerAddressKind(port_min=1), TARGETS_MAX)
_LISTENING: Final = ListenKind(PeerAddressKind(port_min=0), limits.LISTEN_ADDRESSES_MAX)
_TOPICS: Final = ListKind(
    TextKind(
        64,
        r"(?:v[0-9]{1,4}/)?(?:tasks|work|talk)|baseline",
        "tasks, work or talk, with or without a version before it, or baseline",
    ),
    16,
)
_COMMANDS: Final = ListKind(TextKind(255, r"[^\s,]+", "characters other than spaces and commas"), 256)
_BEFORE_URL: Final = r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+"
"""Between two URLs. A comma inside of a URL belongs to it."""
_NAMES: Final = ListKind(TextKind(255, r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and `_`"), 256)


_NODE_IDS: Final = ListKind(TextKind(limits.NODE_ID_CHARS_MAX, r"[A-Za-z0-9]+", "letters and digits"), 1_024)


@dataclass(frozen=True)
class Settings:
    """Effective configuration of a node. Construction checks the values and raises UsageError (INVALID_CONFIG or
    UNAVAILABLE).

    Paths become absolute: a relative ``data_dir`` is relative to the current directory, the others to ``data_dir``.
    """

    # fmt: off
    data_dir: Path = knob_field(Path("~/.crabnet"), Row(  # noqa: RUF009 - a Path is immutable
        PathKind(), "node", "Directory of the node: key, journal, state, events, control socket."))
    alias: str = knob_field("node", Row(
        TextKind(64), "node", "Readable name of this node. It proves nothing to other nodes."))
    namespace: str = knob_field("default", Row(
        TextKind(limits.NAMESPACE_CHARS_MAX, r"[A-Za-z0-9][A-Za-z0-9._-]*",
                 "letters, digits, `.`, `_`, `-`, starting with a letter or digit"),
        "node", "Namespace of the node. A node communicates only with nodes of the same namespace."))
    accept_feed_risk: bool = knob_field(False, Row(
        BoolKind(), "node", "The operator confirms that this data dir is not an outdated copy of one that was used "
        "later. For use after a recovery if the node can reach no peer.", flag_only=True))
    feed_wait_ms: int = knob_field(2_000, Row(
        IntKind(0, 3_600_000), "node", "Longest time that a node with peers waits at its start for one of them to "
        "report how far the node's own feed goes. Meanwhile it does not write.", unit="ms"))
    feed_unanswered: str = knob_field("mark", Row(
        ChoiceKind("mark", "write", "refuse"), "node", "What to do if no peer has answered within `feed_wait_ms`. "
        "`mark`: write if the mark in `state_dir` agrees with the data dir. `write`: write. `refuse`: write nothing "
        "until a peer answers."))
    state_dir: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "node", "Directory outside of the data dir in which the node notes how far its own feed goes. "
        "With this mark it detects a data dir that was restored from an older copy. Unset: `$XDG_STATE_HOME/crabnet`, "
        "or `~/.local/state/crabnet`."))
    lock_wait_ms: int = knob_field(30_000, Row(
        IntKind(0, 3_600_000), "node", "How long a one-shot command, or a node that starts, waits until other commands "
        "release the data dir.", unit="ms"))
    control_timeout_ms: int = knob_field(10_000, Row(
        IntKind(1, 3_600_000), "node", "How long a command waits for the running node's answer. `seed run` waits "
        "for the task instead.", unit="ms"))

    network: str = knob_field("udp", Row(
        ChoiceKind("udp", "dht", "udp,dht", "dht,udp"), "network", "Transports: datagrams (`udp`), libp2p (`dht`, with "
        "the extra `dht`), or both. A node with both is a bridge between the two networks."))
    listen_addr: str = knob_field("0.0.0.0:9012", Row(
        _LISTENING, "network", "Addresses to receive on. `host:port` means UDP, and TCP for libp2p. A multiaddr such "
        "as `/ip4/0.0.0.0/tcp/9012` is for libp2p only; beside one, `host:port` means only UDP if the node uses UDP. "
        "Port 0 means any free port. With UDP, `[::]` serves IPv4 as well as IPv6."))
    announce_addrs: tuple[str, ...] = knob_field(("255.255.255.255:9012",), Row(
        _ADDRESSES, "network", "UDP addresses to which the node sends envelopes: broadcast addresses or peers. A "
        "multiaddr is an address at which other libp2p nodes can reach this one, such as that of a router that "
        "forwards a port; it is told to them instead of the addresses that the node finds by itself.",
        flag="--announce-addr"))
    bootstrap_peers: tuple[str, ...] = knob_field((), Row(
        _ADDRESSES, "network", "Further peers. The node sends envelopes to them and requests missing envelopes from "
        "them. `host:port` is for UDP and libp2p; a multiaddr, or `/dnsaddr/NAME`, is for libp2p only."))
    dht_listen_fallback: bool = knob_field(False, Row(
        BoolKind(), "network", "If a port for libp2p is in use, listen on a free one instead of failing."))
    dht_publish: tuple[str, ...] = knob_field(("tasks", "work", "talk"), Row(
        _TOPICS, "network", "Topics to which the node publishes. `tasks` means `crabnet/v2/<namespace>/tasks`, "
        "`v1/tasks` that of another version, `baseline` the topic of baseline peers. Empty: the node only observes."))
    dht_subscribe: tuple[str, ...] = knob_field(("tasks", "work", "talk"), Row(
        _TOPICS, "network", "Topics that the node reads, named as in `dht_publish`."))
    dht_rendezvous: str = knob_field("auto", Row(
        ChoiceKind("auto", "server", "client", "off"), "network", "How the node takes part in the distributed hash "
        "table in which nodes of a namespace find each other. `server` keeps entries for others, `client` only asks, "
        "`auto` is a server while others can reach this node."))
    dht_mdns: bool = knob_field(True, Row(
        BoolKind(), "network", "Find libp2p peers on the local network by multicast DNS."))
    dht_relay: str = knob_field("client", Row(
        ChoiceKind("off", "client", "server"), "network", "`client`: be reachable through relays while others cannot "
        "reach this node directly, and connect directly where both routers allow it. `server`: also be a relay for "
        "others; that takes a public address and bandwidth."))
    dht_network_key_file: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "network", "File with the key of a private network: the line `/key/swarm/psk/1.0.0/`, the line "
        "`/base16/`, and 64 hexadecimal digits. Only nodes with the same key connect. Nobody else may read the file."))
    dht_udp_fallback: tuple[str, ...] = knob_field((), Row(
        ListKind(AddressKind(port_min=1), TARGETS_MAX), "network", "UDP addresses to which a node without `udp` in "
        "`network` sends envelopes that it could not publish, because no peer is connected or all queues are full."))
    udp_receive_buffer_bytes: int = knob_field(limits.UDP_RECEIVE_BUFFER_BYTES, Row(
        IntKind(4_096, 1024 * MIB), "network", "Socket receive buffer to request from the kernel (SO_RCVBUF).",
        unit="bytes"))
    sync_interval_ms: int = knob_field(1_000, Row(
        IntKind(10, 3_600_000), "network", "Time between two announcements of the envelopes that this node holds.",
        unit="ms"))
    relay_fanout: int = knob_field(limits.RELAY_FANOUT_DEFAULT, Row(
        IntKind(0, limits.PEERS_MAX), "network", "Number of neighbours to which this node relays a live envelope of "
        "another node. Neighbours that receive it by another way are left out. With 0 the node relays nothing, and "
        "envelopes spread only by sync.", unit="neighbours"))

    restarts_max: int = knob_field(5, Row(
        IntKind(0, 1_000), "node", "How often within `restarts_window_s` `listen` restarts the node after an "
        "unexpected error. After that it ends with exit code 10. 0 means that it never restarts the node."))
    restarts_window_s: int = knob_field(600, Row(
        IntKind(1, DAY_S), "node", "Time window in which restarts are counted.", unit="s"))
    verify_process: bool = knob_field(True, Row(
        BoolKind(), "node", "Check signatures in a separate process while many envelopes arrive, if the machine has "
        "a second processor. The node starts this process when needed. It takes about 20 MB."))

    udp_broadcasts_per_sec: int = knob_field(1_000, Row(
        IntKind(0, 1_000_000), "limits", "Most datagrams that the udp transport sends per second. 0 means no limit.",
        unit="1/s"))
    dht_broadcasts_per_sec: int = knob_field(500, Row(
        IntKind(0, 1_000_000), "limits", "Most messages that the dht transport publishes per second. 0 means no limit.",
        unit="1/s"))
    udp_datagrams_per_sec: int = knob_field(10_000, Row(
        IntKind(0, 10_000_000), "limits", "Datagrams that the node reads per second from all sources together. Each "
        "proven peer has a small share that does not count towards this limit. 0 means no limit.", unit="1/s"))
    udp_peer_datagrams_per_sec: int = knob_field(8_000, Row(
        IntKind(0, 10_000_000), "limits", "Datagrams per second from one peer that is configured or has proved its "
        "address. The node drops further datagrams but does not block the peer. 0 means no limit.", unit="1/s"))
    udp_strangers_per_sec: int = knob_field(4_000, Row(
        IntKind(0, 10_000_000), "limits", "Datagrams per second from all other sources together. 0 means no limit.",
        unit="1/s"))
    udp_source_fast_fail_threshold_per_sec: int = knob_field(2_000, Row(
        IntKind(0, 10_000_000), "limits", "Datagrams per second from one source address after which the node blocks "
        "it. Addresses of proven peers are exempt. 0 means no limit.", unit="1/s"))
    udp_source_rejects_per_sec: int = knob_field(200, Row(
        IntKind(0, 10_000_000), "limits", "Hostile or broken messages per second from one source address after which "
        "the node blocks it. A proven peer is limited to a very low rate instead. 0 means no limit.", unit="1/s"))
    udp_source_block_ms: int = knob_field(3_000, Row(
        IntKind(0, DAY_S * 1000), "limits", "How long the node blocks such a source. The time doubles with each "
        "repetition. 0 means that the node only drops what exceeds the rate.", unit="ms"))
    udp_source_block_ms_max: int = knob_field(300_000, Row(
        IntKind(0, DAY_S * 1000), "limits", "Longest block of a source.", unit="ms"))
    author_envelopes_per_sec: int = knob_field(400, Row(
        IntKind(0, 10_000_000), "limits", "Envelopes per second that the node accepts from one known author. A burst "
        "may have ten times as many. The rest comes later by sync. 0 means no limit.", unit="1/s"))
    author_bytes_per_sec: int = knob_field(512 * 1024, Row(
        IntKind(0, 1024 * MIB), "limits", "The same as `author_envelopes_per_sec`, in bytes.", unit="bytes/s"))
    newcomer_envelopes_per_sec: int = knob_field(200, Row(
        IntKind(0, 10_000_000), "limits", "Envelopes per second that the node accepts from all authors together that "
        "it does not know yet. A burst may have ten times as many. One author gets at most half of it. 0 means no "
        "limit.",
        unit="1/s"))
    newcomer_bytes_per_sec: int = knob_field(256 * 1024, Row(
        IntKind(0, 1024 * MIB), "limits", "The same as `newcomer_envelopes_per_sec`, in bytes.", unit="bytes/s"))
    history_envelopes_per_sec: int = knob_field(20_000, Row(
        IntKind(0, 10_000_000), "limits", "Envelopes per second that the node accepts because it requested them from "
        "proven peers. One author gets 50000 at once and then a tenth of the rate. 0 means no limit.", unit="1/s"))
    author_open_seeds_max: int = knob_field(limits.OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT, Row(
        IntKind(1, 2**31), "limits", "Seeds of one author that may be open at the same time. Further seeds are void. "
        "**All nodes of a namespace must use the same value**, or their states differ permanently.", unit="seeds"))
    author_bids_per_seed_max: int = knob_field(limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT, Row(
        IntKind(1, 2**31), "limits", "Bids of one author on one seed. Further bids are void. **All nodes of a "
        "namespace must use the same value**, or their states differ permanently.", unit="bids"))
    events_per_reason_per_sec: int = knob_field(1_000, Row(
        IntKind(0, 1_000_000), "limits", "Events per second for each kind and Reason of refusal or drop. Further "
        "events are only counted, and one event reports their number. 0 means no limit.", unit="1/s"))
    sync_fanout: int = knob_field(limits.SYNC_FANOUT_DEFAULT, Row(
        IntKind(1, 1_024), "network", "Neighbours to which the node announces at each sync interval what it holds. "
        "The other neighbours follow at the next intervals.", unit="peers"))
    sync_serve_bytes_per_s: int = knob_field(limits.SYNC_SERVE_BYTES_PER_S_DEFAULT, Row(
        IntKind(0, 1024 * MIB), "network", "Most bytes of stored envelopes that the node sends per second to all "
        "neighbours together that lack them. 0 means no limit.", unit="bytes/s"))
    sync_serve_peer_bytes_per_s: int = knob_field(limits.SYNC_SERVE_PEER_BYTES_PER_S_DEFAULT, Row(
        IntKind(0, 1024 * MIB), "network", "The same as `sync_serve_bytes_per_s`, for each single neighbour.",
        unit="bytes/s"))
    sync_fetch_bytes_per_s: int = knob_field(limits.SYNC_FETCH_BYTES_PER_S_DEFAULT, Row(
        IntKind(0, 1024 * MIB), "network", "Most bytes of missing envelopes that the node fetches from neighbours per "
        "second. 0 means no limit.", unit="bytes/s"))
    peer_silence_ms: int = knob_field(limits.PEER_SILENCE_MS_DEFAULT, Row(
        IntKind(1_000, limits.PEER_SILENCE_MS_MAX), "network", "How long a peer may be silent until the node reports "
        "it as lost. The time doubles each time that the peer returns. The node keeps a silent peer for 15 minutes.",
        unit="ms"))
    peers_remembered: int = knob_field(limits.PEERS_REMEMBERED_DEFAULT, Row(
        IntKind(0, limits.PEERS_REMEMBERED_MAX), "network", "Peers that the node keeps in the file `peers.json` and "
        "contacts at its next start. 0 keeps none.", unit="peers"))

    require_signatures: bool = knob_field(True, Row(
        BoolKind(), "protocol", "Refuse envelopes without a signature. With false, the node accepts envelopes of the "
        "old protocol and marks them as unauthenticated."))
    legacy_peers: bool = knob_field(False, Row(
        BoolKind(), "protocol", "Send only what peers of the old protocol can read: five kinds of envelopes, each "
        "whole in one datagram. Lost envelopes are then not sent again, and no node learns that a run has started. Do "
        "not use it to reach nodes of this version."))
    message_ttl_s: int = knob_field(43_200, Row(
        IntKind(1, 365 * DAY_S), "protocol", "Age up to which the node accepts a live envelope.", unit="s",
        former_env="CRABNET_MESSAGE_TTL_SECONDS"))
    future_skew_s: int = knob_field(300, Row(
        IntKind(0, DAY_S), "protocol", "How far the time of an envelope may be ahead of this node's clock.", unit="s",
        former_env="CRABNET_FUTURE_SKEW_SECONDS"))
    seen_messages_ttl_s: int = knob_field(86_400, Row(
        IntKind(1, 730 * DAY_S), "protocol", "How long the node remembers the id of an envelope. It must be at "
        "least `message_ttl_s` plus `future_skew_s`; otherwise a replay could be accepted.", unit="s",
        former_env="CRABNET_SEEN_MESSAGES_TTL_SECONDS"))
    seen_messages_capacity: int = knob_field(10_000, Row(
        IntKind(1, limits.SEEN_CAPACITY_MAX), "protocol", "Most envelope ids that the node remembers.", unit="ids"))
    parked_ttl_s: int = knob_field(60, Row(
        IntKind(1, DAY_S), "protocol", "How long an envelope waits for another envelope that it depends on.", unit="s",
        former_env="CRABNET_PARKED_TTL_SECONDS"))
    request_ids_ttl_s: int = knob_field(limits.REQUEST_IDS_TTL_S_DEFAULT, Row(
        IntKind(1, 365 * DAY_S), "node", "How long the node remembers the `request_id` of an operation. A repeated "
        "request within this time gets the first answer and changes nothing.", unit="s"))
    request_ids_max: int = knob_field(limits.REQUEST_IDS_MAX_DEFAULT, Row(
        IntKind(1, 1_000_000), "node", "Most request ids that the node remembers. It forgets the oldest first.",
        unit="ids"))
    refuse_equivocators: bool = knob_field(True, Row(
        BoolKind(), "protocol", "Do not bid on the seeds of an author that has provably forked its feed, and do not "
        "claim its bids. This affects only this node."))
    tell_declines: bool = knob_field(True, Row(
        BoolKind(), "protocol", "Tell publishers why this node does not bid for their tasks. It matters only for nodes "
        "that bid by themselves."))
    execution_grace_s: int = knob_field(30, Row(
        IntKind(0, DAY_S), "protocol", "Time after the execution deadline until the creator forfeits a claim.",
        unit="s", former_env="CRABNET_EXECUTION_GRACE_SECONDS"))
    auto_reclaim: bool = knob_field(False, Row(
        BoolKind(), "protocol", "After a forfeit, claim the next bid automatically: the cheapest bid among the workers "
        "that were chosen least often for this task."))
    auto_reclaim_attempts_max: int = knob_field(3, Row(
        IntKind(1, limits.ATTEMPTS_MAX), "protocol", "Total attempts at a task after which `auto_reclaim` claims no "
        "further bid.", unit="attempts"))
    auto_award: str = knob_field("off", Row(
        ChoiceKind("off", "cheapest", "fastest", "best-history", "first"), "protocol", "Claim a bid on every own task "
        "automatically, up to its reward: how to choose. Purchases choose by their own terms."))
    auto_settle: str = knob_field("off", Row(
        ChoiceKind("off", "auto", "check"), "protocol", "Settle every own task automatically. `check`: only by the "
        "conditions of the task. `auto`: accept a result also if the task has no conditions."))
    clock_check: bool = knob_field(True, Row(
        BoolKind(), "node", "Sign nothing while the clocks of most peers that this node has asked differ from its own "
        "clock by more than `future_skew_s`."))
    clock_follow_ms: int = knob_field(300_000, Row(
        IntKind(0, DAY_S * 1000), "protocol", "Largest step of the system's clock that a running node follows. "
        "It follows gradually. After a larger step the node keeps its own time until it is restarted.", unit="ms"))

    runner_allowed_commands: tuple[str, ...] = knob_field(
        ("echo", "printf", "pwd", "ls", "cat", "sleep", "true", "false", "cd"), Row(
            _COMMANDS, "runner", "Commands that tasks may run. An empty list allows none, `*` allows all."))
    runner_max_command_len: int = knob_field(4_096, Row(
        IntKind(1, limits.COMMAND_CHARS_MAX), "runner", "Longest command that the node runs.", unit="characters"))
    runner_allow_shell_operators: bool = knob_field(False, Row(
        BoolKind(), "runner", "Allow pipes, redirections, substitutions and similar operators in commands. "
        "They bypass the list of allowed commands."))
    runner_workdir: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "runner", "Working directory of tasks. In a sandbox it is read-only. Unset: "
        "`runner_workdir_root` if that is set, else a fresh directory for each run, which is writable and is removed "
        "afterwards."))
    runner_workdir_root: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "runner", "Directory that must contain `runner_workdir`. Symbolic links are followed."))
    runner_max_output_bytes: int = knob_field(131_072, Row(
        IntKind(0, limits.OUTPUT_CHARS_MAX), "runner", "Bytes of stdout, and also of stderr, that a result keeps.",
        unit="bytes"))
    runner_timeout_kill_wait_ms: int = knob_field(1_000, Row(
        IntKind(0, limits.RUNNER_KILL_WAIT_MS_MAX), "runner", "Time between SIGTERM and SIGKILL after a timeout.",
        unit="ms"))
    runner_runs_max: int = knob_field(limits.RUNNER_RUNS_MAX_DEFAULT, Row(
        IntKind(1, limits.RUNNER_RUNS_MAX), "runner", "Commands that run at the same time. Further commands wait.",
        unit="runs"))
    runner_queue_max: int = knob_field(limits.RUNNER_QUEUE_MAX_DEFAULT, Row(
        IntKind(0, limits.RUNNER_QUEUE_MAX), "runner", "Runs that may wait for others to end. The node serves their "
        "publishers in turn. It refuses further runs.", unit="runs"))
    runner_lease_ms: int = knob_field(limits.RUNNER_LEASE_MS_DEFAULT, Row(
        IntKind(100, limits.TIMEOUT_MS_MAX), "runner", "Lease of a run. The node renews it after half of this time, so "
        "that the publisher knows that the run continues. The lease is at least a sixteenth of the task's timeout.",
        unit="ms"))
    runner_drain_ms: int = knob_field(limits.RUNNER_DRAIN_MS_DEFAULT, Row(
        IntKind(0, 3_600_000), "runner", "How long a node that is asked to stop waits for its runs to end. It then "
        "ends the runs that continue, and tells their publishers that this worker failed.", unit="ms"))

    runner_sandbox: str = knob_field("auto", Row(
        ChoiceKind("auto", "bwrap", "landlock", "none"), "runner", "What confines tasks. `auto`: bubblewrap if it "
        "works, else Landlock, else the node runs no task. `none`: tasks of strangers have the rights of the node's "
        "user, and every run raises an alert."))
    runner_profiles: tuple[str, ...] = knob_field(("strict",), Row(
        ListKind(ChoiceKind("strict", "network"), 2), "runner", "Profiles that tasks may run under. The first one is "
        "used for tasks that request none. `strict` has no network, `network` has the network of the host."))
    runner_environment: tuple[str, ...] = knob_field((), Row(
        _NAMES, "runner", "Variables of the node's environment that tasks get, besides `PATH`, `LANG` and `HOME`."))
    runner_memory_bytes: int = knob_field(limits.RUNNER_MEMORY_BYTES_DEFAULT, Row(
        IntKind(32 * MIB, 1024 * 1024 * MIB), "runner", "Memory of a run, including its files in the sandbox.",
        unit="bytes"))
    runner_processes: int = knob_field(limits.RUNNER_PROCESSES_DEFAULT, Row(
        IntKind(1, 32_768), "runner", "Number of processes and threads of a run.", unit="processes"))
    runner_cpu_time_s: int = knob_field(limits.RUNNER_CPU_TIME_S_DEFAULT, Row(
        IntKind(1, 7 * DAY_S), "runner", "Processor time of all processes of a run together.", unit="s",
        former_env="CRABNET_RUNNER_CPU_TIME_SECONDS"))
    runner_cpu_percent: int = knob_field(limits.RUNNER_CPU_PERCENT_DEFAULT, Row(
        IntKind(1, 100_000), "runner", "Processor share that a run may use, if the node can create control "
        "groups. 100 is one processor.", unit="%"))
    runner_file_bytes: int = knob_field(limits.RUNNER_FILE_BYTES_DEFAULT, Row(
        IntKind(4_096, 1024 * 1024 * MIB), "runner", "Largest file that a run may write.", unit="bytes"))
    runner_open_files: int = knob_field(limits.RUNNER_OPEN_FILES_DEFAULT, Row(
        IntKind(limits.RUNNER_OPEN_FILES_MIN, 1_048_576), "runner", "Open files of each process of a run.",
        unit="files"))
    runner_workdir_bytes: int = knob_field(limits.RUNNER_WORKDIR_BYTES_DEFAULT, Row(
        IntKind(MIB, 1024 * 1024 * MIB), "runner", "Size of the fresh working directory of a run.", unit="bytes"))
    runner_tmp_bytes: int = knob_field(limits.RUNNER_TMP_BYTES_DEFAULT, Row(
        IntKind(MIB, 1024 * 1024 * MIB), "runner", "Size of a run's `/tmp`. Its `/dev/shm` has the same size.",
        unit="bytes"))

    runner_files_max: int = knob_field(limits.RUNNER_FILES_MAX, Row(
        IntKind(0, limits.RUNNER_FILES_MAX), "runner", "Files left in a fresh working directory that a result "
        "lists with size and SHA-256. 0 lists none.", unit="files"))

    auto_bid: bool = knob_field(False, Row(
        BoolKind(), "work", "Bid for open tasks of others, for which the settings of this group allow it."))
    auto_run: bool = knob_field(False, Row(
        BoolKind(), "work", "Run the tasks that this node has won."))
    work_price: int = knob_field(0, Row(
        IntKind(0, limits.PRICE_SETTING_MAX), "work", "What each task costs, besides what its time and memory cost."))
    work_price_per_s: float = knob_field(0.0, Row(
        NumberKind(0, 1_000_000), "work", "What each second of a task's timeout costs. The sum is rounded up."))
    work_price_per_mib: float = knob_field(0.0, Row(
        NumberKind(0, 1_000_000), "work", "What each MiB of memory costs that the run may take: the lower of "
        "`runner_memory_bytes` and what the task asks for."))
    work_min_price: int = knob_field(0, Row(
        IntKind(0, limits.PRICE_SETTING_MAX), "work", "Lowest price of a bid. It is never lower than the lowest price "
        "that the task asks for, either."))
    work_schedule: str = knob_field("", Row(
        ScheduleKind(), "work", "When the node bids, in local time. An entry names days (none means every day) and "
        "times (none means the whole day). A time such as `22:00-07:00` ends on the next day. Empty: always. The node "
        "does not bid for a task whose timeout is longer than the rest of the time. It runs what it has won, also "
        "later."))
    work_only: tuple[str, ...] = knob_field((), Row(
        _NODE_IDS, "work", "Node ids of the publishers to work for. Empty: all."))
    work_never: tuple[str, ...] = knob_field((), Row(
        _NODE_IDS, "work", "Node ids of publishers not to work for."))
    work_min_settled: float = knob_field(0.0, Row(
        NumberKind(0, 1), "work", "Least share of its due results that a publisher must have settled in time. One of "
        "whom no result was due yet counts as good."))
    work_unsettled_max: int = knob_field(limits.WORK_UNSETTLED_MAX_DEFAULT, Row(
        IntKind(0, 1_000_000), "work", "Most bids, tasks and unsettled results that the node has at one publisher. It "
        "may have one more for each result that this publisher has settled in time. 0 means no limit.",
        unit="tasks"))
    work_load_max: float = knob_field(0.0, Row(
        NumberKind(0, 1_000), "work", "Load average of the last minute for each processor, above which the node does "
        "not bid. 0 means no limit."))
    work_battery_min: int = knob_field(0, Row(
        IntKind(0, 100), "work", "Charge below which the node does not bid while the machine runs on its battery. "
        "0 means no limit.", unit="%"))
    work_timeout_max_ms: int = knob_field(0, Row(
        IntKind(0, limits.TIMEOUT_MS_MAX), "work", "Longest timeout of tasks for which the node bids. 0 means no "
        "limit.", unit="ms"))

    checkpoint_journal_bytes: int = knob_field(64 * MIB, Row(
        IntKind(4_096, 64 * 1024 * MIB), "storage", "Journal growth after which the node writes a checkpoint.",
        unit="bytes"))
    checkpoint_interval_s: int = knob_field(600, Row(
        IntKind(1, 7 * DAY_S), "storage", "Longest time between two checkpoints while the state changes.", unit="s",
        former_env="CRABNET_CHECKPOINT_INTERVAL_SECONDS"))

    archive_after_s: int = knob_field(7 * DAY_S, Row(
        IntKind(0, 3_650 * DAY_S), "storage", "Time after which seeds that are settled, or were never claimed, move "
        "from memory to the archive. 0 keeps all in memory.", unit="s", former_env="CRABNET_ARCHIVE_AFTER_SECONDS"))

    monitor_events: Path = knob_field(Path("events.ndjson"), Row(  # noqa: RUF009 - a Path is immutable
        PathKind(), "monitor", "File of the monitor events. Its name must be `events.ndjson`. Rotated files are in the "
        "same directory. Default: in the data dir."))
    events_rotate_bytes: int = knob_field(limits.EVENT_FILE_BYTES_MAX_DEFAULT, Row(
        IntKind(4_096, 64 * 1024 * MIB), "monitor", "Size at which the events file is rotated.", unit="bytes"))
    events_rotate_age_s: int = knob_field(limits.EVENT_FILE_AGE_MS_MAX_DEFAULT // 1000, Row(
        IntKind(1, 3_650 * DAY_S), "monitor", "Age at which the events file is rotated.", unit="s",
        former_env="CRABNET_EVENTS_ROTATE_AGE_SECONDS"))
    events_keep_files: int = knob_field(limits.EVENT_FILES_KEPT_DEFAULT, Row(
        IntKind(1, 10_000), "monitor", "Number of rotated events files to keep.", unit="files"))
    events_keep_age_s: int = knob_field(limits.EVENTS_KEPT_MS_DEFAULT // 1000, Row(
        IntKind(0, 3_650 * DAY_S), "monitor", "Age of its last event at which a rotated events file is deleted. 0 "
        "means that files are only deleted because of their number.", unit="s"))

    web_addr: str = knob_field("127.0.0.1:3000", Row(
        WebAddressKind(port_min=0), "web", "Address of the web process: API and health over HTTP. Port 0 means any "
        "free port. `off`: no web process, unless `web_socket` or `metrics_addr` is "
        "set."))
    web_socket: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "web", "Unix socket of the API. Only this user can open it (mode 0600). It needs no token."))
    metrics_addr: str | None = knob_field(None, Row(
        AddressKind(port_min=0), "web", "Address of `/metrics` and the health of the node, apart from `web_addr`. If "
        "it is set, `web_addr` does not serve `/metrics`. Unset: `web_addr` does."))
    web_allowed_hosts: tuple[str, ...] = knob_field((), Row(
        ListKind(TextKind(253, r"[A-Za-z0-9._:-]+", "letters, digits, `.`, `_`, `:`, `-`"), 64), "web",
        "Names by which browsers may reach the web process, besides its address: host names without a port."))
    web_tls_cert: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "web", "Certificate chain (PEM) for HTTPS at `web_addr`."))
    web_tls_key: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "web", "Private key (PEM) of `web_tls_cert`. Unset: it is in the same file."))
    web_connections_max: int = knob_field(limits.WEB_CONNECTIONS_MAX_DEFAULT, Row(
        IntKind(1, 65_536), "web", "Open connections to the web process. Beyond that it closes the connection that "
        "has been idle longest.", unit="connections"))
    web_address_connections_max: int = knob_field(limits.WEB_ADDRESS_CONNECTIONS_MAX_DEFAULT, Row(
        IntKind(1, 65_536), "web", "The same, for the connections from one address.", unit="connections"))
    web_requests_per_sec: int = knob_field(limits.WEB_REQUESTS_PER_S_DEFAULT, Row(
        IntKind(0, 1_000_000), "web", "Requests per second of one token, or of one address without a token. A burst "
        "may have ten times as many. 0 means no limit.", unit="1/s"))
    web_api_token: str | None = knob_field(None, Row(
        SecretKind(limits.SECRET_CHARS_MAX), "web", "A secret that may read over HTTP, in addition to the tokens of "
        "`crabnet token`. Unset or empty: there is none.", secret=True))
    web_api_auth_required: bool = knob_field(True, Row(
        BoolKind(), "web", "Whether the HTTP door needs a token for everything but `/health`, `/livez` and `/readyz`. "
        "With false, **everybody who reaches the address may read everything that the node shows**. Operations that "
        "change something need a token in any case."))
    web_session_s: int = knob_field(limits.WEB_SESSION_S_DEFAULT, Row(
        IntKind(60, 30 * DAY_S), "web", "How long a browser stays logged in after `crabnet web open`.", unit="s"))
    log_level: str = knob_field("info", Row(
        ChoiceKind("debug", "info", "warning", "error"), "monitor", "What `listen` tells on standard error: this level "
        "and those above it. Alerts are errors."))
    log_format: str = knob_field("text", Row(
        ChoiceKind("text", "json"), "monitor", "How `listen` tells it. `text`: a sentence per line. `json`: an object "
        "per line."))
    events_lag_percent: int = knob_field(limits.EVENTS_LAG_PERCENT_DEFAULT, Row(
        IntKind(0, 100), "monitor", "Share of the queue of unwritten events from which on `events_lagging` is raised. "
        "0 means never.", unit="%"))
    events_lag_ms: int = knob_field(limits.EVENTS_LAG_MS_DEFAULT, Row(
        IntKind(0, DAY_S * 1000), "monitor", "Age of the oldest unwritten event from which on `events_lagging` is "
        "raised. 0 means never.", unit="ms"))
    sync_lag_envelopes: int = knob_field(limits.SYNC_LAG_ENVELOPES_DEFAULT, Row(
        IntKind(0, 2**31), "monitor", "Missing envelopes that neighbours hold, from which on `sync_lagging` is raised. "
        "0 means never.", unit="envelopes"))
    sync_lag_ms: int = knob_field(limits.SYNC_LAG_MS_DEFAULT, Row(
        IntKind(0, DAY_S * 1000), "monitor", "Time that something has been missing, from which on `sync_lagging` is "
        "raised. 0 means never.", unit="ms"))
    sending_lag_ms: int = knob_field(limits.SENDING_LAG_MS_DEFAULT, Row(
        IntKind(0, DAY_S * 1000), "monitor", "Time that an envelope of this node has waited to be sent to an address, "
        "from which on `sending_lagging` is raised. 0 means never.", unit="ms"))
    lag_hold_ms: int = knob_field(limits.LAG_HOLD_MS_DEFAULT, Row(
        IntKind(0, DAY_S * 1000), "monitor", "How long a lag must be over its threshold until it is an alert, and "
        "below half of it until the alert is over.", unit="ms"))

    alert_urls: tuple[str, ...] = knob_field((), Row(
        SecretsKind(UrlKind(limits.ALERT_URL_CHARS_MAX), limits.ALERT_TARGETS_MAX, _BEFORE_URL,
                    "separated by commas or white space"),
        "alerts", "Targets of alerts. `http` and `https` URLs are webhooks. Other schemes are services of apprise, and "
        "need the extra `alerts`.", secret=True))
    alert_urls_file: Path | None = knob_field(None, Row(  # noqa: RUF009 - None is immutable
        PathKind(), "alerts", "File with further targets of alerts, one URL per line. Only its owner may access it. "
        "The file is read when the node starts."))
    alert_commands: tuple[str, ...] = knob_field((), Row(
        SecretsKind(CommandLineKind(limits.ALERT_URL_CHARS_MAX), limits.ALERT_TARGETS_MAX, r"\n", "one per line"),
        "alerts", "Commands that alerts are given to, on standard input. They are run without a shell. While such a "
        "command runs, every user of the machine can see its arguments.", secret=True))
    alert_kinds: tuple[str, ...] = knob_field((), Row(
        ListKind(TextKind(64, r"[a-z][a-z0-9_]*", "the name of a kind of event"), 256), "alerts",
        "Kinds of events that are sent in addition to those of severity `alert`."))
    alert_secret: str | None = knob_field(None, Row(
        SecretKind(limits.SECRET_CHARS_MAX), "alerts", "A secret that the receivers of webhooks know. With it, each "
        "request is signed (HMAC-SHA256). Unset or empty: requests are not signed.", secret=True))
    alert_messages_per_minute: int = knob_field(limits.ALERT_MESSAGES_PER_MINUTE_DEFAULT, Row(
        IntKind(1, 600), "alerts", "Messages per minute to each target. If there are more alerts, one message sums "
        "them up.", unit="1/min"))
    alert_retry_s: int = knob_field(limits.ALERT_RETRY_S_DEFAULT, Row(
        IntKind(0, 7 * DAY_S), "alerts", "How long a message is tried again after its first try has failed. After that "
        "it is given up, and `alert_undelivered` says so. 0: there is one try.", unit="s"))
    alert_timeout_ms: int = knob_field(limits.ALERT_TIMEOUT_MS_DEFAULT, Row(
        IntKind(100, 600_000), "alerts", "How long one try may take.", unit="ms"))
    # fmt: on

    def part(self, names: Iterable[str]) -> dict[str, object]:
        """Settings by name, for a process that gets only them. Paths are text."""
        given = {name: getattr(self, name) for name in names}
        return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}

    @property
    def serves_http(self) -> bool:
        """Whether there is anything for a web process to serve at."""
        return self.web_addr != OFF or self.web_socket is not None or self.metrics_addr is not None

    @property
    def uses_udp(self) -> bool:
        """Whether the node speaks over datagrams."""
        return "udp" in self.network.split(",")

    @property
    def uses_dht(self) -> bool:
        """Whether the node speaks over libp2p."""
        return "dht" in self.network.split(",")

    @property
    def listen_addrs(self) -> list[str]:
        """The UDP addresses to receive on."""
        return _datagram(self.listen_addr.split(",")) if self.uses_udp else []

    @property
    def udp_announce_addrs(self) -> list[str]:
        """The UDP addresses of ``announce_addrs``; those of ``dht_udp_fallback`` for a node without UDP."""
        return _datagram(self.announce_addrs) if self.uses_udp else list(self.dht_udp_fallback)

    @property
    def udp_bootstrap_peers(self) -> list[str]:
        """The UDP addresses of ``bootstrap_peers``."""
        return _datagram(self.bootstrap_peers) if self.uses_udp else []

    @property
    def dht_listen_addrs(self) -> list[str]:
        """The multiaddrs to listen on."""
        if not self.uses_dht:
            return []
        given = self.listen_addr.split(",")
        own = [each for each in given if each.startswith("/")]
        return [str(parse_multiaddr(each)) for each in (own if own and self.uses_udp else given)]

    def __post_init__(self) -> None:
        for knob in KNOBS:
            value: object = getattr(self, knob.name)
            if value is not knob.default:
                try:
                    knob.kind.check(value)
                except Wrong as wrong:
                    raise UsageError(f"{knob.name} = {knob.shown(value)} {wrong}", Reason.INVALID_CONFIG) from None
        self._settle_paths()
        self._check_together()
        self._check_network()

    def _settle_paths(self) -> None:
        try:
            data_dir = Path.cwd() / expand_home(self.data_dir) if not self.data_dir.is_absolute() else self.data_dir
            paths = {"data_dir": data_dir}
            for name in _PATHS:
                path: Path | None = getattr(self, name)
                if path is not None:
                    paths[name] = data_dir / expand_home(path)
        except Wrong as wrong:
            raise UsageError(
                f"a path {wrong}; give an absolute path, for example with --data-dir", Reason.INVALID_CONFIG
            ) from None
        except FileNotFoundError:
            raise UsageError(
                "the current directory does not exist any more; give an absolute path with --data-dir",
                Reason.INVALID_CONFIG,
            ) from None
        for name, path in paths.items():
            object.__setattr__(self, name, path)

    def _check_together(self) -> None:
        looping = sorted(name for name in self.alert_kinds if name.startswith("alert_"))
        if looping:
            raise ConflictError(
                f"alert_kinds has {looping[0]}, but what happens to alerts is not sent as an alert; remove it",
                ("alert_kinds",),
            )
        if self.monitor_events.name != EVENTS_FILE_NAME:
            raise ConflictError(
                f"monitor_events = {self.monitor_events} must be a file named {EVENTS_FILE_NAME}", ("monitor_events",)
            )
        needed_s = self.message_ttl_s + self.future_skew_s
        if self.seen_messages_ttl_s < needed_s:
            raise ConflictError(
                f"seen_messages_ttl_s = {self.seen_messages_ttl_s} is less than message_ttl_s + future_skew_s = "
                f"{needed_s}, so that envelopes could be replayed; increase it",
                ("seen_messages_ttl_s", "message_ttl_s", "future_skew_s"),
            )
        if not self.runner_profiles:
            raise ConflictError("runner_profiles is empty: give strict, network or both", ("runner_profiles",))
        if "network" in self.runner_profiles and self.runner_sandbox in ("landlock", "none"):
            raise ConflictError(
                f"runner_profiles has network, but runner_sandbox = {self.runner_sandbox} does not offer it; use bwrap",
                ("runner_profiles", "runner_sandbox"),
            )
        if self.web_tls_key is not None and self.web_tls_cert is None:
            raise ConflictError("web_tls_key is set, but web_tls_cert is not", ("web_tls_key", "web_tls_cert"))
        secret = sorted(name for name in self.runner_environment if name.startswith("CRABNET_"))
        if secret:
            raise ConflictError(
                f"runner_environment has {secret[0]}, but tasks must not see the node's own settings; remove it",
                ("runner_environment",),
            )
        workdir, root = self.runner_workdir, self.runner_workdir_root
        if (
            workdir is not None
            and root is not None
            and (not workdir.is_relative_to(root) or ".." in workdir.relative_to(root).parts)
        ):
            raise ConflictError(
                f"runner_workdir = {workdir} is not inside runner_workdir_root = {root}",
                ("runner_workdir", "runner_workdir_root", "alert_urls_file"),
            )

    def _check_network(self) -> None:
        if self.uses_udp and not self.listen_addrs:
            raise ConflictError(
                f"listen_addr = {self.listen_addr} has multiaddrs only, which are for libp2p, but network = "
                f"{self.network} has udp; add host:port, or set network = dht",
                ("listen_addr", "network"),
            )


def _datagram(addresses: Iterable[str]) -> list[str]:
    return [each for each in addresses if not each.startswith("/")]


class ConflictError(UsageError):
    """Values that are valid alone contradict each other. ``knobs`` names them."""

    default_reason = Reason.INVALID_CONFIG

    def __init__(self, message: str, knobs: tuple[str, ...]) -> None:
        self.knobs = knobs
        super().__init__(message)


def _table() -> tuple[Knob, ...]:
    return tuple(Knob(item.name, item.default, item.metadata["row"]) for item in fields(Settings))


KNOBS: Final[tuple[Knob, ...]] = _table()
"""The table, in the order of docs/CONFIGURATION.md."""


def shown(settings: Settings) -> dict[str, str | int | bool | list[str] | None]:
    """The values for JSON and logs, in the order of the table. The value of a secret is never shown."""
    values: dict[str, str | int | bool | list[str] | None] = {}
    for knob in KNOBS:
        value: object = getattr(settings, knob.name)
        if value is None or (isinstance(value, bool | int) and not knob.secret):
            values[knob.name] = value
        elif isinstance(value, tuple) and not knob.secret:
            values[knob.name] = [str(item) for item in value]
        else:
            values[knob.name] = knob.shown(value)
    return values
