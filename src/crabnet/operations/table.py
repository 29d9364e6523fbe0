"""The table of all operations."""

from __future__ import annotations

from typing import Any, Final

from crabnet.operations import (
    access,
    accounts,
    events,
    health,
    history,
    info,
    judging,
    market,
    metrics,
    network,
    overview,
    purchases,
    seeds,
    steering,
    work,
)
from crabnet.operations.model import Operation

MODULES: Final = (
    overview,
    info,
    network,
    health,
    seeds,
    judging,
    accounts,
    purchases,
    history,
    market,
    events,
    steering,
    work,
    access,
    metrics,
)
"""The modules that define operations."""
OPERATIONS: Final[tuple[Operation[Any, Any], ...]] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Operation)
)
BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}
