"""One method done without a running node: open the data dir, do it, send, close."""

from __future__ import annotations

import signal
from collections.abc import Callable

import trio

from crabnet.errors import CrabnetError, StorageFailedError, principal
from crabnet.node.descriptors import take_descriptors
from crabnet.node.ending import Asked, until_signal
from crabnet.node.node import Node
from crabnet.node.operations.operations import dispatch
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.settings import Settings


def call_locally(settings: Settings, method: str, params: JsonObject, warn: Callable[[str], None]) -> JsonValue:
    """What a node would answer. Raises CrabnetError, DataDirBusyError when a node owns the data dir.

    A signal that asks the process to end gives up the method, unless it is done, and closes the data dir in order;
    then the signal does what it would have done. What is durable by then stays. A run ends with a result, which says
    that this worker failed. If a disk fails, or is full, after the
    method was done, the answer counts, and ``warn`` is told of the rest.
    """
    take_descriptors()
    answers: list[JsonValue] = []

    async def once(asked: Asked) -> None:
        async with Node(settings, listen=False, warn=warn) as node, trio.open_nursery() as nursery:
            nursery.start_soon(given_up, node, asked, nursery.cancel_scope)
            answers.append(await dispatch(node, method, params))
            nursery.cancel_scope.cancel()

    async def given_up(node: Node, asked: Asked, scope: trio.CancelScope) -> None:
        await asked.to_end.wait()
        if await node.run_manager.drain(0, asked.at_once):
            answers.clear()
            warn("crabnet: the run was ended; its result tells the publisher that this worker failed")
        scope.cancel()

    try:
        came = trio.run(until_signal, once)
    except (CrabnetError, BaseExceptionGroup) as error:
        failure = principal(error)
        if not answers or not isinstance(failure, StorageFailedError):
            raise
        # What was answered is durable: to fail now would have it done again.
        warn(f"crabnet: done, but the data dir was not closed in order: {failure.message}")
        return answers[0]
    if came is not None and not answers:
        signal.raise_signal(came)
        raise KeyboardInterrupt  # for a signal that is ignored or handled by whoever embeds this
    return answers[0]
