"""What an operation is: its name, types, rights, Reasons and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Generic, NamedTuple, TypeVar

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason


class Scope(StrEnum):
    """The right that an operation needs. Each scope includes those before it."""

    METRICS = "metrics"
    """Read the metrics and nothing else."""
    READ = "read"
    """Look at everything that the node shows."""
    OPERATE = "operate"
    """Buy and sell work: publish, bid, claim, run, settle."""
    ADMIN = "admin"
    """Steer the node itself: tokens, imports, stopping."""

    def includes(self, other: Scope) -> bool:
        """Whether a holder of this scope may do what needs the other one."""
        return _RANKS[self] >= _RANKS[other]


_RANKS: Final = {Scope.METRICS: 0, Scope.READ: 1, Scope.OPERATE: 2, Scope.ADMIN: 3}


class Kind(StrEnum):
    """How an operation answers."""

    READS = "reads"
    """Changes nothing. One answer."""
    WRITES = "writes"
    """Changes something. One answer, after the change is durable."""
    STREAMS = "streams"
    """Changes nothing. Any number of items."""


class Alone(StrEnum):
    """How a command performs an operation if no node runs on the data dir."""

    READS = "reads"
    """From the files of the data dir, without a lock."""
    OPENS = "opens"
    """It opens the data dir for the operation, as a node that does not listen."""
    FAILS = "fails"
    """Not at all: only a running node can do it."""


class Route(NamedTuple):
    """The HTTP method and path of an operation below ``/api/v1``. ``{name}`` stands for that field of the request."""

    method: str
    path: str


class Resume(NamedTuple):
    """How a stream continues after a break: ``field`` of the request takes the ``item_field`` of the last item."""

    field: str
    item_field: str


RequestId = Annotated[str, Meta(min_length=1, max_length=limits.REQUEST_ID_CHARS_MAX, pattern=r"^[\x21-\x7e]+\Z")]
"""An id of 1 to 128 visible ASCII characters that the caller chooses."""


class Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of an operation."""


class Empty(Request, frozen=True, kw_only=True):
    """No parameters."""


class Writing(Request, frozen=True, kw_only=True):
    """The parameters of an operation that writes."""

    request_id: RequestId | None = None
    """Names this request. A repetition with this id and the same content gets the first answer and changes nothing."""


P = TypeVar("P", bound=Request)
R = TypeVar("R", bound=Struct)

COMMON: Final = frozenset(
    {
        Reason.INVALID_ARGUMENT,
        Reason.UNKNOWN_OPERATION,
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.UNSUPPORTED_VERSION,
        Reason.LIMIT_EXCEEDED,
        Reason.NODE_STOPPING,
        Reason.NODE_UNREACHABLE,
        Reason.STORAGE_FAILED,
        Reason.DISK_FULL,
        Reason.TIMEOUT,
        Reason.INTERNAL,
    }
)
"""Reasons that every operation may give."""
SIGNING: Final = frozenset({Reason.FEED_RISK, Reason.CLOCK_SUSPECT, Reason.FEED_ENDED, Reason.REQUEST_CONFLICT})
"""Reasons of every operation that signs something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[P, R]):
    """One operation of a node.

    ``response`` is the type of the answer, or of one item if it streams. ``reasons`` are those besides ``COMMON``.
    ``waits``: the answer may take as long as a task.
    """

    name: str
    route: Route
    request: type[P]
    response: type[R]
    scope: Scope
    kind: Kind
    alone: Alone
    summary: str
    """One line."""
    description: str
    """A paragraph."""
    reasons: frozenset[Reason] = frozenset()
    waits: bool = False
    creates: bool = False
    """Without a node, it makes the data dir if there is none, or needs none."""
    proves_itself: bool = False
    """Over HTTP it needs no token, because the request holds the proof of the right: a login."""
    fresh_ms: int = 0
    """Over HTTP an answer may be so old, unless something was written over HTTP since. Only without parameters."""
    resume: Resume | None = None
    """Of a stream that can be continued without a gap."""

    @property
    def streams(self) -> bool:
        """Whether it has items instead of an answer."""
        return self.kind is Kind.STREAMS

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.kind is Kind.WRITES

    @property
    def all_reasons(self) -> frozenset[Reason]:
        """All Reasons that it may give."""
        return self.reasons | COMMON
