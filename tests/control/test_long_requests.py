"""Short requests never wait behind long ones, and the socket stays in its place (run-4)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.errors import CrabnetError, Reason
from crabnet.protocol.canonical import JsonObject, JsonValue
from tests.control.test_control import Dispatch, ask, serving

LONG = ("seed.run", "seed.watch", "seed.cancel")


class Patient(Dispatch):
    """Long methods wait until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.all_wait = trio.Event()
        self.wanted = 0

    async def __call__(self, method: str, params: JsonObject) -> JsonValue:
        if method not in LONG:
            return await super().__call__(method, params)
        self.waiting += 1
        if self.waiting == self.wanted:
            self.all_wait.set()
        await self.release.wait()
        return method


async def test_long_requests_take_no_place_of_short_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_CONNECTIONS_MAX", 2)
    dispatch = Patient()
    dispatch.wanted = 9
    answers: list[JsonValue] = []

    async def one(method: str) -> None:
        answers.append(await ask(tmp_path, method, {}))

    async with serving(tmp_path, dispatch), trio.open_nursery() as nursery:
        for method in LONG * 3:
            nursery.start_soon(one, method)
        with trio.fail_after(20):
            await dispatch.all_wait.wait()
            for _ in range(5):
                assert await ask(tmp_path, "echo", {}) == {"method": "echo", "params": {}}
        dispatch.release.set()
    assert sorted(map(str, answers)) == sorted(LONG * 3)


async def test_one_more_of_a_long_method_than_may_wait_is_refused_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_WAITING_MAX", 2)
    dispatch = Patient()
    dispatch.wanted = 2
    async with serving(tmp_path, dispatch), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask, tmp_path, "seed.run", {})
        with trio.fail_after(20):
            await dispatch.all_wait.wait()
        with pytest.raises(CrabnetError, match="2 clients already wait for seed\\.run") as caught:
            await ask(tmp_path, "seed.run", {})
        assert caught.value.reason is Reason.LIMIT_EXCEEDED
        nursery.start_soon(ask, tmp_path, "seed.cancel", {})
        with trio.fail_after(20):
            while dispatch.waiting < 3:
                await ask(tmp_path, "echo", {})
        dispatch.release.set()


async def test_a_socket_file_that_is_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTROL_LOOK_MS", 10)
    dispatch = Patient()
    dispatch.wanted = 1
    async with serving(tmp_path, dispatch) as path, trio.open_nursery() as nursery:
        nursery.start_soon(ask, tmp_path, "seed.run", {})
        with trio.fail_after(20):
            await dispatch.all_wait.wait()
            for _ in range(3):
                path.unlink()
                while not path.exists():
                    await trio.sleep(0.01)
                assert await ask(tmp_path, "echo", {}) is not None
        dispatch.release.set()
    assert not path.exists()
