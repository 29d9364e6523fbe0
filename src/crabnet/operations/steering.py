"""The operations that steer the node itself: pausing its runs, and ending it."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason
from crabnet.operations.model import Alone, Kind, Operation, Route, Scope, Writing


class RunsState(Struct, frozen=True, kw_only=True):
    """Whether runs may start on this node, and how many there are."""

    paused: bool
    """No run starts until `runs.resume`. Those that go on are not affected."""
    draining: bool
    """The node is about to end: it makes no bid and starts no run."""
    running: int
    queued: int


class SwitchRequest(Writing, frozen=True, kw_only=True):
    """No further parameters."""


class DrainRequest(Writing, frozen=True, kw_only=True):
    """How long the runs that go on may take."""

    timeout_ms: Annotated[int, Meta(ge=0, le=limits.DRAIN_MS_MAX)] | None = None
    """After this, the node ends the runs that still go on. Null: `runner_drain_ms`."""


class Drained(Struct, frozen=True, kw_only=True):
    """What became of the runs."""

    finished: int
    """Runs that ended by themselves."""
    ended: int
    """Runs that the node ended, or that had not begun. Their results say that this worker failed."""
    duration_ms: int


PAUSE: Final = Operation(
    name="runs.pause",
    route=Route("POST", "/runs/pause"),
    request=SwitchRequest,
    response=RunsState,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    summary="Start no further run.",
    description=(
        "Runs that go on continue. Further ones wait in the queue, up to `runner_queue_max`. An operator can still bid."
        " The pause lasts until `runs.resume`, or until the process ends. It is kept when `listen`"
        " restarts the node after an unexpected error."
    ),
    reasons=frozenset({Reason.REQUEST_CONFLICT}),
)
RESUME: Final = Operation(
    name="runs.resume",
    route=Route("POST", "/runs/resume"),
    request=SwitchRequest,
    response=RunsState,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    summary="Let runs start again.",
    description="The runs in the queue start in the order of their turns.",
    reasons=frozenset({Reason.REQUEST_CONFLICT}),
)
DRAIN: Final = Operation(
    name="node.drain",
    route=Route("POST", "/drain"),
    request=DrainRequest,
    response=Drained,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    waits=True,
    summary="End the node when its runs have ended.",
    description=(
        "The node makes no bid and starts no run from now on. Runs that wait end at once, and those that go on may take"
        " `timeout_ms`. Everything else continues meanwhile, so results still go out. The answer comes when the runs"
        " have ended. The node then makes a checkpoint, and its process ends with exit code 0. If the node is ending"
        " already, the answer is that of its runs, and `timeout_ms` changes nothing."
    ),
    reasons=frozenset({Reason.REQUEST_CONFLICT, Reason.UNAVAILABLE}),
)
STOP: Final = Operation(
    name="node.stop",
    route=Route("POST", "/stop"),
    request=SwitchRequest,
    response=Drained,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    waits=True,
    summary="End the node soon.",
    description=(
        f"As `node.drain` with a `timeout_ms` of {limits.STOP_DRAIN_MS}. If the node is draining already, it ends its"
        " runs at once."
    ),
    reasons=frozenset({Reason.REQUEST_CONFLICT, Reason.UNAVAILABLE}),
)
