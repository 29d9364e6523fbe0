"""Every bound of Crabnet, with its unit. Protocol bounds are constants; operators' bounds are ``Limits``."""

from __future__ import annotations

from typing import Final

# --- Protocol bounds: the same in every node, part of docs/PROTOCOL.md -----------------------------------

DATAGRAM_BYTES_MAX: Final = 1_200
"""Largest UDP datagram sent; RFC 9000 section 14.1 argues that 1200 bytes pass almost everywhere."""
ENVELOPE_BYTES_MAX: Final = 512 * 1024
"""Largest envelope, as it is received. Its canonical form is never longer."""
DATAGRAM_RECEIVE_BYTES_MAX: Final = 65_507
"""Largest UDP payload over IPv4: baseline peers send an envelope whole."""
RESULT_BESIDE_OUTPUT_BYTES: Final = 8_192
"""What the envelope of a result has besides its output and its list of files, generously."""
FORK_PROOF_BYTES_MAX: Final = 2 * ENVELOPE_BYTES_MAX + 1024
"""Largest fork proof: two of the largest envelopes, and what frames them."""
FRAGMENTED_MESSAGE_BYTES_MAX: Final = FORK_PROOF_BYTES_MAX
"""Largest message that is sent in fragments."""
FRAGMENT_REQUEST_INDEXES_MAX: Final = 512
"""Fragments that one request may name."""
JSON_DEPTH_MAX: Final = 16
INTEGER_MAX: Final = 2**53 - 1
"""Integers in signed envelopes lie within plus or minus this (RFC 7493 section 2.2)."""
LEGACY_INTEGER_MAX: Final = 2**64 - 1
NAMESPACE_CHARS_MAX: Final = 64
NODE_ID_CHARS_MAX: Final = 128
TITLE_CHARS_MAX: Final = 512
DESCRIPTION_CHARS_MAX: Final = 64 * 1024
COMMAND_CHARS_MAX: Final = 64 * 1024
RULES_CHARS_MAX: Final = 64 * 1024
NOTES_CHARS_MAX: Final = 4 * 1024
OUTPUT_CHARS_MAX: Final = 128 * 1024
"""Characters of captured stdout, and of stderr, that a result may carry."""
OUTPUT_BASE64_CHARS_MAX: Final = 4 * -(-OUTPUT_CHARS_MAX // 3)
"""The same as base64, for bytes that are not text."""
TIMEOUT_MS_MAX: Final = 7 * 24 * 3600 * 1000
CLAIM_WINDOW_S_DEFAULT: Final = 3_600
"""A seed without ``claim_deadline_ts`` can be claimed until this long after its bid deadline."""
ATTEMPTS_MAX: Final = 100
OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT: Final = 65_536
"""Seeds of one author that its feed has not closed, accepted or rejected. All nodes of a namespace must agree."""
BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT: Final = 32
"""Bids of one author on one seed. All nodes of a namespace must agree."""
STEPS_PER_AUTHOR_PER_SEED_MAX: Final = 256
"""Claims, settlements and the like of one author on one seed: the attempts that there may be need 201."""
STARTS_PER_AUTHOR_PER_STEP_MAX: Final = 64
"""Starts and renewals of one author that rest on the same envelope: a run needs 33."""
RESULTS_PER_AUTHOR_PER_STEP_MAX: Final = 2
"""Results, or acknowledgements, of one author that rest on the same envelope: a run needs one."""
SYNC_NAMES_PER_MESSAGE_MAX: Final = 16
RUN_RENEWALS_MAX: Final = 32
"""How often a worker may say that a run goes on; each is kept for good."""
RUN_LEASES_PER_TIMEOUT: Final = 16
"""A lease is at least this part of the task's timeout: renewed at its half, it is renewed 32 times at most."""
SETTLEMENT_BYTES: Final = 8 * 1024
"""A node's own seed envelopes stay this far below the largest, so that the settlement, which repeats the seed, fits."""

# --- Memory bounds of one node ---------------------------------------------------------------------------

SEEN_CAPACITY_MAX: Final = 10_000_000
PARKED_ENVELOPES_MAX: Final = 4_096
"""Envelopes ahead of their feeds: half of the room is for known authors, half for newcomers."""
PARKED_ENVELOPES_PER_FEED_MAX: Final = 256
PARKED_BYTES_MAX: Final = 64 * 1024 * 1024
PARKED_BYTES_PER_FEED_MAX: Final = 4 * 1024 * 1024
PARKED_VOUCHERS_LOOKED_AT_MAX: Final = 256
"""Parked envelopes looked at to find a known author that waits for another one."""
SETTLED_AT_ONCE_MAX: Final = 64
"""Facts of ended feeds that are worked off between other things."""
FORK_EVIDENCE_MAX: Final = 8
"""Envelopes for one place that are looked at to make a proof of two."""
FORK_WANTS_MAX: Final = 256
"""Fork proofs that neighbours have told of and that are asked for."""
NAMED_WANTS_MAX: Final = 1_024
"""Envelopes that others rest on and that are asked for by name."""
WANT_ATTEMPTS_MAX: Final = 6
"""Requests for one name without an answer, until it is given up; a neighbour may tell of it again."""
REASSEMBLY_BYTES_MAX: Final = 32 * 1024 * 1024
REASSEMBLY_BYTES_PER_SOURCE_MAX: Final = 2 * 1024 * 1024
REASSEMBLY_MESSAGES_PER_SOURCE_MAX: Final = 32
REASSEMBLY_MESSAGES_MAX: Final = 512
REASSEMBLY_TTL_MS: Final = 10_000
"""An incomplete message is given up this long after its last new fragment."""
REASSEMBLY_LIFETIME_MS: Final = 60_000
"""An incomplete message is given up this long after its first fragment, however slowly it still grows."""
REASSEMBLY_QUIET_MS: Final = 200
"""Without a new fragment for this long, missing ones are asked for; then twice as long, and so on."""
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
"""How often one source may have the same fragment again."""
SENT_FRAGMENTS_SOURCES_PER_MESSAGE_MAX: Final = 256
"""Sources that may ask for fragments of the same message."""
PEERS_MAX: Final = 1_024
"""Addresses that have proved themselves or are configured, and as many that have not; also sources, waiting neighbours
and unreachable targets."""
EVENT_QUEUE_MAX: Final = 10_000
CONTROL_LINE_BYTES_MAX: Final = 2 * 1024 * 1024
"""One request on the control socket, with its newline: the largest fork proof in base64 fits."""
CONTROL_RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
CONTROL_CONNECTIONS_MAX: Final = 64
"""Further connections wait until one of these ends. Those whose request takes long do not count."""
CONTROL_WAITING_MAX: Final = 80
"""Requests of one long method at once: more runs than may run and wait cannot be asked for anyway."""
CONTROL_LOOK_MS: Final = 500
"""Between two looks whether the socket is still in its place."""
CONTROL_IDLE_MS: Final = 10_000
"""A control connection that has not sent a whole request for this long is closed."""
CONTROL_SEND_MS: Final = 30_000
"""A control client that has not taken its answer for this long is dropped."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path in a Unix socket address, without its final NUL (unix(7))."""

# --- Monitor events --------------------------------------------------------------------------------------

EVENT_STRING_CHARS_MAX: Final = 512
"""Longest string in the payload of an event; longer ones are cut."""
EVENT_LINE_BYTES_MAX: Final = 256 * 1024
"""Longest line of an event file that is read; a longer one counts as damaged."""
EVENT_FILE_BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024
EVENT_FILE_AGE_MS_MAX_DEFAULT: Final = 7 * 24 * 3600 * 1000
EVENT_FILES_KEPT_DEFAULT: Final = 8
"""Rotated event files kept beside the current one."""

# --- Sync (gap requests and heads) -----------------------------------------------------------------------

SYNC_HEADS_PER_MESSAGE_MAX: Final = 64
SYNC_WANTS_PER_MESSAGE_MAX: Final = 16
SYNC_BUCKETS_PER_MESSAGE_MAX: Final = 16
SYNC_SERVED_PER_MESSAGE_MAX: Final = 64
SYNC_BUCKET_HEADS_MAX: Final = 8
"""A bucket of more heads than this is told by the digests of its sixteen parts. Part of the protocol."""
SYNC_BUCKET_DIGITS_MAX: Final = 16
"""Longest prefix of a bucket; one with this prefix is never divided. Part of the protocol."""
SYNC_WANT_ENTRIES_MAX: Final = 64
SYNC_RESPONSE_BYTES_MAX: Final = 128 * 1024
"""Of one range. So large that it seldom cuts one short: what follows would have to wait for the rest."""
SYNC_WINDOW_ENTRIES_START: Final = 128
"""Entries asked of a source before anything has come from it; then its window follows what comes and what is lost."""
SYNC_WINDOW_ENTRIES_MIN: Final = 16
SYNC_WINDOW_ENTRIES_MAX: Final = 2_048
SYNC_ENTRIES_IN_FLIGHT_MAX: Final = 4_096
"""Entries asked for at once, of all sources together."""
SYNC_SLOW_DOWN_MS: Final = 200
"""A window is halved at most once in this time: what is lost at once is one loss."""
SYNC_FEEDS_PER_ROUND: Final = 512
"""Feeds looked at when requests are made."""
SYNC_BLOCKED_FEEDS_PER_ROUND: Final = 16
"""Feeds found to wait for room at their sources until a round of requests ends."""
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
"""Neighbours told at each sync interval what is held; the others have their turn at the next ones."""
SYNC_ANSWERS_PER_S: Final = 50
"""Messages about buckets that one neighbour gets in a second."""
SYNC_ANSWERS_BURST: Final = 100
SYNC_RECENT_HEADS_MAX: Final = 4
"""Heads that have just changed, told with the digest of all: as many as fit in one datagram."""
SYNC_REQUEST_RETRY_MS: Final = 500
SYNC_QUIET_MS: Final = 100
"""An answer that brought something, but not all, is taken to be over when nothing more has come for this long."""

# --- Relay -----------------------------------------------------------------------------------------------

RELAY_FANOUT_DEFAULT: Final = 4
"""Neighbours that one live envelope is passed on to."""
RELAY_LINKS_MAX: Final = 65_536
"""Pairs of neighbour and author of which it is known whether relaying is needed."""
RELAY_PROVIDERS_MAX: Final = 16_384
RELAY_SERVED_MS: Final = 15 * 60 * 1000
"""How long a neighbour that gets an author's envelopes by another way is not relayed them."""
RELAY_PROVIDER_MS: Final = 5 * 60 * 1000
"""How long the neighbour that brought an author's last envelope counts as a way to it."""
RELAY_LOOK_MS: Final = 1_000
"""How often neighbours are counted for relaying."""
RELAY_REFRESH_MS: Final = 10 * 1000
"""How long is kept which neighbours an author is relayed to, unless something changes."""
RELAY_PRUNE_AGAIN_MS: Final = 60 * 1000
"""A neighbour that goes on relaying what is not needed is told again after this long."""
RELAY_PRUNES_PER_MESSAGE_MAX: Final = 64

# --- UDP transport ---------------------------------------------------------------------------------------

UDP_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Receive buffer asked of the kernel; without privileges it grants less (net.core.rmem_max)."""
UDP_DRAIN_DATAGRAMS_MAX: Final = 256
"""Datagrams taken from one socket at once."""
UDP_CROWDED_BYTES: Final = 1024 * 1024
"""As much taken from the sockets at once says that more comes than is read."""
UDP_SEND_WAIT_MS: Final = 1_000
"""Until a full send buffer counts as a failure."""
UDP_ERROR_PAUSE_MS: Final = 10
"""Pause after a receive that brought errors only, so that no error can keep a processor busy."""
INTERFACES_TTL_MS: Final = 5_000
"""The network interfaces of this machine are looked at again after this long."""
SEND_FROM_MAX: Final = 4_096
"""Of so many addresses it is known which of several sockets to send from."""
LISTEN_ADDRESSES_MAX: Final = 8
RESOLVE_TIMEOUT_MS: Final = 5_000
RESOLVE_TTL_MS: Final = 30_000
"""A host name is looked up again after this long."""
TARGETS_LOOK_UP_MS: Final = 15_000
"""Configured host names are looked at again after this long; what is remembered of them is younger than that twice."""
RESOLVE_RETRY_MS: Final = 10_000
"""After a failed lookup or send a host name is looked up again at most this often."""
RESOLVE_LOOKUPS_MAX: Final = 4
"""Lookups at once, each in a thread."""
RESOLVE_CACHE_MAX: Final = 4_096

# --- Runner ----------------------------------------------------------------------------------------------

RUNNER_RUNS_MAX_DEFAULT: Final = 4
RUNNER_RUNS_MAX: Final = 256
"""Commands that an operator may let run at the same time."""
RUNNER_QUEUE_MAX_DEFAULT: Final = 64
RUNNER_QUEUE_MAX: Final = 10_000
RUNNER_LEASE_MS_DEFAULT: Final = 60_000
RUN_RESULT_RETRY_MS: Final = 2_000
"""While the node may not write into its feed, the result of a run is offered again after this long."""
RUNNER_COMMAND_CHARS_MAX_DEFAULT: Final = 4_096
RUNNER_OUTPUT_BYTES_MAX_DEFAULT: Final = 128 * 1024
"""Bytes of each output stream kept as text."""
RUNNER_OUTPUT_TOTAL_BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024
"""Bytes of both output streams together, after which the command is terminated."""
RUNNER_OUTPUT_JSON_BYTES_MAX: Final = 240 * 1024
"""Bytes of one stream's text as a JSON string: two of them and the rest of a result fit in an envelope."""
RUNNER_SPOOL_MEMORY_BYTES: Final = 512 * 1024
"""More of the standard error of a run goes to a file until it can be hashed."""
RUNNER_OUTPUT_TOTAL_BYTES_MAX: Final = 1024 * 1024 * 1024
"""The most an operator may set: standard error waits in a temporary file until the run ends."""
RUNNER_KILL_WAIT_MS_DEFAULT: Final = 1_000
RUNNER_KILL_WAIT_MS_MAX: Final = 60_000
RUNNER_DRAIN_MS_DEFAULT: Final = 10_000
RUN_END_WAIT_MS: Final = 15_000
"""Until runs that were ended because the node stops have stated their results: with the longest defaults before it."""
CONTROL_LAST_ANSWERS_MS: Final = 1_000
"""Until a node that stops has told those who wait for a run how it ended."""
RUNNER_SPAWN_WAIT_MS: Final = 10_000
"""Until a command has started, or was found not to."""
RUNNER_REAP_WAIT_MS: Final = 5_000
"""Until all processes of a run are gone after SIGKILL."""
RUNNER_DRAIN_WAIT_MS: Final = 1_000
"""Until the output pipes close after the last process is gone."""
RUNNER_NAME_CHARS_SHOWN: Final = 64
"""Characters of a publisher's word repeated in a refusal."""
RUNNER_MEMORY_BYTES_DEFAULT: Final = 512 * 1024 * 1024
RUNNER_PROCESSES_DEFAULT: Final = 64
RUNNER_CPU_TIME_S_DEFAULT: Final = 3_600
RUNNER_CPU_PERCENT_DEFAULT: Final = 100
RUNNER_FILE_BYTES_DEFAULT: Final = 64 * 1024 * 1024
RUNNER_OPEN_FILES_DEFAULT: Final = 256
RUNNER_MEMORY_BYTES_MIN: Final = 16 * 1024 * 1024
RUNNER_OPEN_FILES_MIN: Final = 32
"""What making a sandbox takes."""
RUNNER_WORKDIR_BYTES_DEFAULT: Final = 128 * 1024 * 1024
RUNNER_TMP_BYTES_DEFAULT: Final = 64 * 1024 * 1024
RUNNER_REQUEST_DIGITS_MAX: Final = 9
"""Digits of a number in a seed's request for its run."""
RUNNER_LIMITS_HIT_MAX: Final = 8
"""Limits that a result names."""
RUN_WORD_CHARS_MAX: Final = 32
"""A result's cause, limit, sandbox or profile."""
RUNNER_CANARY_TIMEOUT_MS: Final = 5_000
"""Each run of the self-test at start."""
RUNNER_FILES_MAX: Final = 128
"""Output files in the manifest of a run."""
RUNNER_FILES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of the files of a manifest together, all of which are read to be hashed."""
RUNNER_FILE_ENTRIES_MAX: Final = 16_384
"""Names in a work dir that are looked at for a manifest."""
RUNNER_FILE_NAME_BYTES_MAX: Final = 512
"""UTF-8 bytes of an output file's name with its directories."""
RUNNER_FILE_NAMES_BYTES_MAX: Final = 8 * 1024
"""UTF-8 bytes of all names in a manifest, which shares an envelope with the captured output."""
RUNNER_FILE_DEPTH_MAX: Final = 16
"""Directories between the work dir and an output file."""
RUNNER_FILES_LEFT_OUT_SHOWN: Final = 8
"""Things left out of a manifest that are named; further ones are counted."""

# --- Storage ---------------------------------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 8 * 1024 * 1024
"""Payload of one journal frame."""
FRAME_BYTES_TARGET: Final = FRAME_BYTES_MAX // 2
"""Records of one frame, with a byte between them, unless there is only one."""
RECORD_BYTES_MAX: Final = FRAME_BYTES_MAX - 2
"""One record of the journal: as much as fits in a frame, with its brackets."""
CHECKPOINT_HEADER_BYTES_MAX: Final = 64 * 1024
CHECKPOINT_ROW_BYTES_MAX: Final = 8 * 1024 * 1024
CHECKPOINT_SYNC_BYTES: Final = 8 * 1024 * 1024
"""A checkpoint is synced whenever this much was written, so that appends do not wait for all of it at the end."""
BASELINE_STATE_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Largest ``state.json`` of the Rust baseline that is imported."""
STORAGE_CHUNK_BYTES: Final = 1024 * 1024
"""Files are read, hashed and written in pieces of this size."""
RESERVE_BYTES: Final = 1024 * 1024
"""Disk space held back, so that a full disk still takes the last messages of a node."""
DISK_FREE_LOW_BYTES: Final = 64 * 1024 * 1024
"""Below this much free space the operator is warned that the disk will be full."""
LOCK_HINT_BYTES: Final = 512
LOCK_WAIT_STEP_MS: Final = 20
LOCK_NODE_GRACE_MS: Final = 250
"""A lock whose hint names a node for this long is held by a node: waiting for it is useless."""
FEED_INDEX_ROWS_PER_QUERY_MAX: Final = 10_000
ARCHIVE_ROW_BYTES_MAX: Final = 64 * 1024 * 1024
"""Data of one archived row."""
ARCHIVE_WORD_BYTES_MAX: Final = 1_024
"""Key, tag and owner of an archived row, each in UTF-8."""
ARCHIVE_SEGMENT_ROWS_MAX: Final = 1_000_000
ARCHIVE_PAGE_ROWS_MAX: Final = 10_000
ARCHIVE_INDEX_CACHE_KIB: Final = 16 * 1024
"""Page cache of the connection that writes the archive's index."""
SEAL_BYTES_MAX: Final = 256 * 1024 * 1024
"""Sums of the pages of an index."""
ARCHIVE_INDEX_BATCH_ROWS: Final = 512
ARCHIVE_INDEX_WAIT_S: Final = 10
"""How long the writer of the archive's index waits for readers."""
SYNC_REQUEST_RETRY_MS_MAX: Final = 8_000
SYNC_MISSING_FEEDS_MAX: Final = 4_096
SYNC_STALE_HEAD_MS: Final = 4_000
"""After a source promised more of a feed, word from it of less is taken to be older."""
SYNC_MISSING_TTL_MS: Final = 300_000
SYNC_SOURCES_PER_FEED_MAX: Final = 4
SYNC_HEADS_PER_DATAGRAM: Final = 4
"""Heads in a periodic announcement: as many as fit in one datagram beside the envelope."""
PEER_CHALLENGE_INTERVAL_MS: Final = 1_000
PEER_RETURN_MS: Final = 30_000
"""A neighbour that was silent for this long and is heard again is told what we hold at once."""
PEER_RETRY_MS: Final = 1_000
"""A remembered peer that does not answer is tried again after this long, then after twice as long, and so on."""
PEER_RETRY_MS_MAX: Final = 3_600_000
PEER_FAILURES_MAX: Final = 16
"""A remembered peer is forgotten after so many tries in vain."""
PEERS_TRIED_AT_ONCE: Final = 8
PEERS_PER_GROUP_MIN: Final = 8
"""Remembered peers of one host or IPv6 network, at least; else a quarter of all."""
PEERS_REMEMBERED_DEFAULT: Final = 256
PEERS_REMEMBERED_MAX: Final = 4_096
PEERS_FILE_BYTES_MAX: Final = 2 * 1024 * 1024
PEERS_SAVE_S: Final = 5
"""How soon a change among the remembered peers is written to disk."""
PEERS_SEEN_STEP_S: Final = 60
"""That a peer was seen again is written no more often than this."""
PEER_SILENCE_MS_MAX: Final = 15 * 60 * 1000
SOURCES_MAX: Final = 16_384
"""Strangers' IP addresses that are remembered, those heard longest ago first to go."""
SOURCE_PEERS_MAX: Final = 2_048
"""Rows for sources that have proved themselves, and as many for hosts with good history."""
SOURCES_REPORTED_MAX: Final = 64
"""Sources told by name in one event each second; the others are counted together."""
SOURCE_CROWDED_WEIGHT: Final = 8
"""What a stranger's datagram counts while more comes to the socket than is read from it."""
SOURCE_SHARE_PER_S: Final = 200
"""Datagrams of each proven source that do not count towards the total of all sources."""
SOURCE_TRICKLE_PER_S: Final = 50
"""Datagrams that are read of a proven source even while it is penalised: its junk may be forged."""
SOURCE_SLOWED_FACTOR_MAX: Final = 4
"""A proven source is slowed down for at most this many times the first block."""
SOURCE_GOOD_MIN: Final = 16
"""Accepted messages that end a block, take back a strike, and keep a host's row among the lasting ones."""
SOURCE_FORGIVE_MS: Final = 60_000
"""Time without misuse after a block that takes back a strike."""
DROPS_REPORT_MS: Final = 1_000
TOLD_BYTES_MIN: Final = 72
"""A message of fewer bytes says nothing. One event, of some 300 bytes, is written for so many bytes of such."""
TRIFLES_TOLD_ALONE: Final = 64
"""Of these so many are told one by one, in the life of a node."""

# --- Budgets of authors ----------------------------------------------------------------------------------

AUTHORS_MAX: Final = 8_192
"""Authors in each of the tables of known ones, newcomers, and those over their budget."""
AUTHOR_BURST_S: Final = 10
"""Seconds' worth of a budget that an author may use at once."""
AUTHOR_FIRST_COST: Final = 10
"""What the first envelope of an author costs, in envelopes: a feed is dearer to keep than an envelope."""
AUTHOR_KNOWN_ENTRIES: Final = 32
"""Envelopes that this node holds of an author before it is a known one."""
AUTHOR_KNOWN_AFTER_MS: Final = 60_000
"""Time since its first envelope came before an author is a known one."""
AUTHOR_PAUSE_MS: Final = 1_000
"""An author over its budget is not heard, and not asked for, for this long."""
AUTHOR_WATCH_MS: Final = 60_000
"""For this long after being over its budget, what is asked for of an author counts like what comes unasked."""
AUTHOR_THRONG_MS: Final = 10_000
"""For this long after the newcomers' budget was used up, the same holds for all newcomers."""
AUTHOR_HISTORY_SHARE: Final = 10
"""One author's share of the budget for history, as a divisor, after ``AUTHOR_HISTORY_BURST``."""
AUTHOR_HISTORY_BURST: Final = 50_000
"""Envelopes of one author's history that may come at once."""
EVENT_DETAIL_CHARS: Final = 200
EXECUTION_PICK_UP_MS_DEFAULT: Final = 600_000
"""What a seed grants beyond its timeout between claim and result, unless the publisher says otherwise."""
EXIT_CODE_INTERRUPTED: Final = 137
CLOCK_STEP_MS: Final = 1_000
"""A change of the difference to the system's clock from which on the operator is told of a step."""
CLOCK_SLEW_PART: Final = 20
"""The node's time draws near to the system's clock by this part of the time that passes."""
CLOCK_PLAUSIBLE_FROM_S: Final = 1_672_531_200
"""2023-01-01: a clock that says less was never set, and nothing is signed by it. Seconds."""
CLOCK_ASK_FIRST_MS: Final = 500
CLOCK_ASKED_QUICKLY: Final = 4
"""So many times at first, a moment apart, since questions and answers get lost."""
CLOCK_ASK_MS: Final = 600_000
CLOCK_AGAIN_MS: Final = 30_000
"""Newcomers at configured addresses make us ask so often at most."""
CLOCK_VOTE_MS: Final = 1_800_000
"""For how long it counts what a peer has said about the time."""
CLOCK_LEAP_MS: Final = 60_000
CLOCK_ROUNDING_MS: Final = 10
"""By how much two clocks of a machine may differ about a time span of some seconds."""
CLOCK_VOTES_MAX: Final = 256
CLOCK_STRANGERS_MIN: Final = 3
"""Peers that are not configured are heard about the time if at least so many, of different networks, say something."""
AWAY_TOLD_MS: Final = 600_000
"""A node that was not running for this long says so at its start."""
SWEEP_RETRY_MS: Final = 60_000
"""After a refusal, the sweeper tries again to close, forfeit or claim what is due."""
RECLAIM_SAME_WORKER_MS: Final = 30_000
"""From one claim of a worker to the next that the sweeper makes of the same worker for the same seed."""
COMMIT_RECORDS_MAX: Final = 2_048
"""Records queued for the journal beyond which reading from the network waits."""
COMMIT_BYTES_MAX: Final = 32 * 1024 * 1024
"""The same in bytes: a few records are enough for that when each brings a seed back from the archive."""
UNSENT_PER_TARGET_MAX: Final = 256
UNSENT_BYTES_PER_TARGET_MAX: Final = 8 * 1024 * 1024
"""Of envelopes that wait for one target; each counts as its share of the room at least."""
SEND_RETRY_MS: Final = 1_000
SEND_RETRY_MS_MAX: Final = 30_000
DELIVERIES_KEPT_MAX: Final = 1_024
"""Of so many own envelopes it is known where they went."""
DELIVERY_WAIT_MS: Final = 2_000
"""How long an answer waits to tell that; the envelope is stored in any case."""
OUTBOX_MESSAGES_MAX: Final = 16_384
RECEIVE_SLICE: Final = 64
"""Datagrams handled before other tasks of the node have their turn."""
VERIFY_BATCH_MIN: Final = 16
"""Signatures that are worth handing to another process."""
VERIFY_ANSWER_MS: Final = 5_000
"""After this the process that checks signatures is given up."""
VERIFY_RESTART_MS: Final = 60_000
VERIFY_IDLE_MS: Final = 60_000
"""The process that checks signatures ends when no batch came for so long."""
SLICES_AHEAD: Final = 1
"""Slices of datagrams whose signatures are checked, beside the one that is being handled and the one being read."""
WATCH_MS_MAX: Final = 60_000
"""How long a client may wait for a seed to change, with one request."""
SEED_LIST_MAX: Final = 1_000
SEED_ROWS_MAX: Final = 500
"""Bids and facts without effect in one answer about a seed: with the longest texts in them, and in what counts beside
them, it stays below ``CONTROL_RESPONSE_BYTES_MAX``."""
SEED_ROWS_DEFAULT: Final = 100
EQUIVOCATORS_SHOWN_MAX: Final = 100
"""Authors whose forks are proved that ``status`` names, the latest; all are counted."""
TICK_MS: Final = 100
SERVES_WAITING_MAX: Final = 2_048
"""Ranges that one neighbour may wait for."""
SERVE_WANTS_AT_ONCE: Final = 64
SERVE_ENTRIES_AT_ONCE: Final = 1_024
"""Entries sent to one neighbour before the others have their turn."""
FRAMES_READ_BYTES_MAX: Final = 32 * 1024 * 1024
"""Journal frames kept in memory while neighbours read history."""
HASH_SLICE: Final = 64
SHUTDOWN_SEND_S: Final = 2
DESCRIPTORS_MIN: Final = 384
"""Open files that a node needs: some 40 of its own, and for clients of its control socket and runs."""
EVENTS_FLUSH_MS: Final = 100
INDEX_FLUSH_MS: Final = 200
INDEX_BATCH_ENTRIES: Final = 10_000
"""Envelopes indexed in one transaction when the index catches up with the journal."""
INDEX_CATCH_UP_PAUSE_MS: Final = 20
"""Pause after such a batch while a node runs."""
INDEX_LOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""What is written to the index before it is sealed again: a start after a crash indexes as much anew."""
INDEX_LOOK_MS: Final = 1_000
"""Between two looks at a part of the index, of STORAGE_CHUNK_BYTES."""
INDEX_RETRY_MS: Final = 2_000
"""Until the index is tried again after a failure."""
DISK_CHECK_S: Final = 5
ARCHIVE_SEGMENT_SEEDS_MAX: Final = 1_000
"""Seeds that leave memory for one archive segment."""
ARCHIVE_CHECK_S: Final = 1
SYNC_FORK_ATTEMPTS_MAX: Final = 8
"""Requests for the place of a fork that bring nothing further back, until it is given up."""
SYNC_LOST_FORK_MS: Final = 60_000
"""A neighbour's head on a branch that does not stand is not followed again for this long."""
FEED_CLAIM_WAIT_MS: Final = 10_000
"""How long a peer's unproved word that our own feed is longer than we know forbids writing into it."""
FEED_CLAIM_PAUSE_MS: Final = 3_600_000
"""How long no such word does, whoever gives it, after one that did not come true."""
FEED_LIAR_MS: Final = 24 * 3_600_000
"""How long a host is not believed after its word did not come true; then twice as long, and so on."""
FEED_LIAR_DOUBLINGS_MAX: Final = 5
FEED_LIARS_MAX: Final = 1_024
"""Hosts that are not believed; those found out longest ago are forgotten first."""
FEED_QUIET_MS: Final = 2_000
"""Between a peer's confirmation of our feed's head and the end of the risk: time for others to object."""

# --- Operator's tools --------------------------------------------------------------------------------------

AUDIT_FINDINGS_MAX: Final = 1_000
"""Findings kept for the report; further ones are counted."""
AUDIT_NOTES_MAX: Final = 20
"""Notes about decisions that the present rules would not make; further ones are counted."""
AUDIT_CHAINS_MAX: Final = 10_000
"""Tasks whose chains an audit reports one by one; further ones are counted."""
AUDIT_RETRIES: Final = 3
"""Walks over a data dir that changes while it is read."""
LAST_WORDS_MS: Final = 200
"""Time for telling those who wait that the ledger has failed, before the node stops."""
EXPORT_HEADER_BYTES_MAX: Final = 64 * 1024 * 1024
"""First line of an export, which holds two version vectors; also a file that holds one."""
IMPORT_BATCH_BYTES: Final = 512 * 1024
"""Envelopes given to the node at once, before base64."""
IMPORT_BATCH_ENTRIES: Final = 512
IMPORT_SLICE: Final = 64
"""Imported envelopes handled before other tasks of the node have their turn."""
LEFT_OUT_EVENTS_MAX: Final = 100
"""Events about what of a baseline's state could not be imported."""

# --- Errors that nobody expected -----------------------------------------------------------------------------

FAULTS_PENDING_MAX: Final = 64
"""Faults that wait to be told and kept; further ones are counted."""
FAULT_TEXT_CHARS: Final = 32_768
"""Of a traceback its end is kept."""
QUARANTINE_FILES_MAX: Final = 256
QUARANTINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Kept faults, all together; the oldest go."""
CONDEMNED_MAX: Final = 4_096
"""Hashes of messages that are refused since a node failed on them, and as many suspects; the oldest go."""
CONDEMNED_FILE_BYTES_MAX: Final = 1024 * 1024
CONDEMN_S: Final = 5
"""How long a failing node tries to remember what it has failed on."""
DEADLINES_RENEW_MS: Final = 60_000
"""The deadlines of all seeds are noted anew no more often than this."""
JOB_RETRY_S: Final = 5
"""A background job that ended with an unexpected error is begun again after this."""
RESTART_DELAY_S: Final = 1
"""Between the end of a node that failed and its restart."""
RESTART_BUSY_MS: Final = 200
"""A restart that finds the data dir in use by a command tries again after this."""
