"""The web process: by hand (``crabnet web``), or as a child of a node."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import msgspec

from crabnet.errors import Reason
from crabnet.operations import info
from crabnet.web.app import Web, application
from crabnet.web.clients import Clients
from crabnet.web.config import WebConfig
from crabnet.web.connections import Connections
from crabnet.web.doors import Door, is_loopback, open_doors
from crabnet.web.logins import Grant, Logins, check_of
from crabnet.web.node_client import NodeClient
from crabnet.web.notes import note
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
    if config.web_addr != "off" and config.web_tls_cert is None and not is_loopback(config.web_addr):
        lines.append(
            f"WARNING: the web address {config.web_addr} can be reached from other machines without TLS: everybody on"
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

    async def namespace() -> str:
        return msgspec.json.decode(await node.read(info.ID.name, b"{}"), type=info.Identity).namespace

    logins = Logins(
        check_of(config.web_api_token, _none_stored), required=config.web_api_auth_required, report=_report_login
    )
    web = Web(node, Clients(logins, config.web_requests_per_sec, namespace))
    connections = Connections(config.web_connections_max, config.web_address_connections_max, _report_slow)
    server = Server(application(web), doors, connections)
    ready([door.address for door in doors])
    await server.serve(asked)
    node.close()


def _none_stored(_: str) -> Grant | None:
    return None


def _report_login(address: str, reason: Reason) -> None:
    note(f"web: a login from {address} failed: {reason.value}")


def _report_slow(address: str, what: str) -> None:
    note(f"web: disconnected {address}: {what}")
