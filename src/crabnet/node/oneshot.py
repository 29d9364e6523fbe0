"""One method done without a running node: open the data dir, do it, send, close."""

from __future__ import annotations

import trio

from crabnet.node.node import Node
from crabnet.node.operations import dispatch
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.settings import Settings


def call_locally(settings: Settings, method: str, params: JsonObject) -> JsonValue:
    """What a node would answer. Raises CrabnetError, DataDirBusyError when a node owns the data dir."""

    async def once() -> None:
        node = Node(settings, listen=False)
        async with node:
            answers.append(await dispatch(node, method, params))

    answers: list[JsonValue] = []
    trio.run(once)
    return answers[0]
