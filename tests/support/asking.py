"""Operations of a node in this process, answered as JSON."""

from __future__ import annotations

from crabnet.node.node import Node
from crabnet.node.operations.doors import as_json, dispatch
from crabnet.protocol.canonical import JsonObject


async def asked(node: Node, method: str, params: JsonObject) -> JsonObject:
    answer = as_json(await dispatch(node, method, params))
    assert isinstance(answer, dict)
    return answer
