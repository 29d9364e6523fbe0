"""Every bound of Crabnet, with its unit. Bounds that operators may change are settings; see ``settings.knobs``."""

from __future__ import annotations

from typing import Final

# --- Protocol bounds: the same in every node, part of docs/PROTOCOL.md -----------------------------------

DATAGRAM_BYTES_MAX: Final = 1_200
"""Largest UDP datagram sent; RFC 9000 section 14.1 argues that 1200 bytes pass almost everywhere."""
ENVELOPE_BYTES_MAX: Final = 512 * 1024
"""Largest envelope as received. Its canonical form is never longer."""
DATAGRAM_RECEIVE_BYTES_MAX: Final = 65_507
"""Largest UDP payload over IPv4: baseline peers send an envelope whole."""
RESULT_BESIDE_OUTPUT_BYTES: Final = 8_192
"""Upper bound for what the envelope of a result contains besides its output and its list of files."""
FORK_PROOF_BYTES_MAX: Final = 2 * ENVELOPE_BYTES_MAX + 1024
"""Largest fork proof: two of the largest envelopes and the text around them."""
FRAGMENTED_MESSAGE_BYTES_MAX: Final = FORK_PROOF_BYTES_MAX
"""Largest message that is sent in fragments."""
FRAGMENT_REQUEST_INDEXES_MAX: Final = 512
"""Fragments that one request may name."""
JSON_DEPTH_MAX: Final = 16
INTEGER_MAX: Final = 2**53 - 1
"""Integers in signed envelopes are between minus and plus this (RFC 7493 section 2.2)."""
LEGACY_INTEGER_MAX: Final = 2**64 - 1
NAMESPACE_CHARS_MAX: Final = 64
NODE_ID_CHARS_MAX: Final = 128
TITLE_CHARS_MAX: Final = 512
DESCRIPTION_CHARS_MAX: Final = 64 * 1024
COMMAND_CHARS_MAX: Final = 64 * 1024
RULES_CHARS_MAX: Final = 64 * 1024
NOTES_CHARS_MAX: Final = 4 * 1024
OUTPUT_CHARS_MAX: Final = 128 * 1024
"""Characters of captured stdout, and also of stderr, that a result may contain."""
OUTPUT_BASE64_CHARS_MAX: Final = 4 * -(-OUTPUT_CHARS_MAX // 3)
"""The same in base64, for bytes that are not text."""
TIMEOUT_MS_MAX: Final = 7 * 24 * 3600 * 1000
CLAIM_WINDOW_S_DEFAULT: Final = 3_600
"""A seed without ``claim_deadline_ts`` can be claimed until this long after its bid deadline."""
ATTEMPTS_MAX: Final = 100
OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT: Final = 65_536
"""Seeds of one author that its feed has not closed, accepted or rejected. The same in all nodes of a namespace."""
BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT: Final = 32
"""Bids of one author on one seed. The same in all nodes of a namespace."""
STEPS_PER_AUTHOR_PER_SEED_MAX: Final = 256
"""Claims, settlements and similar steps of one author on one seed. The highest number of attempts needs 201."""
STARTS_PER_AUTHOR_PER_STEP_MAX: Final = 64
"""Starts and renewals of one author that rest on the same envelope. A run needs 33."""
RESULTS_PER_AUTHOR_PER_STEP_MAX: Final = 2
"""Results, or acknowledgements, of one author that rest on the same envelope. A run needs one."""
SYNC_NAMES_PER_MESSAGE_MAX: Final = 16
RUN_RENEWALS_MAX: Final = 32
"""How often a worker may report that a run continues. Each report is kept permanently."""
RUN_LEASES_PER_TIMEOUT: Final = 16
"""A lease is at least this part of the task's timeout. It is renewed at its half, so at most 32 times."""
SETTLEMENT_BYTES: Final = 8 * 1024
"""A node's own seed envelopes are this much smaller than the limit. So the settlement, which repeats the seed, fits."""

# --- Memory bounds of one node ---------------------------------------------------------------------------

SEEN_CAPACITY_MAX: Final = 10_000_000
PARKED_ENVELOPES_MAX: Final = 4_096
"""Envelopes ahead of their feeds. Half of the room is for known authors, half for newcomers."""
PARKED_ENVELOPES_PER_FEED_MAX: Final = 256
PARKED_BYTES_MAX: Final = 64 * 1024 * 1024
PARKED_BYTES_PER_FEED_MAX: Final = 4 * 1024 * 1024
PARKED_VOUCHERS_LOOKED_AT_MAX: Final = 256
"""Parked envelopes that are searched for a known author that waits for another one."""
SETTLED_AT_ONCE_MAX: Final = 64
"""Facts of ended feeds that are processed before other work has its turn."""
FORK_EVIDENCE_MAX: Final = 8
"""Envelopes for one place that are tried to make a proof of two."""
FORK_WANTS_MAX: Final = 256
"""Fork proofs that neighbours have announced and that the node requests."""
NAMED_WANTS_MAX: Final = 1_024
"""Envelopes that others rest on and that the node requests by name."""
WANT_ATTEMPTS_MAX: Final = 6
"""Requests for one name without an answer until the node gives up. A neighbour may name it again."""
REASSEMBLY_BYTES_MAX: Final = 32 * 1024 * 1024
REASSEMBLY_BYTES_PER_SOURCE_MAX: Final = 2 * 1024 * 1024
REASSEMBLY_MESSAGES_PER_SOURCE_MAX: Final = 32
REASSEMBLY_MESSAGES_MAX: Final = 512
REASSEMBLY_TTL_MS: Final = 10_000
"""An incomplete message is dropped this long after its last new fragment."""
REASSEMBLY_LIFETIME_MS: Final = 60_000
"""An incomplete message is dropped this long after its first fragment, even if new fragments still come."""
REASSEMBLY_QUIET_MS: Final = 200
"""The node requests missing fragments after this long without a new one. The time doubles with each request."""
REASSEMBLY_REQUEST_WAIT_MS_MAX: Final = 2_000
REASSEMBLY_REQUESTS_MAX: Final = 6
"""Rounds of requests for one message that bring no new fragment."""
REASSEMBLY_REQUESTS_PER_ROUND_MAX: Final = 4
"""Request datagrams for one message at once."""
REASSEMBLY_REQUESTS_PER_CALL_MAX: Final = 64
"""Request datagrams for all messages at once."""
REASSEMBLY_COMPLETED_MAX: Final = 4_096
REASSEMBLY_COMPLETED_TTL_MS: Final = 2_000
"""How long late duplicates of a completed message are recognised."""
SENT_FRAGMENTS_CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
SENT_FRAGMENTS_TTL_MS: Final = 60_000
SENT_FRAGMENTS_ANSWER_BYTES_MAX: Final = 16 * 1024
"""Bytes sent in answer to one request for missing fragments."""
SENT_FRAGMENTS_RESENDS_MAX: Final = 6
"""How often one source may get the same fragment again."""
SENT_FRAGMENTS_SOURCES_PER_MESSAGE_MAX: Final = 256
"""Sources that may request fragments of the same message."""
PEERS_MAX: Final = 1_024
"""Addresses that have proved themselves or are configured, and the same number of others. The same bound holds for
sources, waiting neighbours and unreachable targets."""
EVENT_QUEUE_MAX: Final = 10_000
CONTROL_LINE_BYTES_MAX: Final = 2 * 1024 * 1024
"""One request on the control socket, with its newline. The largest fork proof in base64 fits."""
CONTROL_RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
CONTROL_CONNECTIONS_MAX: Final = 64
"""Further connections wait until one of these ends. Connections with a long request do not count."""
CONTROL_WAITING_MAX: Final = 80
"""Concurrent requests of one long method. More runs than may run and wait cannot be requested anyway."""
CONTROL_LOOK_MS: Final = 500
"""Time between two checks whether the socket file is still there."""
CONTROL_IDLE_MS: Final = 10_000
"""A control connection that has not sent a whole request for this long is closed."""
CONTROL_SEND_MS: Final = 30_000
"""A control client that has not read its answer for this long is disconnected."""
REQUEST_ID_CHARS_MAX: Final = 128
TOPOLOGY_NODES_MAX: Final = 1_000
"""Nodes, and ways to them, that one answer about the topology lists."""
FEEDS_PAGE_MAX: Final = 1_000
TRAIL_PAGE_MAX: Final = 1_000
TRAIL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of the journal that are read for one page of the audit trail of a task."""
BIDS_LOOKED_AT_MAX: Final = 10_000
"""Bids that are looked at for one page of bids."""
BID_SEEDS_LOOKED_AT_MAX: Final = 500
"""Tasks that are looked at for one page of bids."""
SEEDS_LOOKED_AT_MAX: Final = 2_000
"""Archived tasks that are looked at for one page of a list with filters."""
EVENTS_LOOKED_AT_MAX: Final = 200_000
"""Events that `crabnet history` looks at."""
ID_PREFIX_CHARS_MIN: Final = 4
"""Fewest characters of an id that stand for the whole id on the command line."""
IDS_FOUND_MAX: Final = 100
"""Ids in one answer to a search by their beginning."""
FILTER_TEXT_CHARS_MAX: Final = 200
"""Characters of the text that a list of tasks is searched for."""
DRAIN_MS_MAX: Final = 24 * 3600 * 1000
STOP_DRAIN_MS: Final = 2_000
"""How long runs may still go on after a request to stop."""
REQUEST_IDS_TTL_S_DEFAULT: Final = 86_400
REQUEST_IDS_MAX_DEFAULT: Final = 10_000
REQUEST_ANSWER_BYTES_MAX: Final = 64 * 1024
"""The longest answer that is kept for a repeated request. A longer one is made again from what the request stated."""
REQUEST_ANSWERS_BYTES_MAX: Final = 32 * 1024 * 1024
"""All kept answers. Beyond that the oldest are made again when they are needed."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path in a Unix socket address, without its final NUL (unix(7))."""

# --- Web process and the tokens that open it -------------------------------------------------------------

WEB_CONNECTIONS_MAX_DEFAULT: Final = 1_024
"""Open connections. Beyond that the one that has been idle longest is closed for a new one."""
WEB_ADDRESS_CONNECTIONS_MAX_DEFAULT: Final = 512
"""The same for the connections from one address."""
WEB_REQUESTS_PER_S_DEFAULT: Final = 2_000
"""Requests per second of one token, or of one address without a token."""
WEB_BURST_S: Final = 10
"""A burst may have so many seconds' worth of requests."""
WEB_CLIENTS_MAX: Final = 4_096
"""Tokens and addresses whose requests are counted."""
WEB_REPORT_MS: Final = 1_000
"""Time between two reports to the node."""
WEB_REPORTS_MAX: Final = 1_024
"""Reports that wait for the node. Beyond that addresses are not told apart."""
WEB_HEADER_BYTES_MAX: Final = 16 * 1024
"""The request line and all headers of a request."""
WEB_BODY_BYTES_MAX: Final = CONTROL_LINE_BYTES_MAX - 64 * 1024
"""The body of a request. It fits into a request on the control socket."""
WEB_BODIES_BYTES_MAX: Final = 32 * 1024 * 1024
"""All bodies that are being received."""
WEB_QUERY_FIELDS_MAX: Final = 64
WEB_HEADER_MS: Final = 10_000
"""From the connection, or from the first byte of a further request, to the end of the headers."""
WEB_BODY_MS: Final = 30_000
"""From the end of the headers to the end of the body."""
WEB_KEEP_ALIVE_MS: Final = 30_000
"""From an answer to the first byte of the next request."""
WEB_LINGER_MS: Final = 2_000
"""How long the rest of a body is thrown away whose request was answered before its end."""
WEB_SEND_MS: Final = 10_000
"""A client that leaves its answer or stream unread for so long is disconnected."""
WEB_SEND_BUFFER_BYTES: Final = 256 * 1024
"""What the kernel keeps for a client that reads slowly, and as much again for its own purposes."""
WEB_TLS_HANDSHAKE_MS: Final = 5_000
WEB_SWEEP_MS: Final = 250
"""Time between two looks at which connections are late."""
WEB_BACKLOG: Final = 512
WEB_STREAMS_MAX: Final = 64
"""Streams to all clients together. The others of ``CONTROL_WAITING_MAX`` are for other programs."""
WEB_HEARTBEAT_MS: Final = 15_000
"""A stream without an item for so long gets a comment."""
WEB_STREAM_LOOK_MS: Final = 500
"""How long the answer to a request for a stream waits for a refusal of the node."""
WEB_STREAM_CHUNK_BYTES: Final = 256 * 1024
WEB_STREAM_SEND_BYTES: Final = 512 * 1024
"""About so many bytes are sent to a client that follows at a time, and wait for it if it is slow."""
WEB_STREAM_CHECK_MS: Final = 1_000
"""A stream ends so long after the revocation of its token."""
WEB_TAIL_ITEMS_MAX: Final = 4_096
"""Newest items of a stream that are kept for all clients that follow it."""
WEB_TAIL_BYTES_MAX: Final = 4 * 1024 * 1024
WEB_STREAM_RETRY_MS: Final = 100
WEB_STREAM_RETRY_MS_MAX: Final = 2_000
"""Longest pause between two tries to continue a stream while the node is away."""
WEB_NODE_CONNECTIONS_MAX: Final = 32
"""Short requests to the node at the same time. The others of ``CONTROL_CONNECTIONS_MAX`` are for other programs."""
WEB_NODE_IDLE_MS: Final = 5_000
"""An idle connection to the node is not used again after this; less than ``CONTROL_IDLE_MS``."""
WEB_HEALTH_MS: Final = 1_000
"""How long an answer about the health of the node is given again to others."""
WEB_HEALTH_ANSWER_MS: Final = 5_000
"""A node that does not answer for so long is not alive."""
WEB_STOP_MS: Final = 2_000
"""How long answers may take that are under way when the web process ends."""
TOKENS_MAX: Final = 256
"""Tokens that are valid at the same time, logins included."""
TOKENS_OVER_MAX: Final = 256
"""Expired and revoked tokens that are kept for ``token list``. Those that were over first are forgotten first."""
TOKENS_OVER_S: Final = 30 * 24 * 3600
TOKENS_FILE_BYTES_MAX: Final = 1024 * 1024
TOKEN_NAME_CHARS_MAX: Final = 64
TOKEN_NAMESPACES_MAX: Final = 16
TOKEN_TTL_S_MAX: Final = 3_650 * 24 * 3600
SECRET_CHARS_MIN: Final = 32
"""Shortest secret of a token that a person may choose."""
SECRET_CHARS_MAX: Final = 512
WEB_LINK_MS: Final = 60_000
"""How long the code of a login link is good."""
WEB_LINKS_MAX: Final = 16
"""Codes of login links that are good at the same time. The oldest is forgotten first."""
WEB_SESSIONS_MAX: Final = 32
"""Logins that are valid at the same time. A further one ends the oldest."""
WEB_SESSION_S_DEFAULT: Final = 12 * 3600
ATTEMPTS_FREE: Final = 5
"""Failed attempts of an address that have no effect."""
ATTEMPTS_BLOCK_MS: Final = 1_000
"""First block of an address whose attempts fail. Each further block is twice as long."""
ATTEMPTS_BLOCK_MS_MAX: Final = 15 * 60_000
ATTEMPTS_QUIET_MS: Final = 15 * 60_000
"""After this time without a failure or block, the failures of an address are forgotten."""
ATTEMPT_ADDRESSES_MAX: Final = 4_096
REPORTS_MAX: Final = 64
"""Reports in one request of a client."""
REPORT_ADDRESS_CHARS_MAX: Final = 64
REPORT_COUNT_MAX: Final = 1_000_000

# --- Monitor events --------------------------------------------------------------------------------------

EVENT_DETAIL_CHARS: Final = 200
EVENT_STRING_CHARS_MAX: Final = 512
"""Longest string in the payload of an event; longer ones are cut."""
EVENT_LINE_BYTES_MAX: Final = 256 * 1024
"""Longest line of an event file that is read; a longer one counts as damaged."""
EVENTS_SAMPLED: Final = 64
"""Waiting events from which the bytes of all waiting events are estimated."""
LOG_LINE_BYTES_MAX: Final = 4_096
"""Bytes of a line for the operator. A pipe that is ready takes as many at once (PIPE_BUF)."""
LOG_TEXT_CHARS_MAX: Final = 900
"""Characters of the text of such a line."""
LOG_FIELD_CHARS_MAX: Final = 200
"""Characters of a field in such a text."""
LOG_WINDOW_MS: Final = 60_000
LOG_LINES_PER_WINDOW: Final = 60
"""Lines for the operator of one kind and level within LOG_WINDOW_MS. Further ones are counted."""
EVENTS_LAG_PERCENT_DEFAULT: Final = 50
EVENTS_LAG_MS_DEFAULT: Final = 30_000
SYNC_LAG_ENVELOPES_DEFAULT: Final = 10_000
SYNC_LAG_MS_DEFAULT: Final = 120_000
SENDING_LAG_MS_DEFAULT: Final = 60_000
LAG_HOLD_MS_DEFAULT: Final = 10_000
EVENT_FILE_BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024
EVENT_FILE_AGE_MS_MAX_DEFAULT: Final = 7 * 24 * 3600 * 1000
EVENT_FILES_KEPT_DEFAULT: Final = 8
"""Rotated event files kept beside the current one."""
EVENTS_KEPT_MS_DEFAULT: Final = 0
"""How long rotated event files are kept at most; 0 means that only their number counts."""
EVENTS_TIDY_MS: Final = 60_000
"""Time between two looks for event files that are too old."""
EVENTS_PAGE_DEFAULT: Final = 100
"""Events in a page of a query that names no limit."""
EVENTS_PAGE_MAX: Final = 1_000
"""Most events in a page."""
EVENTS_QUERY_WORDS_MAX: Final = 64
"""Most words of one condition, such as event kinds, by which a query uses the index."""
EVENTS_QUERY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of event files that are read for one page. A query that needs more gives a short page and a cursor."""
EVENTS_QUERY_STEPS_MAX: Final = 1_024
"""Blocks, ranges and chunks that are looked at for one page."""
EVENTS_RECENT_MAX: Final = 2_048
"""Newest events that stay in memory for those who follow them."""
EVENTS_CHUNK_BYTES: Final = 32 * 1024
"""Bytes read at once where the index gives no block."""
EVENT_BLOCK_EVENTS: Final = 64
"""Events in a block of the index. A query reads whole blocks."""
EVENT_BLOCK_BYTES_MAX: Final = 64 * 1024
"""A block of the index ends when it is that long. The last event may exceed this bound."""
EVENT_INDEX_STEP_BYTES: Final = 256 * 1024
"""Bytes of event files that are indexed in one step. They take a few milliseconds."""
EVENT_INDEX_LAG_BYTES: Final = 16 * 1024
"""The index leaves fewer bytes than that alone until more are there."""
EVENT_INDEX_SEAL_EVENTS: Final = 65_536
"""The index is stored and sealed after so many new events."""
EVENT_INDEX_CACHE_KIB: Final = 64 * 1024
"""Memory for pages of the index. It bounds what changes between two seals."""
EVENT_INDEX_FORGET_ROWS: Final = 10_000
"""Rows of deleted files that one step removes from the index."""

# --- Sync (gap requests and heads) -----------------------------------------------------------------------

SYNC_HEADS_PER_MESSAGE_MAX: Final = 64
SYNC_WANTS_PER_MESSAGE_MAX: Final = 16
SYNC_BUCKETS_PER_MESSAGE_MAX: Final = 16
SYNC_SERVED_PER_MESSAGE_MAX: Final = 64
SYNC_BUCKET_HEADS_MAX: Final = 8
"""For a bucket of more heads than this, the digests of its sixteen parts are sent. Part of the protocol."""
SYNC_BUCKET_DIGITS_MAX: Final = 16
"""Longest prefix of a bucket. A bucket with such a prefix is never divided. Part of the protocol."""
SYNC_WANT_ENTRIES_MAX: Final = 64
SYNC_RESPONSE_BYTES_MAX: Final = 128 * 1024
"""Bytes of the answer for one range. Large enough to cut a range rarely, since what follows must wait for the rest."""
SYNC_WINDOW_ENTRIES_START: Final = 128
"""Entries requested from a source before its first answer. Then its window follows what arrives and what is lost."""
SYNC_WINDOW_ENTRIES_MIN: Final = 16
SYNC_WINDOW_ENTRIES_MAX: Final = 2_048
SYNC_ENTRIES_IN_FLIGHT_MAX: Final = 4_096
"""Entries requested at once from all sources together."""
SYNC_SLOW_DOWN_MS: Final = 200
"""A window is halved at most once in this time, because simultaneous losses count as one loss."""
SYNC_FEEDS_PER_ROUND: Final = 512
"""Feeds that are considered when requests are made."""
SYNC_BLOCKED_FEEDS_PER_ROUND: Final = 16
"""A round of requests ends after this many feeds whose sources have no room."""
SYNC_DESCENTS_MAX: Final = 4
"""Neighbours whose version vectors are compared with ours at the same time."""
SYNC_DESCENT_MS_MAX: Final = 30_000
SYNC_DESCENT_RETRIES_MAX: Final = 3
SYNC_BUCKETS_WAITING_MAX: Final = 4_096
SYNC_COMPARED_TTL_MS: Final = 30_000
"""The same two version vectors are not compared again for this long."""
SYNC_SERVE_BYTES_PER_S_DEFAULT: Final = 32 * 1024 * 1024
SYNC_SERVE_PEER_BYTES_PER_S_DEFAULT: Final = 16 * 1024 * 1024
SYNC_FETCH_BYTES_PER_S_DEFAULT: Final = 32 * 1024 * 1024
SYNC_FANOUT_DEFAULT: Final = 4
"""Neighbours to which the node announces at each sync interval what it holds. The others follow at the next ones."""
SYNC_ANSWERS_PER_S: Final = 50
"""Messages about buckets that one neighbour gets in a second."""
SYNC_ANSWERS_BURST: Final = 100
SYNC_RECENT_HEADS_MAX: Final = 4
"""Recently changed heads, sent with the digest of all heads: as many as fit in one datagram."""
SYNC_REQUEST_RETRY_MS: Final = 500
SYNC_QUIET_MS: Final = 100
"""A partial answer counts as finished when nothing more has arrived for this long."""

# --- Relay -----------------------------------------------------------------------------------------------

RELAY_FANOUT_DEFAULT: Final = 4
"""Neighbours to which one live envelope is relayed."""
RELAY_LINKS_MAX: Final = 65_536
"""Pairs of neighbour and author for which the node knows whether relaying is needed."""
RELAY_PROVIDERS_MAX: Final = 16_384
RELAY_SERVED_MS: Final = 15 * 60 * 1000
"""How long the node relays none of an author's envelopes to a neighbour that gets them by another way."""
RELAY_PROVIDER_MS: Final = 5 * 60 * 1000
"""How long the neighbour that sent an author's last envelope counts as a way to this author."""
INTRODUCE_MS: Final = 60_000
"""Time between two introductions of a node to all libp2p peers."""
INTRODUCE_SOON_MS: Final = 1_000
"""How soon a node introduces itself after a new node was met."""
INTRODUCE_PAUSE_MS: Final = 5_000
"""Shortest time between two introductions."""
INTRODUCE_NODES: Final = 8
"""With each so many nodes that a node knows, it introduces itself that much less often."""
RELAY_LOOK_MS: Final = 1_000
"""Time between two counts of the neighbours for relaying."""
RELAY_REFRESH_MS: Final = 10 * 1000
"""How long the choice of neighbours for relaying an author is kept, unless something changes."""
RELAY_PRUNE_AGAIN_MS: Final = 60 * 1000
"""A neighbour that still relays what is not needed is asked again after this long to stop."""
RELAY_PRUNES_PER_MESSAGE_MAX: Final = 64

# --- UDP transport ---------------------------------------------------------------------------------------

UDP_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Receive buffer requested from the kernel. Without privileges the kernel grants less (net.core.rmem_max)."""
UDP_DRAIN_DATAGRAMS_MAX: Final = 256
"""Datagrams taken from one socket at once."""
UDP_CROWDED_BYTES: Final = 1024 * 1024
"""If this many bytes are taken from the sockets at once, more arrives than is read."""
UDP_SEND_WAIT_MS: Final = 1_000
"""Time until a full send buffer counts as a failure."""
UDP_ERROR_PAUSE_MS: Final = 10
"""Pause after a receive that returned only errors, so that no error can keep a processor busy."""
INTERFACES_TTL_MS: Final = 5_000
"""The network interfaces of this machine are read again after this long."""
SEND_FROM_MAX: Final = 4_096
"""Addresses for which the node remembers which of several sockets to send from."""
LISTEN_ADDRESSES_MAX: Final = 8
RESOLVE_TIMEOUT_MS: Final = 5_000
RESOLVE_TTL_MS: Final = 30_000
"""A host name is looked up again after this long."""
TARGETS_LOOK_UP_MS: Final = 15_000
"""Configured host names are checked again after this long. A remembered address is younger than twice that."""
RESOLVE_RETRY_MS: Final = 10_000
"""After a failed lookup or send a host name is looked up again at most this often."""
RESOLVE_LOOKUPS_MAX: Final = 4
"""Concurrent lookups, each in a thread."""
RESOLVE_CACHE_MAX: Final = 4_096

# --- Runner ----------------------------------------------------------------------------------------------

EXECUTION_PICK_UP_MS_DEFAULT: Final = 600_000
"""Time between claim and result that a seed allows beyond its timeout, unless the publisher sets another."""
EXIT_CODE_INTERRUPTED: Final = 137
RUNNER_RUNS_MAX_DEFAULT: Final = 4
RUNNER_RUNS_MAX: Final = 256
"""Highest setting for commands that run at the same time."""
RUNNER_QUEUE_MAX_DEFAULT: Final = 64
RUNNER_QUEUE_MAX: Final = 10_000
RUNNER_LEASE_MS_DEFAULT: Final = 60_000
RUN_RESULT_RETRY_MS: Final = 2_000
"""While the node may not write into its feed, the result of a run is submitted again after this long."""
RUNNER_COMMAND_CHARS_MAX_DEFAULT: Final = 4_096
RUNNER_OUTPUT_BYTES_MAX_DEFAULT: Final = 128 * 1024
"""Bytes of each output stream that are kept as text."""
RUNNER_OUTPUT_TOTAL_BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024
"""Bytes of both output streams together, after which the command is terminated."""
RUNNER_OUTPUT_JSON_BYTES_MAX: Final = 240 * 1024
"""Bytes of one stream's text as a JSON string. Two of them and the rest of a result fit into an envelope."""
RUNNER_STDIN_BYTES_MAX: Final = 4 * OUTPUT_CHARS_MAX
"""Bytes that a command may get on its stdin: all of the stdout that a result can hold."""
RUNNER_SPOOL_MEMORY_BYTES: Final = 512 * 1024
"""Bytes of the standard error of a run kept in memory. More goes to a file until it can be hashed."""
RUNNER_OUTPUT_TOTAL_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Highest setting: standard error waits in a temporary file until the run ends."""
RUNNER_KILL_WAIT_MS_DEFAULT: Final = 1_000
RUNNER_KILL_WAIT_MS_MAX: Final = 60_000
RUNNER_DRAIN_MS_DEFAULT: Final = 10_000
RUN_END_WAIT_MS: Final = 15_000
"""How long a node that stops waits, after the drain, until the runs that it ended have stated their results."""
CONTROL_LAST_ANSWERS_MS: Final = 1_000
"""How long a node that stops waits until the clients that wait for a run have its outcome."""
RUNNER_SPAWN_WAIT_MS: Final = 10_000
"""Time until a command must have started or failed to start."""
RUNNER_REAP_WAIT_MS: Final = 5_000
"""Time until all processes of a run must be gone after SIGKILL."""
RUNNER_DRAIN_WAIT_MS: Final = 1_000
"""Time until the output pipes must be closed after the last process is gone."""
RUNNER_NAME_CHARS_SHOWN: Final = 64
"""Characters of a publisher's text that a refusal repeats."""
RUNNER_MEMORY_BYTES_DEFAULT: Final = 512 * 1024 * 1024
RUNNER_PROCESSES_DEFAULT: Final = 64
RUNNER_CPU_TIME_S_DEFAULT: Final = 3_600
RUNNER_CPU_PERCENT_DEFAULT: Final = 100
RUNNER_FILE_BYTES_DEFAULT: Final = 64 * 1024 * 1024
RUNNER_OPEN_FILES_DEFAULT: Final = 256
RUNNER_MEMORY_BYTES_MIN: Final = 16 * 1024 * 1024
RUNNER_OPEN_FILES_MIN: Final = 32
"""The creation of a sandbox needs this many."""
RUNNER_WORKDIR_BYTES_DEFAULT: Final = 128 * 1024 * 1024
RUNNER_TMP_BYTES_DEFAULT: Final = 64 * 1024 * 1024
RUNNER_REQUEST_DIGITS_MAX: Final = 9
"""Digits of a number in a seed's request for its run."""
RUNNER_LIMITS_HIT_MAX: Final = 8
"""Limits that a result may name."""
RUN_WORD_CHARS_MAX: Final = 32
"""Characters of a result's cause, limit, sandbox or profile."""
RUNNER_CANARY_TIMEOUT_MS: Final = 5_000
"""Timeout of each run of the self-test at the start."""
RUNNER_FILES_MAX: Final = 128
"""Output files in the manifest of a run."""
RUNNER_FILES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of all files of a manifest together. All of them are read and hashed."""
RUNNER_FILE_ENTRIES_MAX: Final = 16_384
"""Names in a work dir that are considered for a manifest."""
RUNNER_FILE_NAME_BYTES_MAX: Final = 512
"""UTF-8 bytes of an output file's name with its directories."""
RUNNER_FILE_NAMES_BYTES_MAX: Final = 8 * 1024
"""UTF-8 bytes of all names in a manifest, which shares an envelope with the captured output."""
RUNNER_FILE_DEPTH_MAX: Final = 16
"""Directories between the work dir and an output file."""
RUNNER_FILES_LEFT_OUT_SHOWN: Final = 8
"""Entries left out of a manifest that are named. Further ones are only counted."""

# --- Storage ---------------------------------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
"""Payload of one journal frame."""
FRAME_BYTES_TARGET: Final = FRAME_BYTES_MAX // 2
"""Bytes of the records of one frame, with a byte between them. A single record may be larger."""
RECORD_BYTES_MAX: Final = FRAME_BYTES_MAX - 2
"""Bytes of one record of the journal: what fits into a frame besides its brackets."""
CHECKPOINT_HEADER_BYTES_MAX: Final = 64 * 1024
CHECKPOINT_ROW_BYTES_MAX: Final = 8 * 1024 * 1024
CHECKPOINT_SYNC_BYTES: Final = 8 * 1024 * 1024
"""A checkpoint is synced after each portion of this size, so that appends do not wait for all of it at the end."""
BASELINE_STATE_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Largest ``state.json`` of the Rust baseline that is imported."""
STORAGE_CHUNK_BYTES: Final = 1024 * 1024
"""Files are read, hashed and written in pieces of this size."""
RESERVE_BYTES: Final = 1024 * 1024
"""Reserved disk space, so that a node can write its last messages on a full disk."""
DISK_FREE_LOW_BYTES: Final = 64 * 1024 * 1024
"""If less space than this is free, the node warns the operator."""
LOCK_HINT_BYTES: Final = 512
LOCK_WAIT_STEP_MS: Final = 20
LOCK_NODE_GRACE_MS: Final = 250
"""If the hint of a lock names a node for this long, a node holds it, and it is useless to wait."""
FEED_INDEX_ROWS_PER_QUERY_MAX: Final = 10_000
ARCHIVE_ROW_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of data of one archived row."""
ARCHIVE_WORD_BYTES_MAX: Final = 1_024
"""Bytes of the key, tag or owner of an archived row, in UTF-8."""
ARCHIVE_SEGMENT_ROWS_MAX: Final = 1_000_000
ARCHIVE_PAGE_ROWS_MAX: Final = 10_000
ARCHIVE_INDEX_CACHE_KIB: Final = 16 * 1024
"""Page cache of the connection that writes the archive's index."""
SEAL_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of the checksums of the pages of an index."""
ARCHIVE_INDEX_BATCH_ROWS: Final = 512
ARCHIVE_INDEX_WAIT_S: Final = 10
"""How long the writer of the archive's index waits for readers."""
SYNC_REQUEST_RETRY_MS_MAX: Final = 8_000
SYNC_MISSING_FEEDS_MAX: Final = 4_096
SYNC_STALE_HEAD_MS: Final = 4_000
"""For this long after a source promised more of a feed, its messages that promise less count as older."""
SYNC_MISSING_TTL_MS: Final = 300_000
SYNC_SOURCES_PER_FEED_MAX: Final = 4
SYNC_HEADS_PER_DATAGRAM: Final = 4
"""Heads in a periodic announcement: as many as fit in one datagram beside the envelope."""
PEER_CHALLENGE_INTERVAL_MS: Final = 1_000
PEER_RETURN_MS: Final = 30_000
"""If a neighbour sends again after this long a silence, the node announces at once what it holds."""
PEER_RETRY_MS: Final = 1_000
"""A remembered peer that does not answer is tried again after this long. The time doubles with each try."""
PEER_RETRY_MS_MAX: Final = 3_600_000
PEER_FAILURES_MAX: Final = 16
"""A remembered peer is forgotten after so many failed tries."""
PEERS_TRIED_AT_ONCE: Final = 8
PEERS_PER_GROUP_MIN: Final = 8
"""Remembered peers of one host or IPv6 network: this number, or a quarter of all if that is more."""
PEERS_REMEMBERED_DEFAULT: Final = 256
PEERS_REMEMBERED_MAX: Final = 4_096
PEERS_FILE_BYTES_MAX: Final = 2 * 1024 * 1024
PEERS_SAVE_S: Final = 5
"""Time until a change of the remembered peers is written to disk."""
PEERS_SEEN_STEP_S: Final = 60
"""Shortest time between two writes of when a peer was last seen."""
PEER_SILENCE_MS_MAX: Final = 15 * 60 * 1000
PEER_SILENCE_MS_DEFAULT: Final = 60_000
PRESENCE_LOOK_MS: Final = 1_000
"""Time between two looks at which peers are there."""
REACH_NEIGHBOURS_MAX: Final = 256
"""Neighbours for which the node remembers in which feeds they are behind it."""
REACH_FEEDS_MAX: Final = 128
"""Such feeds of one neighbour."""
SYNC_GAUGES_NEIGHBOURS_MAX: Final = 64
"""Neighbours in the gauges of the sync."""
SOURCES_MAX: Final = 16_384
"""Strangers' IP addresses that are remembered. The one heard longest ago is evicted first."""
SOURCE_PEERS_MAX: Final = 2_048
"""Rows for sources that have proved themselves, and the same number for hosts with a good history."""
SOURCES_REPORTED_MAX: Final = 64
"""Sources that get an event of their own each second. The others are counted together."""
SOURCE_CROWDED_WEIGHT: Final = 8
"""Weight of a stranger's datagram while more arrives at the socket than is read from it."""
SOURCE_SHARE_PER_S: Final = 200
"""Datagrams of each proven source that do not count towards the total of all sources."""
SOURCE_TRICKLE_PER_S: Final = 50
"""Datagrams read from a proven source even while it is penalised, because others may forge its address."""
SOURCE_SLOWED_FACTOR_MAX: Final = 4
"""A proven source is slowed down for at most this many times the duration of the first block."""
SOURCE_GOOD_MIN: Final = 16
"""Accepted messages that end a block, remove a strike, and keep a host's row among those with a good history."""
SOURCE_FORGIVE_MS: Final = 60_000
"""Time without misuse after a block that removes a strike."""
DROPS_REPORT_MS: Final = 1_000
TOLD_BYTES_MIN: Final = 72
"""A message of fewer bytes contains nothing. One event of about 300 bytes is written for this many bytes of them."""
TRIFLES_TOLD_ALONE: Final = 64
"""Number of such messages that get an event of their own while a node runs."""

# --- Budgets of authors ----------------------------------------------------------------------------------

AUTHORS_MAX: Final = 8_192
"""Authors in each of three tables: known authors, newcomers, and authors over their budget."""
AUTHOR_BURST_S: Final = 10
"""Seconds' worth of a budget that an author may use at once."""
AUTHOR_FIRST_COST: Final = 10
"""Cost of the first envelope of an author, in envelopes, because a feed costs more to keep than an envelope."""
AUTHOR_KNOWN_ENTRIES: Final = 32
"""Envelopes of an author that this node must hold before the author is known."""
AUTHOR_KNOWN_AFTER_MS: Final = 60_000
"""Time since an author's first envelope before the author is known."""
AUTHOR_PAUSE_MS: Final = 1_000
"""For this long the node ignores an author over its budget and requests nothing of it."""
AUTHOR_WATCH_MS: Final = 60_000
"""For this long after an author was over its budget, its requested envelopes count like unrequested ones."""
AUTHOR_THRONG_MS: Final = 10_000
"""For this long after the newcomers' budget was used up, the same holds for all newcomers."""
AUTHOR_HISTORY_SHARE: Final = 10
"""One author's share of the budget for history, as a divisor, after ``AUTHOR_HISTORY_BURST``."""
AUTHOR_HISTORY_BURST: Final = 50_000
"""Envelopes of one author's history that may come at once."""

# --- Clock -----------------------------------------------------------------------------------------------

CLOCK_STEP_MS: Final = 1_000
"""If the difference to the system's clock changes by this much, the node reports a step of the clock."""
CLOCK_SLEW_PART: Final = 20
"""The node's time approaches the system's clock by this part of the elapsed time, as a divisor."""
CLOCK_PLAUSIBLE_FROM_S: Final = 1_672_531_200
"""2023-01-01, in seconds. An earlier clock was never set, and the node signs nothing with it."""
CLOCK_ASK_FIRST_MS: Final = 500
CLOCK_ASKED_QUICKLY: Final = 4
"""Number of first questions at short intervals, because questions and answers can be lost."""
CLOCK_ASK_MS: Final = 600_000
CLOCK_AGAIN_MS: Final = 30_000
"""Shortest time between two questions that are caused by new peers at configured addresses."""
CLOCK_VOTE_MS: Final = 1_800_000
"""How long the answer of a peer about the time counts."""
CLOCK_LEAP_MS: Final = 60_000
CLOCK_ROUNDING_MS: Final = 10
"""By how much two clocks of a machine may differ over a time span of some seconds."""
CLOCK_VOTES_MAX: Final = 256
CLOCK_STRANGERS_MIN: Final = 3
"""Answers about the time from peers that are not configured count only if this many, of different networks, answer."""

# --- Jobs of a node --------------------------------------------------------------------------------------

AWAY_TOLD_MS: Final = 600_000
"""A node that was not running for this long reports it at its start."""
SWEEP_RETRY_MS: Final = 60_000
"""After a refusal, the sweeper tries again to close, forfeit or claim what is due."""
RECLAIM_SAME_WORKER_MS: Final = 30_000
"""From one claim of a worker to the next that the sweeper makes of the same worker for the same seed."""
COMMIT_RECORDS_MAX: Final = 2_048
"""If more records are queued for the journal, reading from the network waits."""
COMMIT_BYTES_MAX: Final = 32 * 1024 * 1024
"""The same in bytes. A few records can reach it if each restores a seed from the archive."""
UNSENT_PER_TARGET_MAX: Final = 256
UNSENT_BYTES_PER_TARGET_MAX: Final = 8 * 1024 * 1024
"""Bytes of envelopes that wait for one target. Each counts at least as its share of the room."""
SEND_RETRY_MS: Final = 1_000
SEND_RETRY_MS_MAX: Final = 30_000
DELIVERIES_KEPT_MAX: Final = 1_024
"""Own envelopes for which the node remembers where they were sent."""
DELIVERY_WAIT_MS: Final = 2_000
"""How long an answer waits until this is known. The envelope is stored in any case."""
OUTBOX_MESSAGES_MAX: Final = 16_384
RECEIVE_SLICE: Final = 64
"""Datagrams handled before other tasks of the node run."""
VERIFY_BATCH_MIN: Final = 16
"""Lowest number of signatures that is worth sending to another process."""
VERIFY_ANSWER_MS: Final = 5_000
"""After this time without an answer the node gives up the process that checks signatures."""
VERIFY_RESTART_MS: Final = 60_000
"""Pause after a failure of the process that checks signatures."""
VERIFY_IDLE_MS: Final = 60_000
"""The process that checks signatures ends after this long without a batch."""
SLICES_AHEAD: Final = 1
"""Slices of datagrams whose signatures are being checked, besides the one being handled and the one being read."""
SEED_LIST_MAX: Final = 1_000
SEED_ROWS_MAX: Final = 500
"""Bids and facts without effect in one answer about a seed. Even with the longest texts everywhere, the answer stays
below ``CONTROL_RESPONSE_BYTES_MAX``."""
SEED_ROWS_DEFAULT: Final = 100
EQUIVOCATORS_SHOWN_MAX: Final = 100
"""Authors with proved forks that ``status`` names: the latest ones. All are counted."""
TICK_MS: Final = 100
LOOP_PROBE_MS: Final = 50
"""How long the task sleeps that measures the delay of the loop."""
LOOP_DELAY_WINDOW_MS: Final = 10_000
LOOP_DELAY_WINDOWS: Final = 6
"""The longest delay of so many windows is a metric."""
METRICS_DISK_MS: Final = 1_000
"""How long metrics wait for what is read from the disk."""
SERVES_WAITING_MAX: Final = 2_048
"""Ranges that one neighbour may wait for."""
SERVE_WANTS_AT_ONCE: Final = 64
SERVE_ENTRIES_AT_ONCE: Final = 1_024
SERVE_LOOK_MS: Final = 20
"""Pause before the node looks again whether a neighbour without room has some."""
"""Entries sent to one neighbour before the others are served."""
FRAMES_READ_BYTES_MAX: Final = 32 * 1024 * 1024
"""Journal frames kept in memory while neighbours read history."""
HASH_SLICE: Final = 64
SHUTDOWN_SEND_S: Final = 2
DESCRIPTORS_MIN: Final = 384
"""Open files that a node needs: about 40 of its own, and those for clients of its control socket and for runs."""
EVENTS_FLUSH_MS: Final = 100
LAG_LOOK_MS: Final = 1_000
"""Time between two looks at how far event log, sync and sending are behind."""
EVENT_INDEX_PAUSE_MS: Final = 20
"""Pause between two steps that bring the index of the events up to date, so that they slow down nothing else."""
EVENT_INDEX_SEAL_MS: Final = 60_000
"""Longest time until new events are in the sealed index, which other processes read."""
INDEX_FLUSH_MS: Final = 200
INDEX_BATCH_ENTRIES: Final = 10_000
"""Envelopes indexed in one transaction when the index catches up with the journal."""
INDEX_CATCH_UP_PAUSE_MS: Final = 20
"""Pause after such a batch while a node runs."""
INDEX_LOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes written to the index before it is sealed again. A start after a crash indexes as much again."""
INDEX_LOOK_MS: Final = 1_000
"""Time between two checks of a part of the index, of STORAGE_CHUNK_BYTES."""
INDEX_RETRY_MS: Final = 2_000
"""Time until the index is tried again after a failure."""
DISK_CHECK_S: Final = 5
HEALTH_WRITE_MS: Final = 2_000
"""A node whose journal is not written for so long is not ready."""
OVERVIEW_FRESH_MS: Final = 200
"""How old an overview over HTTP may be."""
HEALTH_BEHIND_MAX: Final = 1_000
"""A node that lacks more envelopes of its peers is not ready."""
ARCHIVE_SEGMENT_SEEDS_MAX: Final = 1_000
"""Seeds that move from memory to one archive segment."""
ARCHIVE_CHECK_S: Final = 1
SYNC_FORK_ATTEMPTS_MAX: Final = 8
"""Requests for the place of a fork without progress until the node gives up."""
SYNC_LOST_FORK_MS: Final = 60_000
"""For this long the node does not follow a neighbour's head again if its branch does not stand."""

# --- Risk to the own feed --------------------------------------------------------------------------------

FEED_CLAIM_WAIT_MS: Final = 10_000
"""How long the node writes nothing into its feed after a peer claims, without proof, that the feed is longer."""
FEED_CLAIM_PAUSE_MS: Final = 3_600_000
"""How long no such claim of any peer has an effect after a claim that proved false."""
FEED_LIAR_MS: Final = 24 * 3_600_000
"""How long claims of a host are ignored after one proved false. The time doubles with each repetition."""
FEED_LIAR_DOUBLINGS_MAX: Final = 5
FEED_LIARS_MAX: Final = 1_024
"""Hosts whose claims are ignored. The one detected longest ago is forgotten first."""
FEED_QUIET_MS: Final = 2_000
"""Time between a peer's confirmation of our feed's head and the end of the risk, in which others can object."""

# --- Child processes -------------------------------------------------------------------------------------

CHILD_HANDSHAKE_MS: Final = 30_000
"""Time from the start of a child to its handshake."""
CHILD_HANDSHAKE_BYTES_MAX: Final = 16 * 1024
CHILD_ADDRESSES_MAX: Final = 16
"""Addresses that the handshake of a child may name. Further ones are left out."""
CHILD_STOP_MS: Final = 2_000
"""How long the orderly end of a child may take until it is killed."""
CHILD_RESTART_MS: Final = 250
"""Pause after the first failure of a child. It doubles with each further failure in a row."""
CHILD_RESTART_MS_MAX: Final = 60_000
CHILD_DOUBLINGS_MAX: Final = 16
CHILD_RETRY_SLOWLY_MS: Final = 60_000
"""Pause after a failure that ends only when somebody does something, such as a port in use."""
CHILD_STEADY_MS: Final = 10_000
"""A child that has run for this long has no failures in a row any more."""

# --- Alerts ----------------------------------------------------------------------------------------------

ALERT_TARGETS_MAX: Final = 16
"""Targets of each kind: URLs, URLs in a file, commands."""
ALERT_URL_CHARS_MAX: Final = 2_048
ALERT_URLS_FILE_BYTES_MAX: Final = 64 * 1024
ALERT_MESSAGES_PER_MINUTE_DEFAULT: Final = 10
ALERT_RETRY_S_DEFAULT: Final = 3_600
ALERT_TIMEOUT_MS_DEFAULT: Final = 10_000
ALERT_PAUSE_MS: Final = 1_000
"""Pause after the first failure of a target. It doubles with each further failure in a row."""
ALERT_PAUSE_MS_MAX: Final = 5 * 60_000
ALERT_DOUBLINGS_MAX: Final = 16
ALERTS_WAITING_MAX: Final = 100
"""Alerts that wait for one target as they are. Further ones are only counted, and summed up in one message."""
ALERT_KINDS_TOLD_MAX: Final = 8
"""Kinds that the text of such a message names."""
ALERT_TEXT_CHARS_MAX: Final = 2_000
ALERT_RESPONSE_BYTES_MAX: Final = 64 * 1024
"""Bytes that are read of the answer of a webhook."""
ALERT_OUTCOME_BYTES_MAX: Final = 4_096
"""Bytes of what the process of one try says about it."""
ALERT_CURSOR_BYTES_MAX: Final = 64 * 1024
ALERT_RETRY_FOLLOWING_MS: Final = 1_000
"""Pause before events are followed again after the node has ended the stream."""
ALERT_LAST_TRIES_MS: Final = 1_000
"""How long tries may go on after the node has asked the process to end."""
ALERT_IDLE_MS: Final = 60_000
"""After this time without an alert, the cursor moves past the events that are none."""
ALERT_TARGET_CHARS_MAX: Final = 128
"""Characters of the name of a target in an event."""

# --- Operator's tools ------------------------------------------------------------------------------------

PROBE_MS: Final = 2_000
"""How long the check of the settings waits for the answers of configured peers."""
PROBE_TRIES: Final = 4
"""How often it asks each of them, because datagrams may be lost."""
BUNDLE_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one file in a debug bundle. A longer one is left out, and its place says so."""
REPORT_EVENTS_MAX: Final = 500
"""Events in the redacted report of a running node."""
BUNDLE_EVENTS_MAX: Final = 2_000
BUNDLE_FAULTS_MAX: Final = 20
BUNDLE_FILES_LISTED_MAX: Final = 2_000
"""Files of the data dir whose names and sizes a debug bundle lists."""
TLS_EXPIRY_WARNED_DAYS: Final = 14
"""A certificate that expires sooner is a warning."""
AUDIT_FINDINGS_MAX: Final = 1_000
"""Findings kept for the report. Further ones are only counted."""
AUDIT_NOTES_MAX: Final = 20
"""Notes about decisions that the current rules would not make. Further ones are only counted."""
AUDIT_CHAINS_MAX: Final = 10_000
"""Tasks whose chains an audit reports one by one. Further ones are only counted."""
AUDIT_RETRIES: Final = 3
"""How often an audit reads a data dir that changes while it is read."""
LAST_WORDS_MS: Final = 200
"""Time to report a failed ledger to waiting callers before the node stops."""
EXPORT_HEADER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of the first line of an export, which contains two version vectors, and of a file that contains one."""
IMPORT_BATCH_BYTES: Final = 512 * 1024
"""Bytes of envelopes sent to the node at once, before base64."""
IMPORT_BATCH_ENTRIES: Final = 512
IMPORT_SLICE: Final = 64
"""Imported envelopes handled before other tasks of the node run."""
LEFT_OUT_EVENTS_MAX: Final = 100
"""Events about parts of a baseline's state that could not be imported."""

# --- Unexpected errors -----------------------------------------------------------------------------------

FAULTS_PENDING_MAX: Final = 64
"""Faults that wait to be reported and stored. Further ones are only counted."""
FAULT_TEXT_CHARS: Final = 32_768
"""Characters of a traceback that are kept: its end."""
QUARANTINE_FILES_MAX: Final = 256
QUARANTINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of all stored faults together. The oldest are deleted."""
CONDEMNED_MAX: Final = 4_096
"""Hashes of messages that are refused because a node failed on them, and the same number of suspects. The oldest
are evicted."""
CONDEMNED_FILE_BYTES_MAX: Final = 1024 * 1024
CONDEMN_S: Final = 5
"""How long a failing node tries to store the messages on which it failed."""
DEADLINES_RENEW_MS: Final = 60_000
"""Shortest time between two renewals of the noted deadlines of all seeds."""
JOB_RETRY_S: Final = 5
"""A background job that ended with an unexpected error is restarted after this."""
RESTART_DELAY_S: Final = 1
"""Time between the end of a failed node and its restart."""
RESTART_BUSY_MS: Final = 200
"""If a command uses the data dir, a restart tries again after this."""

# --- Service manager -------------------------------------------------------------------------------------

SERVICE_ALIVE_MS: Final = 10_000
"""Time between two signs of life for the service manager. A shorter watchdog makes it half of the watchdog's time."""
SERVICE_START_EXTENSION_MS: Final = 60_000
"""How long the service manager should wait for a node that starts, from each sign of life on."""
SERVICE_CLOSE_MS: Final = 120_000
"""How long the service manager should wait for a node that has no runs left: the last checkpoint takes the longest."""
SERVICE_MESSAGE_WAIT_MS: Final = 1_000
"""How long a node waits for room in the socket of the service manager."""

# --- libp2p ----------------------------------------------------------------------------------------------

MULTIADDR_CHARS_MAX: Final = 512
TOPIC_CHARS_MAX: Final = 256
GOSSIP_LARGE_BYTES: Final = 64 * 1024
"""Envelopes above this size are not published. They go to the neighbours by streams, and further by sync."""
GOSSIP_RPC_BYTES_MAX: Final = 1024 * 1024
"""Largest RPC that is read: what js-libp2p and go-libp2p send at most."""
GOSSIP_CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Recent messages that peers may ask for."""
GOSSIP_QUEUE_MESSAGES_MAX: Final = 1_024
GOSSIP_QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What waits for one peer. What does not fit is dropped; sync brings it."""
GOSSIP_WRITE_BYTES: Final = 64 * 1024
"""What waits for one peer is written together, up to about this."""
GOSSIP_SEEN_S: Final = 120
GOSSIP_SUBSCRIPTIONS_MAX: Final = 64
"""Subscriptions of one peer, and of one RPC."""
GOSSIP_IHAVE_IDS_MAX: Final = 2_048
GOSSIP_INVALID_DECAY: Final = 0.9
"""What remains of the count of a peer's rejected messages after a heartbeat of one second."""
GOSSIP_STREAMS_PER_PEER_MAX: Final = 2
"""Inbound gossip streams of one peer that are read. A second one may come before the first is seen to end."""
GOSSIP_SUBSCRIPTION_CHANGES_PER_S: Final = 64
"""Subscriptions that one peer may begin or end in a second."""
GOSSIP_CONTROLS_PER_S: Final = 64
"""IHAVE, IWANT, GRAFT and PRUNE messages of one peer that are heeded in a second; others send some for each topic."""
GOSSIP_IDS_PER_S: Final = 5_000
"""Message ids of one peer that are looked at in a second, in IHAVE and in IWANT (go-libp2p: MaxIHaveLength)."""
GOSSIP_SERVED_MAX: Final = 3
"""How often one peer gets the same message for IWANT (gossipsub 1.1: GossipRetransmission)."""
GOSSIP_SERVED_IDS_MAX: Final = 4_096
"""Messages for which one peer's IWANTs are counted."""
GOSSIP_PROMISE_S: Final = 3
"""How soon a message that a peer has offered, and was asked for, must come (gossipsub 1.1: IWantFollowupTime)."""
GOSSIP_PROMISES_MAX: Final = 1_024
GOSSIP_PEERS_RATED_MAX: Final = 1_024
"""Peers whose control messages are counted."""
GOSSIP_BACK_OFF_S_MAX: Final = 600
"""Longest back-off that a peer can ask for."""
GOSSIP_SLICE: Final = 100
"""Messages of one RPC after which others get their turn."""
P2P_OFFENCES_MAX: Final = 10
"""Rejected messages of a peer after which further ones are refused without a check, until time has made up for some."""
P2P_OFFENCES_FORGIVEN_PER_S: Final = 1
P2P_WINDOW_BYTES_MAX: Final = 1024 * 1024
"""What a peer may send on one stream before it is read. It begins with the 256 KiB of yamux, and doubles with use."""
P2P_BUFFERED_BYTES_MAX: Final = 4 * 1024 * 1024
"""What was received on the streams of one connection and waits to be read. No more is received meanwhile."""
P2P_BUFFERED_TOTAL_BYTES_MAX: Final = 128 * 1024 * 1024
"""The same for all connections. Each gets an equal part of it, if that is less than it could have."""
P2P_BUFFERED_MS_MAX: Final = 10_000
"""How long a connection may stay that full, until it is closed."""
P2P_CONTROL_FRAMES_PER_S: Final = 1_000
"""Frames of yamux without data that are taken from one connection in a second: pings, window updates, resets."""
P2P_STREAMS_OPENED_PER_S: Final = 64
"""Streams that a peer may open on one connection in a second."""
P2P_CLOSE_MS: Final = 200
"""How long a peer may take to read that its connection is closed."""
P2P_NEGOTIATION_BYTES_MAX: Final = 1_024
"""Longest message of multistream-select."""
P2P_NEGOTIATION_MESSAGES_MAX: Final = 32
"""Messages of multistream-select until a protocol must be agreed on."""
P2P_NEGOTIATION_MS: Final = 5_000
P2P_HANDSHAKE_BYTES_MAX: Final = 1_536
"""What noise may need to prove who a peer is. It leaves no room for keys that take long to read."""
P2P_KEY_BYTES_MAX: Final = 1_024
"""Longest public key of a peer: one of RSA with 4,096 bits has 550."""
P2P_ID_BYTES_MAX: Final = 64
P2P_RECORD_BYTES_MAX: Final = 4_096
"""Longest signed record of a peer: its key and its addresses."""
IDENTIFY_BYTES_MAX: Final = 8_192
"""Largest message of identify, as in go-libp2p and js-libp2p."""
IDENTIFY_PUSHES_PER_MIN: Final = 10
P2P_CONNECTIONS_ACCEPTED_PER_S: Final = 16
"""Connections that one IPv4 address or IPv6 /64 network may begin in a second; each costs a handshake."""
P2P_CONNECTIONS_ACCEPTED_BURST: Final = 64
P2P_TOPICS_REPORTED_PER_S: Final = 2
"""Subscriptions to unknown topics that are reported in a second, after as many at once as below."""
P2P_TOPICS_REPORTED_BURST: Final = 32
P2P_CONNECTIONS_MAX: Final = 128
P2P_OUTBOUND_RESERVED: Final = 16
"""Of these, how many are kept for those that this node dials, so that nobody can fill all places; at most a half."""
P2P_ADDRESS_CONNECTIONS_MAX: Final = 16
"""Inbound connections from one IPv4 address or IPv6 /64 network, finished or not."""
P2P_STREAMS_PER_PEER_MAX: Final = 64
P2P_STREAMS_PER_PROTOCOL_MAX: Final = 4
"""Inbound streams of one peer that are read, for each of the two protocols of Crabnet."""
P2P_HANDSHAKE_MS: Final = 5_000
P2P_DIAL_MS: Final = 5_000
P2P_KEY_MS: Final = 3_000
"""How long a peer that was dialled may take to show that it has the key of this private network."""
P2P_WRITE_MS: Final = 10_000
"""How long a stream may take what is sent to it, until it counts as stuck."""
P2P_READ_MS: Final = 30_000
"""How long a message that has begun may pause."""
P2P_LINK_BYTES_MAX: Final = 8 * 1024 * 1024
"""What waits for the node in the libp2p process. More is not read from streams, and gossip is dropped."""
P2P_REPORT_MS: Final = 1_000
P2P_SILENCE_MS: Final = 15_000
"""A libp2p process that has told nothing for this long, not even its state, counts as stuck and is started again."""
P2P_COUNTERS_MAX: Final = 64
"""Names of counters that the node takes from the libp2p process."""
P2P_REMEMBER_MS: Final = 2_000
P2P_LOOK_MS: Final = 100
P2P_GREETINGS_MAX: Final = 20
P2P_REFUSALS_MAX: Final = 1_024
P2P_SEEN_MESSAGES_MAX: Final = 65_536
P2P_PEERS_WANTED: Final = 8
"""Connected peers that speak Crabnet's protocols, below which further addresses are dialled."""
P2P_ADDRESSES_PER_PEER_MAX: Final = 8
P2P_REDIAL_MS: Final = 250
"""Pause after the first failed try of an address. It doubles with each further one."""
P2P_REDIAL_CONFIGURED_MS_MAX: Final = 15_000
P2P_REDIAL_MS_MAX: Final = 300_000
P2P_FAILURES_ASIDE: Final = 5
"""Failed tries in a row after which an address counts as set aside."""
P2P_FAILURES_HOPED: Final = 5
"""Failed tries after which an address that never worked, and that nobody configured, is forgotten."""
P2P_BOOK_MAX: Final = 1_024
"""Addresses of peers that have worked, beside the configured ones."""
P2P_HOPED_MAX: Final = 256
"""Addresses that have not worked yet, for each way in which they are learnt."""
P2P_REMEMBERED_S: Final = 30 * 86_400
"""How long an address that does not work any more is remembered over restarts."""
P2P_COUNTS_SAVE_S: Final = 300
"""How often the file of libp2p peers is written for the sake of counted failures alone."""
P2P_SETTLE_MS: Final = 5_000
"""How long a second connection with a peer is left alone: streams may be opening on either."""
P2P_AT_ONCE_MS: Final = 30_000
"""Two connections with a peer that are made within this time were dialled at once."""
P2P_LISTEN_WAIT_MS: Final = 3_000
"""How long a start waits for a port that is in use: the libp2p process of a killed node may be about to end."""
P2P_LASTING_MS: Final = 2_000
"""A connection that ends sooner counts as a failed try: a peer that closes each one is not dialled all the time."""
DNSADDR_RECORDS_MAX: Final = 32
"""TXT records that are read of one name."""
DNSADDR_LOOKUPS_MAX: Final = 8
"""Names that are looked up for one ``/dnsaddr``: the name itself, and names that its records name."""
DNSADDR_ADDRESSES_MAX: Final = 16
P2P_RESOLVE_MS: Final = 5_000
P2P_LOST_MS: Final = 120_000
"""How long the address of a lost peer is tried at least every ``P2P_REDIAL_LOST_MS_MAX``: it may be restarting."""
P2P_REDIAL_LOST_MS_MAX: Final = 1_000
P2P_START_MS: Final = 30_000
"""How long the start of the libp2p process may take: a busy machine needs some seconds for its import."""
P2P_RESTART_MS: Final = 200
P2P_LINES_BYTES_MAX: Final = 64 * 1024 * 1024
"""What waits in the node for all peers together. Each gets an equal part of it, but at most what follows."""
P2P_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What waits for one peer in the node."""
P2P_CONTROL_MESSAGE_BYTES_MAX: Final = 8 * 1024
"""Messages of the protocols for relays and reachability."""
P2P_RELAYED_CONNECTIONS_MAX: Final = 32
"""Inbound connections through one relay."""
P2P_RELAYS_WANTED: Final = 2
"""Relays at which a node that others cannot reach keeps a place."""
P2P_RELAY_LOOK_MS: Final = 1_000
P2P_RELAY_RETRY_MS: Final = 10_000
"""Pause before a relay that refused is asked again."""
P2P_RELAY_ADDRESSES_MAX: Final = 3
"""Addresses of one relay that a node announces."""
P2P_RELAY_PLACE_S: Final = 3_600
"""How long a relay keeps a place for a peer. It renews it at half of that time."""
P2P_RELAY_PLACE_MS_MIN: Final = 60_000
"""What a relay says less than counts as this, because clocks differ."""
P2P_RELAY_PLACES_MAX: Final = 64
P2P_RELAY_PLACES_PER_HOST_MAX: Final = 8
"""Places for peers at one IPv4 address or IPv6 /64 network: some may share a router."""
P2P_RELAY_CIRCUITS_MAX: Final = 128
P2P_RELAY_CIRCUITS_PER_PEER_MAX: Final = 16
"""Circuits that one peer has opened or accepted."""
P2P_RELAY_REQUESTS_PER_S: Final = 1
"""Requests of one peer to a relay in the long run: places and circuits."""
P2P_RELAY_REQUESTS: Final = 20
"""Requests of one peer at once."""
P2P_RELAY_BYTES_PER_S: Final = 16 * 1024 * 1024
"""What a relay carries for all circuits together. Whoever sends more waits."""
P2P_RELAY_IDLE_MS: Final = 120_000
"""After so long without a byte a circuit ends. Nodes say every second what they hold."""
P2P_REACHABILITY_WAIT_MS: Final = 15_000
"""After so long without any answer about its reachability a node takes places at relays."""
P2P_REACHABILITY_ASK_MS: Final = 60_000
"""Pause before a host is asked again whether it can dial this node."""
P2P_REACHABILITY_VOTES_MAX: Final = 16
"""Hosts whose last answers count."""
P2P_REACHABILITY_HOSTS_MAX: Final = 6
"""Hosts that are asked within ``P2P_REACHABILITY_ASK_MS``."""
P2P_OBSERVERS_MIN: Final = 2
"""Hosts that must report the same address of this node before it counts."""
P2P_OBSERVATIONS_MAX: Final = 256
P2P_DIAL_BACK_ADDRESSES_MAX: Final = 4
"""Addresses of one request that are dialled to find out whether a peer can be reached."""
P2P_DIAL_BACKS_AT_ONCE_MAX: Final = 8
P2P_DIAL_BACKS_PER_S: Final = 2
"""Requests of all peers to be dialled back."""
P2P_DIAL_BACK_HOST_MS: Final = 10_000
"""Pause between two such requests from one IPv4 address or IPv6 network, in the long run."""
P2P_DIAL_BACK_HOST_BURST: Final = 4
P2P_PUNCH_TRIES: Final = 3
P2P_PUNCH_MS: Final = 2_000
"""How long one attempt to connect at the same moment may take."""
P2P_PUNCH_DELAY_MS: Final = 1_000
P2P_PUNCH_AGAIN_MS: Final = 60_000
"""Pause before a direct connection with the same peer is tried again."""
P2P_PUNCH_ADDRESSES_MAX: Final = 2
P2P_PUNCHES_AT_ONCE_MAX: Final = 8
KAD_BUCKET: Final = 20
"""Servers of the DHT that are kept for each distance: k of its specification."""
KAD_KEY_BYTES_MAX: Final = 80
KAD_KEYS_MAX: Final = 1_024
"""Keys for which this node keeps providers for others."""
KAD_KEYS_PER_PEER_MAX: Final = 8
KAD_PROVIDERS_PER_KEY_MAX: Final = 128
KAD_PROVIDER_S: Final = 3_600
"""How long a provider is kept. It tells again after half of the time."""
KAD_TOLD_MAX: Final = 20
"""Peers in one message of the DHT."""
KAD_ADDRESSES_READ_MAX: Final = 16
"""Addresses of one peer in a message of the DHT that are looked at."""
KAD_REQUEST_BYTES_MAX: Final = 16 * 1024
KAD_ANSWER_BYTES_MAX: Final = 256 * 1024
KAD_REQUESTS_PER_S: Final = 10
"""Messages of one peer that a server of the DHT answers."""
KAD_STREAMS_MAX: Final = 64
KAD_STREAM_MS: Final = 10_000
"""How long a stream of the DHT may be open."""
KAD_MESSAGES_PER_STREAM_MAX: Final = 16
KAD_ANSWER_MS: Final = 5_000
KAD_CLIENTS_MAX: Final = 512
"""Peers that are remembered as no servers of the DHT."""
KAD_NO_SERVER_MS: Final = 60_000
"""How long a peer that is no server of the DHT is not asked again."""
KAD_ASKED_AT_ONCE: Final = 3
"""Servers that are asked at the same time in one search: alpha of Kademlia."""
KAD_ASKED_MAX: Final = 40
"""Servers that are asked in one search."""
KAD_DIALS_MAX: Final = 8
"""Addresses that this node dials for one search."""
KAD_DIALS_PER_SERVER_MAX: Final = 2
KAD_SEARCH_MS: Final = 30_000
KAD_CANDIDATES_MAX: Final = 128
RENDEZVOUS_FEW_MS: Final = 5_000
"""Pause between two searches while fewer peers are connected than wanted. It doubles up to ``RENDEZVOUS_MS``."""
RENDEZVOUS_MS: Final = 600_000
RENDEZVOUS_TOLD_PER_MINUTE: Final = 30
"""Addresses that this node takes from one teller in a minute."""
MDNS_TXT_BYTES_MAX: Final = 4_096
MDNS_NAME_CHARS_MAX: Final = 255
MDNS_NAMES_MAX: Final = 64
"""Services found by multicast DNS that wait until their addresses are looked at."""
MDNS_ASK_MS: Final = 2_000
MDNS_STEP_MS: Final = 200
"""How soon the thread of multicast DNS notices that it is to end."""
MDNS_LOOK_MS: Final = 2_000
"""How often the addresses to announce are compared with those that are announced."""
MDNS_TELL_MS: Final = 30_000
"""How often what is still on the link is told again."""
MDNS_RETRY_MS: Final = 30_000
MDNS_END_MS: Final = 2_000
P2P_OWN_ADDRESSES_MAX: Final = 16

# --- the market (ADR 44) -------------------------------------------------------------------------------

ACCEPTANCE_FILES_MAX: Final = 32
"""Files that the conditions of a seed may demand."""
CHECK_CHARS_MAX: Final = 4_096
"""Characters of the check of a seed."""
SETTLE_WINDOW_S_DEFAULT: Final = 86_400
"""How long after the result a publisher may take to settle, if its seed does not say it, in seconds."""
BID_WAIT_MS_DEFAULT: Final = 2_000
"""How long a purchase collects bids before it chooses one."""
PURCHASE_ATTEMPTS_MAX: Final = 16
"""Tries of one purchase."""
PURCHASES_MAX: Final = 10_000
"""Open purchases of a node."""
WORK_LOOK_MS: Final = 2_000
"""How often a worker looks at the load and the battery of its machine."""
WORK_BID_FRESH_S: Final = 60
"""How long a worker keeps a place free for a bid. Later it bids for other tasks, too: not every publisher chooses."""
WORK_DEBTORS_SHOWN_MAX: Final = 100
"""Publishers with unsettled results in the answer about a worker."""
LOOK_AROUND_MS_DEFAULT: Final = 5_000
"""How long a worker's dry run listens to the network at most."""
LOOK_AROUND_MS_MAX: Final = 600_000
LOOK_AROUND_QUIET_MS: Final = 700
"""If nothing comes for this long, and nothing is missing, it has seen everything."""
PRICE_SETTING_MAX: Final = 10**12
"""Highest price in the settings of a worker."""
WORK_UNSETTLED_MAX_DEFAULT: Final = 64
"""Bids, tasks and unsettled results of a worker at one publisher, before that has settled any."""
TASKS_DECLINED_MAX: Final = 10_000
"""Open tasks of which a worker remembers why it has not bid."""
DECLINED_NEWS_MAX: Final = 1_024
"""Declined tasks of which a worker has still to tell."""
PUBLISHERS_DISTRUSTED_MAX: Final = 1_024
"""Publishers whose open tasks a worker looks at again once they have settled something."""
DISTRUSTED_SEEDS_MAX: Final = 64
"""Open tasks of one such publisher."""
ACCOUNT_LIST_MAX: Final = 200
"""Accounts of one page."""
HISTORIES_FOLDED_MAX: Final = 50
"""Changed tasks that are counted in the accounts at a time."""
HISTORIES_PAGE_ROWS: Final = 200
"""Tasks of the archive that are counted in the accounts at a time."""
HISTORIES_PAUSE_MS: Final = 50
"""The pause between two such steps."""
CHECK_TIMEOUT_MS: Final = 60_000
"""How long the check of a result may run."""
CHECKS_ON_REQUEST_MAX: Final = 16
"""Callers that may wait for checks."""
CHECK_OUTPUT_CHARS: Final = 2_000
"""Characters of the output of a check that people are shown."""
RECEIPT_STEPS_MAX: Final = 5 * ATTEMPTS_MAX + 4
"""Steps in a receipt: at most five in an attempt, and those that the task has once."""
RECEIPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest receipt. In an answer on the control socket it may be twice as long, for its quotes are escaped there."""
TURN_MOVES_MAX: Final = 64
"""Steps that the policies of a node take in one turn."""
BID_LATE_MS: Final = 2_000
"""How long after the bid window a publisher still waits for bids that were made in time."""
PURCHASE_PICK_UP_MS: Final = 60_000
"""How long after its claim a worker may take to begin a task of ``crabnet run``."""
DECLINE_WORD_CHARS_MAX: Final = 32
"""Longest word by which a worker says why it does not bid."""
DECLINES_PER_S: Final = 20
"""Declines that a node states, and that it takes from one author."""
DECLINES_BURST: Final = 50
DECLINES_PASSED_ON_PER_S: Final = 100
"""Declines of others that a node passes on to publishers."""
DECLINE_AUTHORS_MAX: Final = 1_024
"""Authors of declines whose rates a node knows."""
DECLINES_WAITING_MAX: Final = 1_024
"""Own declines that wait for their time."""
DECLINES_TOLD_MAX: Final = 8_192
"""Own declines that are not stated again: one for each seed and reason."""
DECLINE_FANOUT: Final = 3
"""Neighbours that get a decline for a publisher that is not a neighbour."""
DECLINE_WAIT_MS: Final = 500
"""Longest random pause before a decline is stated in a small network."""
DECLINE_WAIT_PER_NODE_MS: Final = 10
"""How much longer this pause may be for each node that is known."""
DECLINE_WAIT_MS_MAX: Final = 10_000
DECLINES_PER_SEED_MAX: Final = 256
"""Workers whose declines of one own seed a node remembers: those that came last."""
DECLINES_HEARD_MAX: Final = 16_384
"""All declines of own seeds that a node remembers."""
ACKNOWLEDGE_WAIT_MS: Final = 2_000
"""How long a node that lasts for one command waits until a worker has heard how its task ended."""
