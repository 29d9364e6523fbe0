"""Accepts connections at the doors, as many as are allowed, until the process is asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import partial
from typing import Final

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from crabnet import limits
from crabnet.web.connections import Connections, Place
from crabnet.web.doors import Door
from crabnet.web.protocol import WebProtocol

_FULL_S: Final = 0.05
"""Pause after an accept that failed, for example for lack of descriptors."""


class Server:
    """Serves an ASGI application at some doors."""

    def __init__(self, app: ASGIApp, doors: Sequence[Door], connections: Connections) -> None:
        self._doors = doors
        self._connections = connections
        self._state = ServerState()
        self._beginning: set[asyncio.Task[None]] = set()
        self._config = Config(
            app,
            http=WebProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=limits.WEB_HEADER_BYTES_MAX,
        )
        self._config.load()

    async def serve(self, asked: asyncio.Event) -> None:
        """Serve until ``asked``. Requests under way then have a moment to end."""
        raise_descriptor_limit()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._accept(door)) for door in self._doors]
            tasks.append(group.create_task(self._tick()))
            await asked.wait()
            for task in tasks:
                task.cancel()
        for door in self._doors:
            door.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=limits.WEB_STOP_MS / 1000)
        for task in list(self._state.tasks):
            task.cancel()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            self._connections.sweep(loop.time())
            await asyncio.sleep(limits.WEB_SWEEP_MS / 1000)

    async def _accept(self, door: Door) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(door.socket)
            except OSError:
                await asyncio.sleep(_FULL_S)
                continue
            address = "unix" if door.local or not isinstance(peer, tuple) else str(peer[0])
            place = self._connections.enter(address, loop.time())
            if place is None:
                sock.close()
                continue
            task = loop.create_task(self._begin(sock, door, place))
            self._beginning.add(task)
            place.close = task.cancel
            task.add_done_callback(partial(self._begun, sock, place))
            await asyncio.sleep(0)  # an accept that succeeds at once does not let others work

    async def _begin(self, sock: socket.socket, door: Door, place: Place) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.WEB_SEND_BUFFER_BYTES)
        if not door.local:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: WebProtocol(self._config, self._state, door, place, self._connections),
            sock,
            ssl=door.tls,
            ssl_handshake_timeout=None if door.tls is None else limits.WEB_TLS_HANDSHAKE_MS / 1000,
        )

    def _begun(self, sock: socket.socket, place: Place, task: asyncio.Task[None]) -> None:
        """A connection is open, or has failed before, which is nothing unusual: the client may have left."""
        self._beginning.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._connections.leave(place)
            sock.close()


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as its hard limit says."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
