"""Whether a core writes into its own feed."""

from __future__ import annotations

from typing import Final

from crabnet.core.commands import Publish
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.errors import Reason, RefusedError

WISH: Final = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)


def publishes(core: Core, now_ms: int) -> bool:
    """Have it publish; False if it refuses for the risk to its feed."""
    try:
        core.handle(WISH, now_ms, Effects())
    except RefusedError as error:
        if error.reason is not Reason.FEED_RISK:
            raise
        return False
    return True
