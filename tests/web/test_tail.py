"""The newest items of a stream: what a client gets that moves between its own stream and the tail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import CrabnetError, NetworkError, Reason
from crabnet.web.tail import Kept, Tail


class Source:
    """Gives items 1, 2, 3 … when the test says so."""

    def __init__(self) -> None:
        self.last = 0
        self.asked: list[int | None] = []
        self.more = asyncio.Event()
        self.take: Callable[[list[Kept]], None]

    async def feed(self, after: int | None, take: Callable[[list[Kept]], None]) -> None:
        self.asked.append(after)
        self.take = take
        place = self.last if after is None else after
        while True:
            new = [Kept(number, b"%d " % number) for number in range(place + 1, self.last + 1)]
            if new:
                take(new)
                place = self.last
            self.more.clear()
            await self.more.wait()

    async def say(self, count: int) -> None:
        """Further items, and let them arrive."""
        self.last += count
        self.more.set()
        for _ in range(5):
            await asyncio.sleep(0)


async def following(steps: list[int], room: int) -> None:
    source = Source()
    tail = Tail(source.feed)
    tail.join()
    await source.say(0)
    place, got = 0, []
    for step in steps:
        await source.say(step)
        if not tail.covers(place):  # a stream of its own would bring these
            got += list(range(place + 1, source.last + 1))
            place = source.last
        else:
            kept = tail.behind(place)
            if kept is not None:
                assert tail.behind(place) is kept, "clients at one place share it"
                new = [int(each) for each in kept.frame.split()]
                assert len(new) <= room
                got += new
                place = kept.place
    assert got == list(range(1, source.last + 1))
    tail.leave()


@given(steps=st.lists(st.integers(0, 9), max_size=30))
@settings(deadline=None)
def test_each_item_comes_once_and_in_order(steps: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WEB_TAIL_ITEMS_MAX", 4)
        asyncio.run(following(steps, 4))


def test_the_tail_ends_with_its_last_reader_and_begins_anew() -> None:
    async def job() -> None:
        source = Source()
        tail = Tail(source.feed)
        tail.join()
        await source.say(0)
        await source.say(3)
        tail.join()
        tail.leave()
        assert tail.covers(2)
        tail.leave()
        assert not tail.covers(2)
        tail.join()
        await source.say(0)
        assert source.asked == [None, None]
        tail.leave()

    asyncio.run(job())


def test_the_bytes_are_bounded() -> None:
    async def job() -> None:
        source = Source()
        tail = Tail(source.feed)
        tail.join()
        await source.say(0)
        await source.say(1)
        await source.say(100)
        assert not tail.covers(1)
        kept = tail.behind(95)
        assert kept is not None
        assert len(kept.frame) <= 10
        tail.leave()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WEB_TAIL_BYTES_MAX", 10)
        asyncio.run(job())


@pytest.mark.parametrize("error", [CrabnetError("refused", Reason.UNAVAILABLE), ValueError("not an item")])
def test_readers_go_back_to_their_own_streams_when_the_feed_fails(error: Exception) -> None:
    assert failing(error) == [False]


def test_readers_stay_while_the_node_is_away() -> None:
    assert failing(NetworkError("no node", Reason.NODE_UNREACHABLE)) == [True]


def failing(error: Exception) -> list[bool]:
    """Whether a reader can go on in the tail after its feed has failed with an error."""
    covered: list[bool] = []

    async def job() -> None:
        again = asyncio.Event()

        async def feed(after: int | None, take: Callable[[list[Kept]], None]) -> None:
            if after is not None:
                again.set()
                await asyncio.Event().wait()
            take([Kept(7, b"seven")])
            raise error

        tail = Tail(feed)
        tail.join()
        news = [asyncio.create_task(tail.more(60_000)), asyncio.create_task(again.wait())]
        await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        covered.append(tail.covers(7))
        tail.leave()
        for each in news:
            each.cancel()

    asyncio.run(job())
    return covered


def test_a_place_without_an_item_is_where_readers_can_go_on() -> None:
    async def job() -> None:
        source = Source()
        tail = Tail(source.feed)
        tail.join()
        await source.say(0)
        assert not tail.covers(0)
        source.take([Kept(0, b"")])
        assert tail.covers(0)
        assert tail.behind(0) is None
        await source.say(2)
        assert tail.behind(0) == Kept(2, b"1 2 ")
        tail.leave()

    asyncio.run(job())


def test_ids_that_begin_anew_replace_what_was_kept() -> None:
    async def job() -> None:
        source = Source()
        tail = Tail(source.feed)
        tail.join()
        await source.say(9)
        source.take([Kept(3, b"three, of a log that was lost")])
        assert not tail.covers(9)
        assert tail.behind(2) == Kept(3, b"three, of a log that was lost")
        tail.leave()

    asyncio.run(job())
