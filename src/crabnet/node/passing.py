"""A node in a thread of this process, with its control socket, for as long as one command needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

import trio

from crabnet import limits
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.domain.record import Record
from crabnet.errors import CrabnetError, RefusedError, principal
from crabnet.monitor.events import Event
from crabnet.monitor.registry import EventKind
from crabnet.monitor.sentences import sentence
from crabnet.node.descriptors import take_descriptors
from crabnet.node.node import Node
from crabnet.node.operations.control_server import serve_control
from crabnet.node.operations.doors import dispatch, dispatch_stream
from crabnet.settings import Settings
from crabnet.storage.layout import CONTROL_SOCKET

_UNACKNOWLEDGED = frozenset({SeedStatus.ACCEPTED, SeedStatus.REJECTED})


class _Trouble:
    """Tells the user of a command what keeps its node from others, and about a failing event log."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn

    def tell(self, event: Event) -> None:
        if event.kind in {EventKind.PEER_REFUSED, EventKind.BOOTSTRAP_FAILED}:
            self._warn(f"crabnet: {sentence(event).text}")

    def tick(self) -> None:
        pass

    def warn(self, text: str, kind: str) -> None:  # noqa: ARG002 - as in Told
        self._warn(f"crabnet: {text}")


class PassingNode:
    """A node on the data dir of ``settings``. Others may use it, too, until it is left.

    Entering raises what entering a ``Node`` raises. Leaving closes the data dir, after ``last_words``.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._told = _Trouble(warn)
        self._thread = threading.Thread(target=self._work, name="node")
        self._begun = threading.Event()
        self._end: Callable[[str], None] | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        take_descriptors()
        self._thread.start()
        try:
            self._begun.wait()
        except BaseException:
            self.leave()
            raise
        if self._end is None:
            self._thread.join()
            raise self._failure()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.leave()
        if error is None and self._error is not None:
            raise self._failure()

    def leave(self, seed_id: str = "") -> None:
        """End the node. If a worker waits to hear how ``seed_id`` ended, it gets some time to say that it has heard."""
        if self._end is not None:
            self._end(seed_id)
        self._thread.join()

    def _failure(self) -> BaseException:
        error = self._error
        if error is None:
            return CrabnetError("the node has ended before it had begun")
        first = principal(error)
        return first if isinstance(first, CrabnetError) else error

    def _work(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error
        finally:
            self._begun.set()

    async def _live(self) -> None:
        ended = trio.Event()
        last: list[str] = []
        token = trio.lowlevel.current_trio_token()

        def end(seed_id: str) -> None:
            def tell() -> None:
                last.append(seed_id)
                ended.set()

            with suppress(trio.RunFinishedError):
                token.run_sync_soon(tell)

        async with Node(self._settings, told=self._told, passing=True) as node, trio.open_nursery() as nursery:
            socket = self._settings.data_dir / CONTROL_SOCKET
            serve = partial(serve_control, socket, partial(dispatch, node), stream=partial(dispatch_stream, node))
            await nursery.start(serve)
            self._end = end
            self._begun.set()
            await ended.wait()
            await _last_words(node, last[0])
            nursery.cancel_scope.cancel()


async def _last_words(node: Node, seed_id: str) -> None:
    """Wait until the worker has acknowledged how a seed ended, within ACKNOWLEDGE_WAIT_MS."""
    with trio.move_on_after(limits.ACKNOWLEDGE_WAIT_MS / 1000):
        while seed_id:
            changed = node.next_change()
            try:
                record = node.core.record(seed_id)
            except RefusedError:
                return
            if not _waits(record):
                return
            await changed.wait()


def _waits(record: Record) -> bool:
    heard = any(fact.kind is FactKind.ACKNOWLEDGED for fact in record.others)
    return record.progress.status in _UNACKNOWLEDGED and not heard
