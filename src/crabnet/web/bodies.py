"""Receives the bodies of requests, within bounds of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

from starlette.types import Receive

from crabnet import limits
from crabnet.errors import CrabnetError, NodeTimeoutError, Reason, UsageError
from crabnet.web.guarding import ClientLeftError


class LateBodyError(NodeTimeoutError):
    """The body of a request did not come in time. Nothing was done."""

    http_status = HTTPStatus.REQUEST_TIMEOUT


class Bodies:
    """All bodies that are being received."""

    def __init__(self) -> None:
        self._bytes = 0

    async def receive(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body.

        Raises UsageError (TOO_LARGE), LateBodyError, CrabnetError (RATE_LIMITED), ClientLeftError.
        """
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > limits.WEB_BODY_BYTES_MAX:
            raise _too_large()
        taken = 0
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(limits.WEB_BODY_MS / 1000):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError
                    chunk: bytes = message.get("body", b"")
                    taken += len(chunk)
                    self._bytes += len(chunk)
                    chunks.append(chunk)
                    if taken > limits.WEB_BODY_BYTES_MAX:
                        raise _too_large()
                    if self._bytes > limits.WEB_BODIES_BYTES_MAX:
                        raise CrabnetError("too many large requests at once; try again", Reason.RATE_LIMITED)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise LateBodyError(f"the body did not come within {limits.WEB_BODY_MS // 1000} s") from None
        finally:
            self._bytes -= taken


def _too_large() -> UsageError:
    return UsageError(f"the body has more than {limits.WEB_BODY_BYTES_MAX} bytes", Reason.TOO_LARGE)
