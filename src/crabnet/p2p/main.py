"""The libp2p process as a child of a node (ADR 33, ADR 43)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec
import trio

from crabnet.child import Lifeline, Retry
from crabnet.errors import CrabnetError, Reason
from crabnet.p2p.stand_in import without_fastecdsa
from crabnet.transport.p2p_wire import Given


def serve(lifeline: Lifeline) -> None:
    """Take part in the network until the node ends. What the node gives is a ``Given`` in msgpack."""
    given = msgspec.msgpack.decode(lifeline.given, type=Given)
    without_fastecdsa()
    logging.disable()  # libp2p formats whole messages of strangers into its log
    from crabnet.p2p.service import Service  # noqa: PLC0415 - imports libp2p

    async def run() -> None:
        service = Service(given, lifeline)
        try:
            await service.run()
        except* CrabnetError as group:
            error = next(_leaves(group))
            if service.is_ready:
                raise
            soon = error.reason is Reason.ADDRESS_IN_USE
            lifeline.fail(error.reason, error.message, Retry.SLOWLY if soon else Retry.NEVER)

    trio.run(run)


def _leaves(group: BaseExceptionGroup[CrabnetError]) -> Iterator[CrabnetError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
