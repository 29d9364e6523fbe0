"""The web process: by hand (``crabnet web``), or as a child of a node."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from crabnet.access.file import token_reader
from crabnet.access.gate import Gate, Rules
from crabnet.errors import CrabnetError
from crabnet.operations import info
from crabnet.settings import OFF, is_loopback
from crabnet.web.app import Web, application
from crabnet.web.clients import Clients
from crabnet.web.config import WebConfig
from crabnet.web.connections import Connections
from crabnet.web.doors import Door, open_doors
from crabnet.web.node_client import NodeClient
from crabnet.web.reads import Reads
from crabnet.web.reports import Reports
from crabnet.web.serving import Server


def run(config: WebConfig, ready: Callable[[Sequence[str]], None], warn: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` gets the addresses once they are open.

    Raises NetworkError (ADDRESS_IN_USE, ADDRESS_INVALID) and UsageError (INVALID_CONFIG).
    """
    doors = open_doors(config)
    try:
        for line in warnings_of(config):
            warn(line)
        asyncio.run(_serve(config, doors, ready))
    finally:
        for door in doors:
            door.close()


def warnings_of(config: WebConfig) -> list[str]:
    """What an operator should know about a configuration, a line each."""
    lines = []
    for address in (config.web_addr, config.metrics_addr or OFF):
        if address != OFF and config.web_tls_cert is None and not is_loopback(address):
            lines.append(
                f"WARNING: the web address {address} can be reached from other machines without TLS: everybody on"
                " the way can read tokens and data; set web_tls_cert and web_tls_key, or listen on 127.0.0.1"
            )
    if not config.web_api_auth_required:
        lines.append(
            "WARNING: web_api_auth_required = false: everybody who reaches the web address may read everything"
        )
    return lines


async def _serve(config: WebConfig, doors: Sequence[Door], ready: Callable[[Sequence[str]], None]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    node = NodeClient(config.directory, config.control_timeout_ms)

    reports = Reports(node)
    rules = Rules(config.web_api_token, config.web_api_auth_required)
    gate = Gate(token_reader(config.directory).tokens, rules)
    clients = Clients(gate, config.web_requests_per_sec, Namespace(node).get, reports)
    web = Web(node, clients, reports, metrics_apart=config.metrics_addr is not None)
    connections = Connections(config.web_connections_max, config.web_address_connections_max, reports.add)
    server = Server(application(web), doors, connections)
    ready([door.address for door in doors])
    reporting = asyncio.create_task(reports.run())
    await server.serve(asked)
    reporting.cancel()
    node.close()


class Namespace:
    """The namespace of the node. It stays the same as long as the data dir exists. All who wait share one question."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._reads = Reads()
        self._found: str | None = None

    async def get(self) -> str | None:
        """The namespace; None while the node cannot say it."""
        if self._found is None:
            with suppress(CrabnetError):
                answer = await self._reads.get(b"", lambda: self._node.read(info.ID.name, b"{}"))
                self._found = msgspec.json.decode(answer.body, type=info.Identity).namespace
        return self._found
