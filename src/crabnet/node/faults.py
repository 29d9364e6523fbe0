"""Unexpected errors in the core and the jobs of a node. The node reports each by an alert, keeps it in quarantine, and
goes on.

If the node cannot keep a fault, it reports that and goes on too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.core.mending import Fault, Mending, ReplicaFailedError, is_containable
from crabnet.errors import principal
from crabnet.node.failures import failure_of
from crabnet.node.quarantine import Quarantine

_PART_CHARS: Final = 64

Notify = Callable[[str, dict[str, FieldValue]], None]


class Faults:
    """Takes faults from ``mending``, reports them, and keeps them in quarantine."""

    def __init__(self, mending: Mending, quarantine: Quarantine, notify: Notify, clock_ms: Callable[[], int]) -> None:
        self._mending = mending
        self._quarantine = quarantine
        self._notify = notify
        self._clock_ms = clock_ms
        self._waiting: deque[tuple[Fault, int]] = deque(maxlen=limits.FAULTS_PENDING_MAX)
        self._wake = trio.Event()
        self._condemned = False

    async def load(self) -> None:
        """Load the list of messages on which a node has failed before."""
        try:
            wrong = await trio.to_thread.run_sync(self._quarantine.load)
        except OSError as error:
            wrong = f"cannot read {self._quarantine.path}: {error}"
        if wrong:
            self._failed(wrong)
        self._mending.refused.update(self._quarantine.refused)
        self._mending.suspects.update(self._quarantine.suspects)

    def take(self) -> None:
        """Report new faults and queue them for quarantine. Call this several times a second."""
        faults, lost = self._mending.take_faults()
        now_ms = self._clock_ms()
        for fault in faults:
            self._tell(fault.part, fault.error, fault.source, 1)
            self._waiting.append((fault, now_ms))
        if lost:
            fields: dict[str, FieldValue] = {"part": "others", "count": lost, "reason": "internal"}
            self._notify("fault_contained", fields)
        if faults:
            self._wake.set()

    def _tell(self, part: str, error: BaseException, source: str, count: int) -> None:
        fields: dict[str, FieldValue] = {
            "part": part[:_PART_CHARS],
            "reason": "internal",
            "detail": brief(error),
            "address": source or None,
            "count": count,
        }
        self._notify("fault_contained", fields)

    async def run(self) -> None:
        """Write queued faults to quarantine until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self.keep()

    async def keep(self) -> None:
        """Write all queued faults to quarantine."""
        while self._waiting:
            fault, at_ms = self._waiting.popleft()
            try:
                await trio.to_thread.run_sync(self._quarantine.keep, fault, at_ms)
            except Exception as error:  # noqa: BLE001 - a fault that cannot be kept must not end the node
                self._failed(f"cannot keep a fault: {error}")

    async def failed(self, error: BaseException) -> None:
        """Report an error that ends the node, and remember the messages to refuse after a restart. Takes a bounded time
        and raises nothing.
        """
        if not isinstance(error, ReplicaFailedError) or self._condemned:
            return
        self._condemned = True
        fields: dict[str, FieldValue] = {
            "part": error.stage,
            "reason": "internal",
            "detail": brief(error.cause),
            "address": error.source or None,
            "count": len(error.messages),
        }
        self._notify("replica_failed", fields)
        now_ms = self._clock_ms()
        for message in error.messages or (b"",):
            self._waiting.append((Fault(error.stage, error.cause, message, error.source), now_ms))
        with trio.move_on_after(limits.CONDEMN_S, shield=True):
            try:
                await trio.to_thread.run_sync(
                    partial(self._quarantine.condemn, error.messages, error.suspects), abandon_on_cancel=True
                )
            except Exception as failed:  # noqa: BLE001 - the node ends anyway
                self._failed(f"cannot store the list of messages to refuse: {failed}")
            await self.keep()

    async def contained(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Do a job that holds only soft state. After an unexpected error start it again, JOB_RETRY_S seconds later."""
        while True:
            try:
                await job()
                return
            except (Exception, BaseExceptionGroup) as raised:
                failure = failure_of(raised)
                error = None if failure is None else principal(failure)
                if error is None or not is_containable(error):
                    raise
                self._mending.fault(name, error, b"")
            self.take()
            await trio.sleep(limits.JOB_RETRY_S)

    def _failed(self, detail: str) -> None:
        fields: dict[str, FieldValue] = {
            "job": "quarantine",
            "reason": "internal",
            "detail": detail[: limits.EVENT_DETAIL_CHARS],
        }
        self._notify("job_failed", fields)


def brief(error: BaseException) -> str:
    """The type and the place of an error. Its text is left out, because it may hold data that a stranger has sent."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" in {trace.tb_frame.f_globals.get('__name__', '?')}.{code.co_name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"unexpected {type(error).__name__}{place}"[: limits.EVENT_DETAIL_CHARS]
