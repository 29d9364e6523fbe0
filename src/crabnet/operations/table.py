"""The table of all operations."""

from __future__ import annotations

from typing import Any, Final

from crabnet.operations import access, info, seeds
from crabnet.operations.model import Operation

OPERATIONS: Final[tuple[Operation[Any, Any], ...]] = (
    info.STATUS,
    info.ID,
    info.CONFIG,
    info.PEERS,
    seeds.PUBLISH,
    seeds.BID,
    seeds.CLAIM,
    seeds.RUN,
    seeds.CANCEL,
    seeds.SETTLE,
    seeds.LIST,
    seeds.SHOW,
    seeds.WATCH,
    seeds.RUNS,
    info.VECTOR,
    info.IMPORT,
    access.TOKEN_NEW,
    access.TOKEN_LIST,
    access.TOKEN_REVOKE,
    access.WEB_LINK,
    access.WEB_REDEEM,
    access.REPORT,
)
BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}
