"""How the node is, for those who look after processes. Each answer serves all who ask within a moment."""

from __future__ import annotations

import asyncio

import msgspec

from crabnet import limits
from crabnet.errors import CrabnetError, NodeTimeoutError
from crabnet.operations import overview
from crabnet.operations.problems import Doubt
from crabnet.web.node_client import NodeClient
from crabnet.web.reads import Reads


class Health:
    """The health of the node."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._reads = Reads()
        self._found: overview.Health | CrabnetError | None = None
        self._found_at = 0.0

    async def demand_alive(self) -> None:
        """Raises NodeNotRunningError, NodeTimeoutError and what else the node may answer, if it does not work."""
        await self._look()

    async def doubts(self) -> tuple[Doubt, ...]:
        """Why the node is not ready; empty if it is. Raises as ``demand_alive``."""
        return (await self._look()).reasons

    async def _look(self) -> overview.Health:
        loop = asyncio.get_running_loop()
        if self._found is None or loop.time() - self._found_at >= limits.WEB_HEALTH_MS / 1000:
            try:
                answer = await self._reads.get(b"", self._ask)
                self._found = msgspec.json.decode(answer.body, type=overview.Health)
            except CrabnetError as error:
                self._found = error
            self._found_at = loop.time()
        if isinstance(self._found, CrabnetError):
            raise self._found
        return self._found

    async def _ask(self) -> bytes:
        try:
            async with asyncio.timeout(limits.WEB_HEALTH_ANSWER_MS / 1000):
                return await self._node.read(overview.HEALTH.name, b"{}")
        except TimeoutError:
            raise NodeTimeoutError(f"the node has not answered for {limits.WEB_HEALTH_ANSWER_MS} ms") from None
