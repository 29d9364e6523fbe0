"""Does one method without a running node: it opens the data dir, does the method, sends, and closes."""

from __future__ import annotations

import signal
from collections.abc import Callable

import trio

from crabnet.errors import CrabnetError, StorageFailedError, principal
from crabnet.monitor.events import Event
from crabnet.monitor.registry import EventKind
from crabnet.monitor.sentences import sentence
from crabnet.node.descriptors import take_descriptors
from crabnet.node.ending import Asked, until_signal
from crabnet.node.node import Node
from crabnet.node.operations.doors import as_json, dispatch
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.settings import Settings


class Refusals:
    """Tells the operator of a one-shot command only whose messages are refused, and about a failing event log."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def tell(self, event: Event) -> None:
        if event.kind == EventKind.PEER_REFUSED:
            self._warn(f"WARNING: {sentence(event).text}")

    def tick(self) -> None:
        pass

    def warn(self, text: str, kind: str) -> None:  # noqa: ARG002 - as in Told
        self._warn(f"crabnet: {text}")


def call_locally(settings: Settings, method: str, params: JsonObject, warn: Callable[[str], None]) -> JsonValue:
    """The answer that a node would give. Raises CrabnetError; that is DataDirBusyError if a node holds the data dir.

    A signal that asks the process to end cancels the method, unless it is done. The data dir is then closed cleanly,
    and the signal takes its usual effect. Effects that are durable by then remain. A run gets a result, which says
    that this worker failed. If a disk fails or is full after the method was done, the answer is valid, and ``warn``
    gets a line about the failure.
    """
    take_descriptors()
    answers: list[JsonValue] = []

    async def once(asked: Asked) -> None:
        async with Node(settings, listen=False, told=Refusals(warn)) as node, trio.open_nursery() as nursery:
            nursery.start_soon(given_up, node, asked, nursery.cancel_scope)
            answers.append(as_json(await dispatch(node, method, params)))
            nursery.cancel_scope.cancel()

    async def given_up(node: Node, asked: Asked, scope: trio.CancelScope) -> None:
        await asked.to_end.wait()
        if (await node.run_manager.drain(0, asked.at_once)).ended:
            answers.clear()
            warn("crabnet: the run was ended; its result tells the publisher that this worker failed")
        scope.cancel()

    try:
        came = trio.run(until_signal, once)
    except (CrabnetError, BaseExceptionGroup) as error:
        failure = principal(error)
        if not answers or not isinstance(failure, StorageFailedError):
            raise
        # The operation is durable. If this call failed, the caller would repeat it.
        warn(f"crabnet: the command was done, but the data dir was not closed cleanly: {failure.message}")
        return answers[0]
    if came is not None and not answers:
        signal.raise_signal(came)
        raise KeyboardInterrupt  # for a signal that the embedding program ignores or handles
    return answers[0]
