"""``crabnet alerts test``: one try at each target, now."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio
from msgspec import Struct

from crabnet.alerts.config import AlertsConfig
from crabnet.alerts.messages import Sender, test_message
from crabnet.alerts.sending import Outcome, Sending, send
from crabnet.alerts.targets import Target, obstacle


class Tested(Struct, frozen=True, kw_only=True):
    """How the try at one target went."""

    target: Target
    outcome: Outcome


def test_targets(config: AlertsConfig, targets: Sequence[Target], node: Sender, now_s: int) -> list[Tested]:
    """Send a test message to targets, all at once. Blocks for at most ``alert_timeout_ms``, and some more."""
    how = Sending(signing_secret=config.alert_secret, timeout_ms=config.alert_timeout_ms)
    message = test_message(node, now_s)
    outcomes: dict[int, Outcome] = {}

    async def one(target: Target) -> None:
        error = obstacle(target)
        if error is not None:
            outcomes[target.number] = Outcome(reason=error.reason, detail=error.message)
        else:
            outcomes[target.number] = await send(target, message, how)

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(partial(one, target))

    trio.run(all_of_them)
    return [Tested(target=target, outcome=outcomes[target.number]) for target in targets]
