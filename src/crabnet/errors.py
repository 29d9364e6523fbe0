"""All refusals and errors of Crabnet: one ``Reason`` enum, one tree of exceptions.

```
CrabnetError                 exit code
├── UsageError               2   a flag, an argument, the environment or the TOML file is wrong
├── RefusedError             3   a rule refused it: lifecycle, authority, verification, runner policy
├── DataDirBusyError         4   another process owns the data dir
├── DataDirDamagedError      5   stored bytes are damaged, newer, or unsafe; nothing was changed
├── StorageFailedError       6   a write, fsync or rename failed: the ledger is poisoned
├── NetworkError             7   an address cannot be bound, resolved or sent to
├── NodeTimeoutError         8   an answer did not come in time
└── NodeFailingError         10  a node failed unexpectedly, and was restarted as often as allowed
```

Functions that check input from peers do not raise these for a refusal. They return an outcome that contains the
``Reason``. Exceptions are for the person or program that made the call.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit codes of the ``crabnet`` command, documented in docs/CLI.md. They are never renumbered."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    REFUSED = 3
    BUSY = 4
    DAMAGED = 5
    STORAGE_FAILED = 6
    NETWORK = 7
    TIMEOUT = 8
    DIFFERENT = 9
    FAILING = 10
    INTERRUPTED = 130


class Reason(StrEnum):
    """The name of a refusal. It is the same in the core, events, metrics, the API and the CLI."""

    # the source of a datagram
    SOURCE_BLOCKED = "source_blocked"
    RATE_LIMITED = "rate_limited"
    MISUSE = "misuse"
    RECEIVE_BUFFER_FULL = "receive_buffer_full"
    # bytes and shape
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    MALFORMED_FRAGMENT = "malformed_fragment"
    UNSUPPORTED_VERSION = "unsupported_version"
    WRONG_NAMESPACE = "wrong_namespace"
    UNKNOWN_KIND = "unknown_kind"
    # time
    EXPIRED = "expired"
    FROM_THE_FUTURE = "from_the_future"
    # seen before, and position in a feed
    DUPLICATE = "duplicate"
    GAP = "gap"
    FORK = "fork"
    BROKEN_CHAIN = "broken_chain"
    FEED_ENDED = "feed_ended"
    UNKNOWN_PARENT = "unknown_parent"
    PARKING_FULL = "parking_full"
    # identity
    WRONG_ID = "wrong_id"
    UNKNOWN_ALGORITHM = "unknown_algorithm"
    UNKNOWN_KEY = "unknown_key"
    MISSING_SIGNATURE = "missing_signature"
    BAD_SIGNATURE = "bad_signature"
    # the HTTP door
    UNAUTHENTICATED = "unauthenticated"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - the name of a refusal
    TOKEN_EXISTS = "token_exists"  # noqa: S105 - the name of a refusal
    REVOKED = "revoked"
    # authority and lifecycle
    UNAUTHORISED = "unauthorised"
    WRONG_PARENT = "wrong_parent"
    WRONG_STATE = "wrong_state"
    UNKNOWN_SEED = "unknown_seed"
    UNKNOWN_BID = "unknown_bid"
    UNKNOWN_CLAIM = "unknown_claim"
    UNKNOWN_RESULT = "unknown_result"
    AMBIGUOUS = "ambiguous"
    UNWORKABLE = "unworkable"
    PRICE_TOO_LOW = "price_too_low"
    DEADLINE_PASSED = "deadline_passed"
    TOO_MANY_BIDS = "too_many_bids"
    NOT_DUE = "not_due"
    LIMIT_EXCEEDED = "limit_exceeded"
    UNSOLICITED = "unsolicited"
    EQUIVOCATOR = "equivocator"
    AUTHOR_LIMITED = "author_limited"
    TOO_MANY_OPEN_SEEDS = "too_many_open_seeds"
    TOO_MANY_OWN_BIDS = "too_many_own_bids"
    TOO_MANY_OWN_STEPS = "too_many_own_steps"
    # running commands
    COMMAND_NOT_ALLOWED = "command_not_allowed"
    COMMAND_TOO_LONG = "command_too_long"
    SHELL_OPERATOR = "shell_operator"
    WORKDIR_OUTSIDE_ROOT = "workdir_outside_root"
    WORKDIR_MISSING = "workdir_missing"
    SPAWN_FAILED = "spawn_failed"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    PROFILE_NOT_ALLOWED = "profile_not_allowed"
    RUN_INTERRUPTED = "run_interrupted"
    RUN_IN_PROGRESS = "run_in_progress"
    RUN_CANCELLED = "run_cancelled"
    CLAIM_OVER = "claim_over"
    QUEUE_FULL = "queue_full"
    # the market: why a worker does not bid
    NOT_ALLOWED = "not_allowed"
    PRICE = "price"
    BUSY = "busy"
    SCHEDULE = "schedule"
    TRUST = "trust"
    RESOURCES = "resources"
    # the market: why a publisher does not choose
    NO_BIDS = "no_bids"
    NO_BID_FITS = "no_bid_fits"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    # the market: how a result is judged
    CONDITIONS_MET = "conditions_met"
    NO_CONDITIONS = "no_conditions"
    EXIT_CODE_DIFFERS = "exit_code_differs"
    OUTPUT_DIFFERS = "output_differs"
    FILE_DIFFERS = "file_differs"
    TOO_SLOW = "too_slow"
    CHECK_FAILED = "check_failed"
    CHECK_UNAVAILABLE = "check_unavailable"
    OUTPUT_CUT = "output_cut"
    # arguments of the caller
    INVALID_ARGUMENT = "invalid_argument"
    INVALID_CONFIG = "invalid_config"
    UNKNOWN_OPERATION = "unknown_operation"
    REQUEST_CONFLICT = "request_conflict"
    FILE_EXISTS = "file_exists"
    FILE_DAMAGED = "file_damaged"
    # requests over HTTP
    FORBIDDEN = "forbidden"
    HOST_REFUSED = "host_refused"
    ORIGIN_REFUSED = "origin_refused"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    # the data dir
    NO_DATA_DIR = "no_data_dir"
    WRONG_OWNER = "wrong_owner"
    DATA_DIR_BUSY = "data_dir_busy"
    DATA_DIR_UNWRITABLE = "data_dir_unwritable"
    DATA_DIR_DAMAGED = "data_dir_damaged"
    DATA_DIR_NEWER = "data_dir_newer"
    UNSAFE_PERMISSIONS = "unsafe_permissions"
    LOCKS_UNSUPPORTED = "locks_unsupported"
    FEED_RISK = "feed_risk"
    CLOCK_SUSPECT = "clock_suspect"
    STORAGE_FAILED = "storage_failed"
    DISK_FULL = "disk_full"
    # network and process
    ADDRESS_IN_USE = "address_in_use"
    ADDRESS_INVALID = "address_invalid"
    SEND_FAILED = "send_failed"
    NODE_UNREACHABLE = "node_unreachable"
    NO_PEERS = "no_peers"
    OWN_ADDRESS = "own_address"
    WRONG_PEER = "wrong_peer"
    WRONG_NETWORK_KEY = "wrong_network_key"
    NODE_STOPPING = "node_stopping"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"
    QUARANTINED = "quarantined"
    RESTARTS_EXHAUSTED = "restarts_exhausted"


PASSING: Final = frozenset({Reason.FEED_RISK, Reason.CLOCK_SUSPECT})
"""Reasons for which a node signs nothing and which end without an operator. The result of a run waits until then."""


class CrabnetError(Exception):
    """Base of all errors that Crabnet raises on purpose.

    ``reason`` is the name of the refusal, for programs. ``message`` says what happened, to what, and what to do.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    default_reason: Reason = Reason.INTERNAL

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        super().__init__(message)


class UsageError(CrabnetError):
    """A flag, environment variable, configuration file or argument is wrong. Nothing was done."""

    exit_code = ExitCode.USAGE
    default_reason = Reason.INVALID_ARGUMENT


class RefusedError(CrabnetError):
    """A rule refused the operation. Nothing was changed."""

    exit_code = ExitCode.REFUSED
    default_reason = Reason.WRONG_STATE


class DataDirBusyError(CrabnetError):
    """Another process owns the data dir. The message names it."""

    exit_code = ExitCode.BUSY
    default_reason = Reason.DATA_DIR_BUSY


class DataDirDamagedError(CrabnetError):
    """Stored bytes cannot be trusted: damaged, written by a newer version, or with unsafe permissions.

    The message names the file and the offset. Nothing was changed. ``crabnet fsck`` shows what can be saved.
    """

    exit_code = ExitCode.DAMAGED
    default_reason = Reason.DATA_DIR_DAMAGED


class StorageFailedError(CrabnetError):
    """A write, fsync, rename or lock failed. The ledger is poisoned, so nothing more is acknowledged."""

    exit_code = ExitCode.STORAGE_FAILED
    default_reason = Reason.STORAGE_FAILED


class NetworkError(CrabnetError):
    """An address cannot be bound, resolved or sent to. Durable data remains durable."""

    exit_code = ExitCode.NETWORK
    default_reason = Reason.SEND_FAILED


class NodeTimeoutError(CrabnetError):
    """An answer did not come in time. It is not known whether the operation took effect; check ``status``."""

    exit_code = ExitCode.TIMEOUT
    default_reason = Reason.TIMEOUT


class NodeFailingError(CrabnetError):
    """A node has failed unexpectedly too often to be restarted again. Durable data remains durable."""

    exit_code = ExitCode.FAILING
    default_reason = Reason.RESTARTS_EXHAUSTED


ERRORS_BY_EXIT_CODE: dict[ExitCode, type[CrabnetError]] = {
    error.exit_code: error
    for error in (
        UsageError,
        RefusedError,
        DataDirBusyError,
        DataDirDamagedError,
        StorageFailedError,
        NetworkError,
        NodeTimeoutError,
        NodeFailingError,
    )
}


def principal(error: BaseException) -> BaseException:
    """The one error to report from a group of concurrent errors. Any other error is returned as it is.

    The order is: errors on which the operator must act (damaged or failing storage), an interruption by the user,
    unexpected errors, errors that Crabnet raises on purpose.
    """
    return min(_leaves(error), key=_rank)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


_CONSEQUENCES = frozenset({Reason.INTERNAL, Reason.NODE_STOPPING})
"""Reasons that the waiters for a commit get if the node ends for another cause."""


def _rank(error: BaseException) -> int:
    if isinstance(error, StorageFailedError | DataDirDamagedError) and error.reason not in _CONSEQUENCES:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 1
    return 3 if isinstance(error, CrabnetError | BrokenPipeError) else 2
