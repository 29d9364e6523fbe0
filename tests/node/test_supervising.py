"""When a node that failed is started again, and when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from crabnet.errors import (
    CrabnetError,
    DataDirBusyError,
    DataDirDamagedError,
    ExitCode,
    NodeFailingError,
    Reason,
    StorageFailedError,
)
from crabnet.node.supervising import Life, supervised
from crabnet.settings import Settings

ADDRESS = "127.0.0.1:40123"


class Lives:
    """A node whose lives end as they are told: an error that is raised, or None for an orderly end."""

    def __init__(self, data_dir: Path, *ends: Exception | None, opens: bool = True, lasts_s: float = 0) -> None:
        self.settings = Settings(data_dir=data_dir, restarts_max=2, restarts_window_s=600, lock_wait_ms=30_000)
        self.ends = list(ends)
        self.opens = opens
        self.lasts_s = lasts_s
        self.lived: list[Life] = []
        self.log: list[str] = []
        self.asked = trio.Event()

    async def live(self, life: Life) -> None:
        """One life."""
        self.lived.append(life)
        end = self.ends.pop(0)
        await trio.sleep(self.lasts_s)
        if self.opens and not isinstance(end, DataDirBusyError):
            life.address = ADDRESS
        if end is not None:
            raise ExceptionGroup("of a nursery", [end, StorageFailedError("told to a waiter", Reason.INTERNAL)])

    async def run(self) -> None:
        """All of them."""
        await supervised(self.live, self.settings, self.log.append, self.asked)


def bug() -> Exception:
    return ZeroDivisionError("planted")


async def test_a_node_is_started_again_at_its_address(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    lives = Lives(tmp_path, bug(), bug(), None)
    await lives.run()
    assert [life.restarts for life in lives.lived] == [0, 1, 2]
    assert [life.settings.listen_addr for life in lives.lived[1:]] == [ADDRESS] * 2
    assert lives.lived[1].cause.startswith("unexpected ZeroDivisionError")
    assert "planted" not in "".join([lives.lived[1].cause, *lives.log]), "a stranger may have written the text"
    assert len(lives.log) == 2


async def test_too_many_failures_in_the_window_end_it(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    lives = Lives(tmp_path, bug(), bug(), bug(), lasts_s=250)
    with pytest.raises(NodeFailingError, match="restarted 2 times within 600 s") as caught:
        await lives.run()
    assert (caught.value.exit_code, int(ExitCode.FAILING)) == (ExitCode.FAILING, 10)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.deep
async def test_failures_that_are_far_apart_do_not(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    lives = Lives(tmp_path, *[bug() for _ in range(10)], None, lasts_s=301)
    await lives.run()
    assert len(lives.lived) == 11


@pytest.mark.parametrize(
    "error", [StorageFailedError("full"), DataDirDamagedError("torn"), DataDirBusyError("busy"), CrabnetError("no")]
)
async def test_what_crabnet_raises_on_purpose_is_no_reason_to_start_again(tmp_path: Path, error: CrabnetError) -> None:
    lives = Lives(tmp_path, error)
    with pytest.raises(type(error), match=error.message):
        await lives.run()
    assert len(lives.lived) == 1


async def test_a_node_that_cannot_open_is_not_started_again(tmp_path: Path) -> None:
    lives = Lives(tmp_path, bug(), opens=False)
    with pytest.raises(ZeroDivisionError):
        await lives.run()


async def test_a_node_that_was_asked_to_end_is_not_started_again(tmp_path: Path) -> None:
    lives = Lives(tmp_path, bug())
    lives.asked.set()
    with pytest.raises(ZeroDivisionError):
        await lives.run()


@pytest.mark.parametrize("busy", [1, 100])
async def test_a_restart_waits_for_commands_that_use_the_data_dir(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, busy: int
) -> None:
    lives = Lives(tmp_path, bug(), *[DataDirBusyError("a command") for _ in range(busy)], None)
    await lives.run()
    assert [life.restarts for life in lives.lived] == [0, *[1] * (busy + 1)]


async def test_but_not_for_ever(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    lives = Lives(tmp_path, bug(), *[DataDirBusyError("a command") for _ in range(1_000)])
    with pytest.raises(DataDirBusyError):
        await lives.run()
