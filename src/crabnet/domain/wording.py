"""How refusals name things: times, nodes, and what has become of a task. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from crabnet.domain.model import FactKind, Progress, SeedStatus

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID_ENDS: Final = 4

NEEDS: Final = {
    FactKind.CLAIM: "a bid can be claimed while a task is open, or after a forfeit",
    FactKind.STARTED: "a run begins after a claim, and once",
    FactKind.RESULT: "a result follows a claim, and there is one for each claim",
    FactKind.SETTLE: "a result can be accepted or rejected, and only once",
    FactKind.FORFEIT: "an attempt can be forfeited after its claim and before it is settled",
    FactKind.CLOSE: "a task can be withdrawn until it is settled",
    FactKind.ACKNOWLEDGED: "a settlement can be acknowledged",
}
"""When a step is possible."""


def utc(at_s: int) -> str:
    """A time in seconds since the epoch, as people and programs read it: ``2026-11-30T15:10:23Z``.

    A time that is no date is given as it is.
    """
    try:
        return (_EPOCH + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{at_s} s after 1970"


def node(node_id: str | None) -> str:
    """The two ends of a node id: they are enough to tell one node from another."""
    if not node_id:
        return "nobody"
    return node_id if len(node_id) <= 4 * _ID_ENDS else f"{node_id[:_ID_ENDS]}…{node_id[-_ID_ENDS:]}"


def standing_of(seed_id: str, progress: Progress) -> str:
    """What has become of a task."""
    at = "" if progress.settled_at is None else f" at {utc(progress.settled_at)}"
    match progress.status:
        case SeedStatus.OPEN:
            became = "is open"
        case SeedStatus.CLAIMED:
            became = f"is claimed for {node(progress.claimed_by)}, which has not begun"
        case SeedStatus.RUNNING:
            became = f"is run by {node(progress.claimed_by)}"
        case SeedStatus.DONE:
            became = f"has a result of {node(progress.claimed_by)}, which its creator has to settle"
        case SeedStatus.ACCEPTED | SeedStatus.REJECTED:
            became = f"was {progress.status.value.lower()}{at} and is over"
        case SeedStatus.FORFEITED:
            became = f"waits for another claim since attempt {progress.attempt} was forfeited{at}"
        case SeedStatus.EXPIRED:
            became = f"was closed{at} and is over"
        case SeedStatus.DISPUTED:
            became = "is disputed, because its creator has forked its feed, and is over"
    return f"task {seed_id} {became}"
