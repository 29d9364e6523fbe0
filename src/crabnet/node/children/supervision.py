"""Keeps one child as it is wanted: starts it, watches it, and starts it again after a failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio
from msgspec.structs import replace

from crabnet import limits
from crabnet.child import Retry
from crabnet.core.effects import FieldValue
from crabnet.errors import Reason
from crabnet.node.children.handshake import Ready
from crabnet.node.children.process import Process
from crabnet.node.children.spec import ChildSpec, Failure
from crabnet.operations.children import ChildHealth, ChildState


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What children need of their node."""

    notify: Callable[[str, dict[str, FieldValue]], None]
    """Gets a line when a child fails, and when it works again."""
    clock_ms: Callable[[], int]
    random: Callable[[], float]
    """A random number, at least 0 and below 1."""


def pause_ms(retry: Retry, failures: int, first_ms: int, random: float) -> int | None:
    """Time until a child is started again after so many failures in a row; None if it is not. ``random`` is from 0 to 1
    and keeps children that fail together from starting together.
    """
    if retry is Retry.NEVER:
        return None
    if retry is Retry.SLOWLY:
        pause = limits.CHILD_RETRY_SLOWLY_MS
    else:
        doubled = first_ms << min(failures - 1, limits.CHILD_DOUBLINGS_MAX)
        pause = min(doubled, max(first_ms, limits.CHILD_RESTART_MS_MAX))
    return round(pause * (1 + random) / 2)


class Child:
    """One child of a node. Its job is ``run``; all other methods return at once."""

    def __init__(self, spec: ChildSpec, surroundings: Surroundings) -> None:
        """The child is started once ``run`` does its job and ``want`` was called, in any order."""
        self.spec = spec
        self.stream: trio.SocketStream | None = None
        """The lifeline of a child that runs; None otherwise. It may be used by one task for each direction."""
        self._around = surroundings
        self._health = ChildHealth(name=spec.name, state=ChildState.STOPPED, since_ms=surroundings.clock_ms())
        self._wanted = trio.Event()
        self._up = trio.Event()
        self._over = trio.Event()
        self._given_up: Failure | None = None
        self._up_s = math.inf
        self._failures = 0
        self._told: Reason | None = None

    def health(self) -> ChildHealth:
        """The state of this child."""
        return self._health

    def want(self) -> None:
        """Have the child started, if it is not."""
        self._wanted.set()

    def release(self) -> None:
        """Have the child ended in an orderly way. It is started again when it is wanted."""
        self._wanted = trio.Event()
        self._down()
        self._over.set()

    def give_up(self, reason: Reason, detail: str) -> None:
        """Have a child killed and started again that runs but does not do its work."""
        if self.stream is not None:
            self._given_up = Failure(reason, detail)
            self._down()
            self._over.set()

    async def running(self) -> None:
        """Wait until the child runs."""
        await self._up.wait()

    async def run(self) -> None:
        """Start the child when it is wanted, and again after a failure, until cancelled. Then end it."""
        try:
            while True:
                await self._wanted.wait()
                failure = await self._live()
                if failure is None:
                    self._turn(ChildState.STOPPED)
                else:
                    await self._wait_after(failure)
        finally:
            self._turn(ChildState.STOPPED)

    async def _live(self) -> Failure | None:
        """One life of the child. Returns how it failed; None if it was released."""
        self._over = trio.Event()
        self._turn(ChildState.STARTING)
        begun_s = trio.current_time()
        try:
            process = Process(self.spec)
        except OSError as error:
            return Failure(Reason.SPAWN_FAILED, f"it cannot be started: {error.strerror or error}")
        self._turn(ChildState.STARTING, pid=process.pid)
        failure: Failure | None = None
        was_up = False
        try:
            outcome = await process.handshake()
            if isinstance(outcome, Failure):
                failure = outcome
            elif not self._over.is_set():
                was_up = True
                self._begin(process, outcome, round((trio.current_time() - begun_s) * 1000))
                await self._until_over(process)
                ending = process.ending()
                failure = self._given_up
                if failure is None and ending:
                    failure = Failure(Reason.INTERNAL, f"it ended unexpectedly ({ending})")
        finally:
            self._down()
            killed = await process.end(0 if self._given_up else self.spec.stop_ms)
            if was_up and failure is None:
                self._notify("child_ended", {"pid": process.pid, "escalated": killed})
        return failure

    async def _until_over(self, process: Process) -> None:
        """Wait until the child has ended, was released, or was given up."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await process.ended()
                self._over.set()

            nursery.start_soon(watch)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def _begin(self, process: Process, ready: Ready, duration_ms: int) -> None:
        self._turn(ChildState.RUNNING, pid=process.pid, detail=ready.detail, addresses=ready.addresses)
        fields: dict[str, FieldValue] = {"pid": process.pid, "duration_ms": duration_ms, "failures": self._failures}
        self._notify("child_started", {**fields, "detail": ready.detail or None})
        self._told = None
        self._up_s = trio.current_time()
        self.stream = process.stream
        self._up.set()

    def _down(self) -> None:
        self.stream = None
        if self._up.is_set():
            self._up = trio.Event()

    async def _wait_after(self, failure: Failure) -> None:
        """Report a failure, and wait until the child may be started again."""
        self._given_up = None
        if trio.current_time() - self._up_s >= limits.CHILD_STEADY_MS / 1000:
            self._failures = 0
        self._up_s = math.inf
        self._failures += 1
        pause = pause_ms(failure.retry, self._failures, self.spec.restart_ms, self._around.random())
        next_try_ms = None if pause is None else self._around.clock_ms() + pause
        state = ChildState.FAILED if pause is None else ChildState.WAITING
        self._turn(state, reason=failure.reason, detail=failure.detail, next_try_ms=next_try_ms)
        # A child that fails again and again is reported ever more rarely.
        if failure.reason is not self._told or self._failures & (self._failures - 1) == 0:
            self._told = failure.reason
            self._tell(failure, next_try_ms)
        if pause is None:
            await trio.sleep_forever()
        await trio.sleep((pause or 0) / 1000)
        self._health = replace(self._health, restarts=self._health.restarts + 1)

    def _tell(self, failure: Failure, next_try_ms: int | None) -> None:
        self._notify(
            "child_failed",
            {
                "reason": failure.reason.value,
                "detail": "; ".join(filter(None, (failure.detail, self.spec.without)))[: limits.EVENT_DETAIL_CHARS],
                "failures": self._failures,
                "next_try_ms": next_try_ms,
            },
        )

    def _turn(
        self,
        state: ChildState,
        *,
        pid: int | None = None,
        reason: Reason | None = None,
        detail: str = "",
        addresses: tuple[str, ...] = (),
        next_try_ms: int | None = None,
    ) -> None:
        """Go into a state."""
        before = self._health
        self._health = ChildHealth(
            name=self.spec.name,
            state=state,
            since_ms=before.since_ms if state is before.state else self._around.clock_ms(),
            pid=pid,
            restarts=before.restarts,
            reason=reason,
            detail=detail,
            addresses=addresses,
            next_try_ms=next_try_ms,
        )

    def _notify(self, kind: str, fields: dict[str, FieldValue]) -> None:
        self._around.notify(kind, {"child": self.spec.name, **fields})
