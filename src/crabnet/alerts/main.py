"""The process that sends alerts, as a child of a node (ADR 33, ADR 41)."""

from __future__ import annotations

import random
import signal
import time
from functools import partial

import msgspec
import trio

from crabnet import limits
from crabnet.alerts.config import Given
from crabnet.alerts.cursor import CursorFile
from crabnet.alerts.desk import Cursors, Desk
from crabnet.alerts.messages import Bundle, Sender, message_of
from crabnet.alerts.queue import TargetQueue
from crabnet.alerts.sending import Outcome, Sending, send
from crabnet.alerts.streams import EventStream, NodeDoor, follow_all, streams_of
from crabnet.alerts.targets import Target, missing_extra, targets_of
from crabnet.child import Lifeline, Retry
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.operations.access import ClientEvent, ClientReport
from crabnet.operations.events import Followed
from crabnet.storage.files import RealFiles

_SECOND_MS = 1000


def serve(lifeline: Lifeline) -> None:
    """Send alerts until the node ends. What the node gives is a ``Given`` in JSON."""
    given = msgspec.json.decode(lifeline.given, type=Given)
    file = CursorFile(RealFiles(), given.config.directory)
    notes: list[str] = []
    try:
        targets = targets_of(given.config)
        cursors = _cursors(file, notes)
    except CrabnetError as error:
        lifeline.fail(error.reason, error.message, Retry.SLOWLY)
    if not targets:
        lifeline.fail(Reason.INVALID_CONFIG, "alert_urls_file contains no URL", Retry.NEVER)
    service = Service(given, targets, file, cursors)
    lifeline.ready(detail="; ".join([f"{len(targets)} targets", *notes]))
    trio.run(service.run)


def _cursors(file: CursorFile, notes: list[str]) -> Cursors:
    try:
        return file.read()
    except DataDirDamagedError as error:
        notes.append(f"{error.message}, so alerts of earlier starts of the node that were not sent are not sent")
        return {}


class Service:
    """Follows the streams and serves the targets, each in a task of its own."""

    def __init__(self, given: Given, targets: list[Target], file: CursorFile, cursors: Cursors) -> None:
        config = given.config
        self._unserved = [(each, found) for each in targets if (found := missing_extra(each)) is not None]
        without = {each.key for each, _ in self._unserved}
        self._targets = targets = [each for each in targets if each.key not in without]
        self._streams = streams_of(config)
        self._door = NodeDoor(config)
        self._file = file
        self._written: Cursors = {}
        self._node = Sender(id=given.node_id, alias=config.alias, namespace=config.namespace)
        self._how = Sending(signing_secret=config.alert_secret, timeout_ms=config.alert_timeout_ms)
        retry_ms = config.alert_retry_s * _SECOND_MS
        queues = {each.key: TargetQueue(config.alert_messages_per_minute, retry_ms) for each in targets}
        names = [each.name for each in self._streams]
        self._desk = Desk(queues, names, cursors, given.begin_after)
        self._news = {each.key: trio.Event() for each in targets}
        self._ending = False
        self._trying = 0
        self._quiet = trio.Event()
        """Set when no try goes on, once the process is to end."""

    async def run(self) -> None:
        """Work until SIGTERM. Tries that have begun may then go on for a moment."""
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                await self._keep()
                nursery.start_soon(self._tell_unserved)
                if self._targets:
                    for source in self._streams:
                        nursery.start_soon(self._follow, source)
                for target in self._targets:
                    nursery.start_soon(self._serve, target)
                await anext(signals)
                self._ending = True
                if self._trying:
                    with trio.move_on_after(limits.ALERT_LAST_TRIES_MS / 1000):
                        await self._quiet.wait()
                nursery.cancel_scope.cancel()

    async def _tell_unserved(self) -> None:
        for target, error in self._unserved:
            await self._tell_surely(
                ClientReport(
                    kind=ClientEvent.ALERT_TARGET_UNSERVED,
                    target=target.name,
                    reason=error.reason,
                    detail=error.message[: limits.EVENT_DETAIL_CHARS],
                )
            )

    async def _follow(self, source: EventStream) -> None:
        """Follow one stream, and again when the node has ended it."""

        def take(item: Followed) -> None:
            if source.shows(item):
                self._desk.take(source.name, item)
            else:
                self._desk.pass_over(source.name, item.id)
            for news in self._news.values():
                news.set()

        async def idle(event_id: int) -> None:
            self._desk.pass_over(source.name, event_id)
            await self._keep()

        while True:
            work = partial(
                follow_all,
                self._door,
                source,
                self._desk.reached(source.name),
                lambda item: trio.from_thread.run_sync(take, item),
                lambda event_id: trio.from_thread.run(idle, event_id),
            )
            try:
                await trio.to_thread.run_sync(work, abandon_on_cancel=True)
            except CrabnetError:
                await trio.sleep(limits.ALERT_RETRY_FOLLOWING_MS / 1000)

    async def _serve(self, target: Target) -> None:
        """Give one target what waits for it."""
        queue = self._desk.queues[target.key]
        while not self._ending:
            wait_ms = queue.wait_ms(_steady_ms())
            if wait_ms == 0:
                await self._try(target, queue)
                continue
            news = self._news[target.key] = trio.Event()
            with trio.move_on_after(float("inf") if wait_ms is None else wait_ms / 1000):
                await news.wait()

    async def _try(self, target: Target, queue: TargetQueue) -> None:
        bundle = queue.begin(_steady_ms())
        self._trying += 1
        try:
            outcome = await send(target, message_of(bundle, self._node, int(time.time())), self._how)
            if outcome.reason is None:
                report = _report(ClientEvent.ALERT_SENT, target, bundle, queue.failures)
                queue.settled(taken=True)
                await self._keep()
                await self._tell(report)
            elif queue.failed(_steady_ms(), random.random(), outcome.ask_ms):  # noqa: S311 - spreads tries
                report = _report(ClientEvent.ALERT_UNDELIVERED, target, bundle, queue.failures, outcome)
                await self._tell_surely(report)  # until it is an event, the bundle is not done
                queue.settled(taken=False)
                await self._keep()
        finally:
            self._trying -= 1
            if self._ending and not self._trying:
                self._quiet.set()

    async def _tell(self, report: ClientReport) -> bool:
        """Report to the node. Returns whether it took the report."""
        try:
            await trio.to_thread.run_sync(self._door.report, report, abandon_on_cancel=True)
        except CrabnetError:
            return False
        return True

    async def _tell_surely(self, report: ClientReport) -> None:
        while True:
            if await self._tell(report):
                return
            await trio.sleep(limits.ALERT_RETRY_FOLLOWING_MS / 1000)

    async def _keep(self) -> None:
        """Write the cursors if they have changed. If that fails, alerts are sent again after the next start."""
        cursors = self._desk.cursors()
        if cursors == self._written:
            return
        try:
            self._file.write(cursors)
        except CrabnetError:
            return
        self._written = cursors


def _report(
    kind: ClientEvent, target: Target, bundle: Bundle, failures: int, outcome: Outcome | None = None
) -> ClientReport:
    return ClientReport(
        kind=kind,
        target=target.name,
        event_id=bundle.event_id,
        count=min(bundle.count, limits.REPORT_COUNT_MAX),
        failures=min(failures, limits.REPORT_COUNT_MAX),
        reason=None if outcome is None else outcome.reason,
        detail=None if outcome is None else outcome.detail[: limits.EVENT_DETAIL_CHARS],
    )


def _steady_ms() -> int:
    return round(trio.current_time() * _SECOND_MS)
