"""What a child is, and how it can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crabnet import limits
from crabnet.child import Retry
from crabnet.errors import Reason


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process that a node starts with its own interpreter and module search path."""

    name: str
    """The name of the child in events and in ``status``."""
    entry: str
    """``module:function``. The function gets the child's ``crabnet.child.Lifeline``."""
    without: str = ""
    """What the operator lacks while the child does not work, as a clause."""
    given: bytes | Callable[[], bytes] = field(default=b"", repr=False)
    """Configuration and secrets, or what makes them at each start. They are sent over the lifeline, so neither argv nor
    the environment shows them."""
    environment: tuple[str, ...] = ()
    """Variables of the node's environment that the child gets. It gets no others, apart from LD_LIBRARY_PATH."""
    stderr: bool = False
    """Whether the child's stderr is that of the node. Otherwise nobody sees it."""
    handshake_ms: int = limits.CHILD_HANDSHAKE_MS
    """Time from the start to the handshake."""
    stop_ms: int = limits.CHILD_STOP_MS
    """How long an orderly end may take until the child is killed."""
    restart_ms: int = limits.CHILD_RESTART_MS
    """Pause after the first failure in a row. It doubles with each further one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a child does not work."""

    reason: Reason
    detail: str
    retry: Retry = Retry.SOON
