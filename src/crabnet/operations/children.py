"""The state of a child, for ``status`` and ``/health``."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from crabnet.errors import Reason


class ChildState(StrEnum):
    """What a child does at the moment."""

    STARTING = "starting"
    """It is started, and has not yet said that it works."""
    RUNNING = "running"
    WAITING = "waiting"
    """It has failed and will be started again."""
    FAILED = "failed"
    """It has failed and is not started again before the node is."""
    STOPPED = "stopped"
    """It is not needed at the moment, or the node is ending."""
    OFF = "off"
    """The settings say that there is none."""


class ChildHealth(Struct, frozen=True, kw_only=True):
    """The health of one child."""

    name: str
    state: ChildState
    since_ms: int
    """When this state began, milliseconds since the epoch."""
    pid: int | None = None
    """The process id, if there is a process."""
    restarts: int = 0
    """How often it was started again after a failure."""
    reason: Reason | None = None
    """Why it does not work, if it has failed."""
    detail: str = ""
    """The same in words; what a child that runs says about itself."""
    addresses: tuple[str, ...] = ()
    """Where a child that runs can be reached."""
    next_try_ms: int | None = None
    """When a child that waits is started again, milliseconds since the epoch."""
