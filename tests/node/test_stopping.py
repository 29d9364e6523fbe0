"""What is under way when a node stops comes to its end first, and is no failure of the node."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from crabnet.core.commands import Publish
from crabnet.core.effects import Effects
from crabnet.domain.model import SeedStatus
from crabnet.errors import CrabnetError, DataDirDamagedError, RefusedError, StorageFailedError, principal
from crabnet.monitor.reader import read_events
from crabnet.node.failures import failure_of
from crabnet.node.node import Node
from crabnet.storage.files import OpenMode, RealFiles
from tests.operator.support import Clock, settings_of

DEADLINE_S = 60
DAY_MS = 86_400_000


class SlowFiles(RealFiles):
    """Files whose syncs in one directory wait for ``release``, from ``hold`` on."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._paths: dict[int, Path] = {}
        self._release = threading.Event()
        self._release.set()
        self.waiting = threading.Event()

    def hold(self) -> None:
        """Let the next sync wait."""
        self._release.clear()

    def release(self) -> None:
        """Let it go on."""
        self._release.set()

    def open(self, path: Path, mode: OpenMode) -> int:
        fd = super().open(path, mode)
        self._paths[fd] = path
        return fd

    def fsync(self, fd: int) -> None:
        self._wait(fd)
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._wait(fd)
        super().fdatasync(fd)

    def _wait(self, fd: int) -> None:
        if not self._release.is_set() and self._directory in self._paths[fd].parts:
            self.waiting.set()
            assert self._release.wait(DEADLINE_S)


async def left_while_waiting(files: SlowFiles, life: Callable[[], Awaitable[None]]) -> None:
    """``life`` is a node's, which is left while a sync waits; the sync goes on when nothing else moves any more."""

    async def release() -> None:
        await trio.to_thread.run_sync(files.waiting.wait, DEADLINE_S)
        await trio.testing.wait_all_tasks_blocked(0.05)
        files.release()

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            await life()


def troubles(data_dir: Path) -> list[str]:
    """What the node told that an orderly life has not."""
    found = [str(event.kind) for event in read_events(data_dir).events]
    assert found[-1] == "node_stopped"
    return [kind for kind in found if kind in {"ledger_poisoned", "job_failed", "ledger_recovered"}]


async def test_a_listening_node_stops_in_order_while_the_disk_is_slow(tmp_path: Path) -> None:
    """Its jobs have nurseries inside: they end with groups of cancellations while the journal is being synced."""
    files = SlowFiles("journal")
    titles = [f"task {number}" for number in range(3)]

    async def life() -> None:
        async with Node(settings_of(tmp_path), files=files) as node:
            files.hold()
            for title in titles:
                effects = Effects()
                node.core.handle(Publish(title=title, command="true"), node.clock_ms(), effects)
                node.committer.enqueue(effects)
            await trio.to_thread.run_sync(files.waiting.wait, DEADLINE_S)

    await left_while_waiting(files, life)

    assert troubles(tmp_path) == []
    async with Node(settings_of(tmp_path), listen=False) as node:
        assert {state.seed.title for state in await node.seeds()} == set(titles)
        assert not node.core.feed_risk


async def test_seeds_that_are_being_archived_when_the_node_stops_are_archived(tmp_path: Path) -> None:
    files, clock = SlowFiles("archive"), Clock()

    async def life() -> None:
        async with Node(settings_of(tmp_path), files=files, clock_ms=clock) as node:
            for _ in range(3):
                seed = await node.publish(Publish(title="t", command="true"))
                await node.settle(seed.id, SeedStatus.EXPIRED)
            files.hold()
            clock.now_ms += 8 * DAY_MS
            await trio.to_thread.run_sync(files.waiting.wait, DEADLINE_S)

    await left_while_waiting(files, life)

    assert troubles(tmp_path) == []
    async with Node(settings_of(tmp_path), listen=False, clock_ms=clock) as node:
        assert node.core.replica.state.archived[SeedStatus.EXPIRED] == 3
        assert not node.core.feed_risk
    assert troubles(tmp_path) == []


async def test_a_node_that_is_cancelled_from_outside_makes_durable_what_is_under_way(tmp_path: Path) -> None:
    files = SlowFiles("journal")

    async def life() -> None:
        with trio.CancelScope() as scope:
            async with Node(settings_of(tmp_path), files=files) as node, trio.open_nursery() as nursery:
                files.hold()
                nursery.start_soon(node.publish, Publish(title="t", command="true"))
                await trio.to_thread.run_sync(files.waiting.wait, DEADLINE_S)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught

    await left_while_waiting(files, life)

    assert troubles(tmp_path) == []
    async with Node(settings_of(tmp_path), listen=False) as node:
        assert len(await node.seeds()) == 1


async def cancelled_with(*errors: Exception) -> BaseException:
    """What a task with a nursery inside ends with when it is cancelled, and these errors are raised meanwhile."""
    caught: list[BaseException] = []

    async def fail(error: Exception) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def job() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                for error in errors:
                    nursery.start_soon(fail, error)
                await trio.sleep_forever()
        except BaseException as error:
            caught.append(error)
            if failure_of(error) is None:
                raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(job)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return caught[0]


async def test_a_group_of_cancellations_is_none_but_a_cancellation() -> None:
    raised = await cancelled_with()
    assert isinstance(raised, BaseExceptionGroup)
    assert failure_of(raised) is None


async def test_of_a_group_with_cancellations_what_failed_is_left() -> None:
    error = ValueError("broken")
    failure = failure_of(await cancelled_with(error))
    assert failure is not None
    assert principal(failure) is error


_USUAL, _UNEXPECTED = RefusedError("no"), ValueError("a bug")
_STORAGE, _DAMAGED, _INTERRUPT = StorageFailedError("full"), DataDirDamagedError("torn"), KeyboardInterrupt()


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([_USUAL], _USUAL),
        ([_USUAL, _UNEXPECTED], _UNEXPECTED),
        ([_UNEXPECTED, _INTERRUPT], _INTERRUPT),
        ([_UNEXPECTED, _INTERRUPT, _STORAGE], _STORAGE),
        ([_USUAL, BaseExceptionGroup("inner", [_UNEXPECTED, ExceptionGroup("innermost", [_DAMAGED])])], _DAMAGED),
    ],
)
def test_of_several_errors_the_most_telling_one_is_reported(
    errors: list[BaseException], expected: BaseException
) -> None:
    assert principal(BaseExceptionGroup("outer", errors)) is expected
    assert principal(BaseExceptionGroup("outer", errors[::-1])) is expected
    assert principal(CrabnetError("alone")).args == ("alone",)
