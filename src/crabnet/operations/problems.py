"""Refusals over HTTP: the status of each Reason, what to do about it, and the problem document (RFC 9457)."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.errors import Reason

URN: Final = "urn:crabnet:problem:"
"""The ``type`` of a problem is this and its Reason. It is the same on every node and in every version."""
MEDIA_TYPE: Final = "application/problem+json"


class Doubt(Struct, frozen=True, kw_only=True):
    """Why a node is not ready."""

    reason: str
    """A Reason."""
    detail: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457). ``docs/PROBLEMS.md`` explains each ``type``."""

    type: str
    """`urn:crabnet:problem:` and the Reason."""
    title: str
    """The same for all problems of a type."""
    status: int
    """The status code of the answer."""
    reason: str
    """The name of the refusal, the same through every door."""
    detail: str = ""
    """What happened this time, and what to do."""
    reasons: tuple[Doubt, ...] = ()
    """All reasons why the node is not ready; only for `/readyz`."""


def problem_of(reason: Reason, detail: str = "", doubts: tuple[Doubt, ...] = ()) -> Problem:
    """The problem document of a refusal."""
    return Problem(
        type=URN + reason.value,
        title=reason.value.replace("_", " ").capitalize(),
        status=STATUS[reason],
        reason=reason.value,
        detail=detail,
        reasons=doubts,
    )


_BY_STATUS: Final[dict[int, tuple[Reason, ...]]] = {
    400: (
        Reason.INVALID_ARGUMENT,
        Reason.INVALID_CONFIG,
        Reason.EMPTY,
        Reason.MALFORMED,
        Reason.MALFORMED_FRAGMENT,
        Reason.UNSUPPORTED_VERSION,
        Reason.ADDRESS_INVALID,
        Reason.OWN_ADDRESS,
        Reason.AMBIGUOUS,
        Reason.NO_DATA_DIR,
    ),
    401: (Reason.UNAUTHENTICATED,),
    403: (
        Reason.FORBIDDEN,
        Reason.ORIGIN_REFUSED,
        Reason.UNAUTHORISED,
        Reason.EQUIVOCATOR,
        Reason.SOURCE_BLOCKED,
        Reason.COMMAND_NOT_ALLOWED,
        Reason.COMMAND_TOO_LONG,
        Reason.SHELL_OPERATOR,
        Reason.PROFILE_NOT_ALLOWED,
        Reason.WORKDIR_OUTSIDE_ROOT,
        Reason.MISUSE,
        Reason.UNSOLICITED,
        Reason.NOT_ALLOWED,
        Reason.TRUST,
    ),
    404: (
        Reason.NOT_FOUND,
        Reason.UNKNOWN_SEED,
        Reason.UNKNOWN_KEY,
        Reason.UNKNOWN_BID,
        Reason.UNKNOWN_CLAIM,
        Reason.UNKNOWN_RESULT,
        Reason.UNKNOWN_OPERATION,
        Reason.UNKNOWN_TOKEN,
    ),
    405: (Reason.METHOD_NOT_ALLOWED,),
    409: (
        Reason.REQUEST_CONFLICT,
        Reason.TOKEN_EXISTS,
        Reason.REVOKED,
        Reason.WRONG_STATE,
        Reason.WRONG_PARENT,
        Reason.DEADLINE_PASSED,
        Reason.NOT_DUE,
        Reason.PRICE_TOO_LOW,
        Reason.UNWORKABLE,
        Reason.LIMIT_EXCEEDED,
        Reason.TOO_MANY_BIDS,
        Reason.TOO_MANY_OPEN_SEEDS,
        Reason.TOO_MANY_OWN_BIDS,
        Reason.TOO_MANY_OWN_STEPS,
        Reason.RUN_IN_PROGRESS,
        Reason.RUN_CANCELLED,
        Reason.RUN_INTERRUPTED,
        Reason.CLAIM_OVER,
        Reason.FEED_ENDED,
        Reason.FILE_EXISTS,
        Reason.DUPLICATE,
        Reason.GAP,
        Reason.FORK,
        Reason.BROKEN_CHAIN,
        Reason.UNKNOWN_PARENT,
        Reason.EXPIRED,
        Reason.FROM_THE_FUTURE,
        Reason.WRONG_NAMESPACE,
        Reason.WRONG_OWNER,
        Reason.PRICE,
        Reason.NO_BIDS,
        Reason.NO_BID_FITS,
        Reason.ATTEMPTS_EXHAUSTED,
        Reason.CONDITIONS_MET,
        Reason.NO_CONDITIONS,
        Reason.EXIT_CODE_DIFFERS,
        Reason.OUTPUT_DIFFERS,
        Reason.FILE_DIFFERS,
        Reason.TOO_SLOW,
        Reason.CHECK_FAILED,
        Reason.CHECK_UNAVAILABLE,
        Reason.OUTPUT_CUT,
    ),
    413: (Reason.TOO_LARGE,),
    415: (Reason.UNSUPPORTED_MEDIA_TYPE,),
    421: (Reason.HOST_REFUSED,),
    422: (
        Reason.UNKNOWN_KIND,
        Reason.WRONG_ID,
        Reason.UNKNOWN_ALGORITHM,
        Reason.MISSING_SIGNATURE,
        Reason.BAD_SIGNATURE,
        Reason.FILE_DAMAGED,
    ),
    429: (Reason.RATE_LIMITED, Reason.AUTHOR_LIMITED),
    500: (
        Reason.INTERNAL,
        Reason.DATA_DIR_DAMAGED,
        Reason.DATA_DIR_NEWER,
        Reason.DATA_DIR_UNWRITABLE,
        Reason.UNSAFE_PERMISSIONS,
        Reason.LOCKS_UNSUPPORTED,
        Reason.STORAGE_FAILED,
        Reason.SPAWN_FAILED,
        Reason.RESTARTS_EXHAUSTED,
        Reason.QUARANTINED,
        Reason.ADDRESS_IN_USE,
    ),
    503: (
        Reason.NODE_UNREACHABLE,
        Reason.NODE_STOPPING,
        Reason.FEED_RISK,
        Reason.CLOCK_SUSPECT,
        Reason.QUEUE_FULL,
        Reason.BUSY,
        Reason.SCHEDULE,
        Reason.RESOURCES,
        Reason.PARKING_FULL,
        Reason.RECEIVE_BUFFER_FULL,
        Reason.SANDBOX_UNAVAILABLE,
        Reason.WORKDIR_MISSING,
        Reason.DATA_DIR_BUSY,
        Reason.SEND_FAILED,
        Reason.NO_PEERS,
        Reason.WRONG_PEER,
        Reason.WRONG_NETWORK_KEY,
        Reason.UNAVAILABLE,
    ),
    504: (Reason.TIMEOUT,),
    507: (Reason.DISK_FULL,),
}
STATUS: Final[dict[Reason, int]] = {reason: status for status, reasons in _BY_STATUS.items() for reason in reasons}
"""The HTTP status of each Reason."""
RETRY_AFTER_S: Final[dict[int, int]] = {429: 1, 503: 1}
"""The least ``Retry-After`` of answers with this status, in seconds."""

EVERYWHERE: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.HOST_REFUSED,
        Reason.ORIGIN_REFUSED,
        Reason.RATE_LIMITED,
        Reason.INTERNAL,
    }
)
"""Reasons that the HTTP server gives for any path."""
