"""What a node tells the service manager that started it: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final, Self

import trio

from crabnet import limits

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")
_UNPRINTABLE: Final = {ord("\n"): " ", ord("\r"): " "}


class ServiceManager:
    """The service manager of this process. Without one, every method does nothing.

    ``address`` is the path of its datagram socket; ``@`` at its start means an abstract name. ``watchdog_s`` is how
    long the manager waits for a sign of life, 0 if it waits for none. ``warn`` gets a line if the manager cannot be
    reached. The node goes on then.
    """

    def __init__(self, warn: Callable[[str], None], address: str = "", watchdog_s: float = 0.0) -> None:
        self._warn = warn
        self._address = address
        self._watchdog_s = watchdog_s
        self._starting = True
        self._lost = False

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str], warn: Callable[[str], None]) -> Self:
        """Return the service manager that ``environ`` names, and remove its variables.

        So no process that this one starts can speak in its name.
        """
        address = environ.pop(_SOCKET, "")
        watchdog_usec, watchdog_pid = (environ.pop(name, "") for name in _WATCHDOG)
        watchdog_s = 0.0
        if watchdog_usec.isascii() and watchdog_usec.isdigit() and watchdog_pid in {"", str(os.getpid())}:
            watchdog_s = int(watchdog_usec) / 1_000_000
        if address and not address.startswith(("/", "@")):
            warn(f"{_SOCKET} is {address}, which is neither a path nor an abstract name; no messages are sent there")
            address = ""
        return cls(warn, address, watchdog_s)

    async def ready(self, status: str) -> None:
        """Say that the node listens."""
        self._starting = False
        await self._tell("READY=1", _status(status))

    async def status(self, text: str) -> None:
        """Say in a line what the node does."""
        await self._tell(_status(text))

    async def stopping(self, status: str, within_ms: int) -> None:
        """Say that the node ends, and that its end or the next message comes within ``within_ms``.

        The time never shortens what the manager allows.
        """
        self._starting = False
        await self._tell("STOPPING=1", _extend(within_ms), _status(status))

    async def keep_informed(self) -> None:
        """Give signs of life until cancelled: for the watchdog, and for a start that takes long.

        This runs beside the node's tasks in their loop. If the loop stands still, the signs stop.
        """
        if not self._address:
            return
        pause_s = limits.SERVICE_ALIVE_MS / 1000
        if self._watchdog_s:
            pause_s = min(pause_s, self._watchdog_s / 2)
        while True:
            signs = ["WATCHDOG=1"] if self._watchdog_s else []
            if self._starting:
                signs.append(_extend(limits.SERVICE_START_EXTENSION_MS))
            if signs:
                await self._tell(*signs)
            await trio.sleep(pause_s)

    async def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        try:
            with trio.fail_after(limits.SERVICE_MESSAGE_WAIT_MS / 1000):
                await _send(self._address, "\n".join(assignments).encode())
        except (OSError, trio.TooSlowError) as error:
            if not self._lost:
                why = str(error) or "it does not read them"
                self._warn(f"the service manager at {self._address} gets no messages: {why}")
            self._lost = True
        else:
            self._lost = False


async def _send(address: str, message: bytes) -> None:
    """Send one datagram. Raises OSError."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        await sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        await sender.send(message)


def _status(text: str) -> str:
    return f"STATUS={text.translate(_UNPRINTABLE)}"


def _extend(within_ms: int) -> str:
    return f"EXTEND_TIMEOUT_USEC={within_ms * 1000}"
