"""A thread for blocking calls: results, errors, cancellation and its end."""

import threading

import pytest
import trio

from crabnet.node.durable.call_thread import CallThread


async def test_calls_run_one_after_another_in_one_other_thread() -> None:
    numbers = iter(range(9))
    with CallThread[tuple[int, int]]("test") as thread:
        results = [await thread.run_sync(lambda: (next(numbers), threading.get_ident())) for _ in range(9)]
    assert [number for number, _ in results] == list(range(9))
    assert len({ident for _, ident in results} - {threading.get_ident()}) == 1


async def test_the_loop_goes_on_while_a_call_blocks() -> None:
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def block() -> bool:
        token.run_sync_soon(begun.set)
        return go_on.wait(60)

    async def release() -> None:
        await begun.wait()
        go_on.set()

    with CallThread[bool]("test") as thread:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            assert await thread.run_sync(block)


async def test_an_error_is_raised_where_the_result_is_awaited_and_the_next_call_is_none_the_worse() -> None:
    with CallThread[int]("test") as thread:
        with pytest.raises(ZeroDivisionError):
            await thread.run_sync(lambda: 1 // 0)
        assert await thread.run_sync(lambda: 7) == 7


async def test_a_call_under_way_is_not_cancelled() -> None:
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    results: list[bool] = []

    def block() -> bool:
        token.run_sync_soon(begun.set)
        return go_on.wait(60)

    async def call(thread: CallThread[bool]) -> None:
        results.append(await thread.run_sync(block))

    with CallThread[bool]("test") as thread:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, thread)
            await begun.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
    assert results == [True]


async def test_the_thread_ends_with_the_block() -> None:
    with CallThread[threading.Thread]("test") as thread:
        worker = await thread.run_sync(threading.current_thread)
        assert worker.is_alive()
    await trio.to_thread.run_sync(worker.join, 60)
    assert not worker.is_alive()
