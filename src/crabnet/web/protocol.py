"""HTTP/1.1 on one connection: uvicorn's protocol on h11, with bounds on what it waits for."""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from crabnet.errors import Reason
from crabnet.operations.problems import MEDIA_TYPE, problem_of
from crabnet.web.answers import security_headers
from crabnet.web.connections import Connections, Doing, Place
from crabnet.web.doors import Door
from crabnet.web.joining import JoiningTransport


class WebProtocol(H11Protocol):
    """A connection through a door. It tells its ``place`` what it does, so that others can bound that."""

    def __init__(
        self, config: Config, server_state: ServerState, door: Door, place: Place, connections: Connections
    ) -> None:
        super().__init__(config, server_state, {"door": door})
        self._place = place
        self._all = connections
        self._clock = self.loop.time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joining = JoiningTransport(transport, self.loop)
        super().connection_made(joining)
        self._place.close = joining.abort
        self._place.turn(Doing.ASKING, self._clock())

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.leave(self._place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._place.doing is Doing.RESTING:
            self._place.turn(Doing.ASKING, self._clock())
        super().data_received(data)

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.LocalProtocolError:
            # The client has broken the protocol at a moment at which it cannot be told.
            self.transport.abort()
            return
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()
        self._look()

    def _look(self) -> None:
        """Say what the connection does now."""
        if self.transport.is_closing():
            return
        doing = self._doing()
        if doing is not self._place.doing:
            self._place.turn(doing, self._clock())

    def _doing(self) -> Doing:
        cycle: object = self.cycle  # uvicorn declares it before the first request, too
        if isinstance(cycle, RequestResponseCycle) and not cycle.response_complete:
            return Doing.SERVED
        if self.conn.our_state is h11.DONE:
            return Doing.LINGERING
        if self._place.doing is Doing.ASKING or self.conn.trailing_data[0]:
            return Doing.ASKING
        return Doing.RESTING

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says less
        """Refuse bytes that are not HTTP, if the client can still be told."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()
            return
        # uvicorn handles h11's exception, which knows the status, and does not pass it on.
        large = getattr(sys.exception(), "error_status_hint", 0) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        detail = "the headers are too long" if large else "the request is not HTTP/1.1 as this server understands it"
        problem = problem_of(Reason.TOO_LARGE if large else Reason.MALFORMED, detail)
        if large:
            problem = msgspec.structs.replace(problem, status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        body = msgspec.json.encode(problem)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            *security_headers("/api/"),
        ]
        out: list[Any] = [
            h11.Response(
                status_code=problem.status, headers=headers, reason=HTTPStatus(problem.status).phrase.encode()
            ),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in out))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._place.stalled_since = self._clock()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._place.stalled_since = None
