"""Children of a node: real processes, whatever they do and whatever is done to them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from crabnet import limits
from crabnet.child import Retry
from crabnet.core.effects import FieldValue
from crabnet.errors import Reason
from crabnet.monitor.events import event_of
from crabnet.monitor.registry import EventKind
from crabnet.monitor.sentences import Level, sentence
from crabnet.node.children.children import Children
from crabnet.node.children.handshake import Ready, outcome_of
from crabnet.node.children.process import Process
from crabnet.node.children.spec import ChildSpec, Failure
from crabnet.node.children.supervision import Child, pause_ms
from crabnet.node.node import Node
from crabnet.operations.children import ChildHealth, ChildState
from tests.operator.support import settings_of
from tests.support.child_programs import descriptors

_WAIT_S = 60
_PROGRAMS = "tests.support.child_programs"


def spec(
    program: str, *, given: bytes = b"", handshake_ms: int = 60_000, stop_ms: int = 60_000, stderr: bool = False
) -> ChildSpec:
    """The description of a child under test."""
    return ChildSpec(
        name=program,
        entry=program if ":" in program else f"{_PROGRAMS}:{program}",
        without="its work is not done",
        given=given,
        environment=("CHILD_MAY_SEE",),
        stderr=stderr,
        handshake_ms=handshake_ms,
        stop_ms=stop_ms,
    )


class Desk:
    """Children under test, and what was told. Its clock is that of trio, so a test can stop and move it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, FieldValue]]] = []
        self.lines: list[str] = []
        self.children = Children(self.told, self.now_ms, lambda: 1.0)

    def told(self, kind: str, fields: dict[str, FieldValue]) -> None:
        """Keep an event, and the line that an operator sees."""
        self.events.append((kind, fields))
        level, text = sentence(event_of(EventKind(kind), self.now_ms(), "node", None, dict(fields)))
        if level.rank >= Level.INFO.rank:
            self.lines.append(text)

    def now_ms(self) -> int:
        """Milliseconds of the virtual clock."""
        return round(trio.current_time() * 1000)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events."""
        return [kind for kind, _ in self.events]

    @asynccontextmanager
    async def keeping(self, *specs: ChildSpec) -> AsyncIterator[list[Child]]:
        """Keep children while the block runs, as a node does."""
        kept = [self.children.keep(each) for each in specs]
        async with trio.open_nursery() as nursery:
            for job in self.children.jobs():
                nursery.start_soon(job.run)
            yield kept
            nursery.cancel_scope.cancel()


async def until(ready: Callable[[], bool]) -> None:
    """Wait in real time, so that a virtual clock may stand still."""
    deadline = time.monotonic() + _WAIT_S
    while not ready():
        assert time.monotonic() < deadline
        await trio.to_thread.run_sync(time.sleep, 0.005)


async def state_of(child: Child, state: ChildState) -> ChildHealth:
    """The health of a child once it is in a state."""
    await until(lambda: child.health().state is state)
    return child.health()


async def pid_of(child: Child) -> int:
    """The process of a child once it runs."""
    pid = (await state_of(child, ChildState.RUNNING)).pid
    assert pid is not None
    return pid


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_child_is_started_runs_and_ends_in_an_orderly_way() -> None:
    desk = Desk()
    async with desk.keeping(spec("works")) as (child,):
        health = await state_of(child, ChildState.RUNNING)
        assert health.pid is not None
        assert lives(health.pid)
        assert (health.detail, health.addresses, health.restarts) == ("here I am", ("127.0.0.1:3000",), 0)
        assert desk.children.health() == [health]
    assert not lives(health.pid)
    assert child.health().state is ChildState.STOPPED
    assert child.health().pid is None
    assert child.stream is None
    assert desk.kinds == ["child_started", "child_ended"]
    assert desk.events[1][1] == {"child": "works", "pid": health.pid, "escalated": False}
    assert desk.lines == ["the process works works: here I am"]


async def test_the_lifeline_belongs_to_the_two_after_the_handshake_until_the_child_has_said_its_last() -> None:
    process = Process(spec("echoes"))
    assert isinstance(await process.handshake(), Ready)
    said = b""
    while not said.endswith(b"\n"):
        said += await process.stream.receive_some(4096)
    assert said == b"right after the handshake\n"  # nothing of it was taken with the handshake
    await process.stream.send_all(b"x" * 100_000)
    said = b""
    while len(said) < 100_000:
        said += await process.stream.receive_some(4096)
    last = bytearray()

    async def listen() -> None:
        async for more in process.stream:
            last.extend(more)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        process.stream.socket.shutdown(trio.socket.SHUT_WR)
    assert last == b"goodbye"
    assert await process.end(60_000) is False


async def test_what_a_child_gets_and_what_others_see_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHILD_MAY_SEE", "yes")
    monkeypatch.setenv("CRABNET_SECRET", "no")
    monkeypatch.syspath_prepend("/a place: with spaces")
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    described = spec("tells", given=b"a secret")
    assert "a secret" not in repr(described)
    process = Process(described)
    try:
        assert isinstance(await process.handshake(), Ready)
        told = b""
        while not told.endswith(b"\n"):
            told += await process.stream.receive_some(65_536)
    finally:
        await process.end(60_000)
        os.close(ours)
        os.close(theirs)
    seen = json.loads(told)
    assert seen["given"] == "a secret"
    assert "secret" not in seen["argv"]
    assert f"{_PROGRAMS}:tells" in seen["argv"]
    assert set(seen["environment"]) - {"LC_CTYPE", "LD_LIBRARY_PATH"} == {"CHILD_MAY_SEE"}
    assert seen["cwd"] == "/"
    assert seen["session"]
    assert seen["sigint"]
    assert seen["path"] == [str(Path(place).absolute()) for place in sys.path if place]
    assert [seen["descriptors"][fd] for fd in "012"] == ["/dev/null"] * 3
    others = [target for fd, target in seen["descriptors"].items() if fd not in "012"]
    assert len(others) == 2  # the lifeline, and a copy of it that is watched
    assert len(set(others)) == 1
    assert others[0].startswith("socket:")


async def test_stderr_goes_to_the_node_only_if_it_should(capfd: pytest.CaptureFixture[str]) -> None:
    for stderr, expected in ((False, ""), (True, "a word on stderr\n")):
        process = Process(spec("writes", stderr=stderr))
        assert isinstance(await process.handshake(), Ready)
        await process.end(60_000)
        assert capfd.readouterr().err == expected


async def test_a_killed_child_comes_back() -> None:
    desk = Desk()
    async with desk.keeping(spec("works"), spec("stubborn", stop_ms=1)) as (child, other):
        for restarts in range(1, 4):
            pid = await pid_of(child)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: child.health().restarts == restarts)  # noqa: B023
        health = await state_of(child, ChildState.RUNNING)
        assert health.pid != pid
        assert health.reason is None
        assert other.health().restarts == 0
    failed = [fields for kind, fields in desk.events if kind == "child_failed"]
    assert [(each["failures"], each["reason"]) for each in failed] == [
        (1, "internal"),
        (2, "internal"),
        (3, "internal"),
    ]
    assert failed[0]["detail"] == "it ended unexpectedly (signal 9); its work is not done"
    assert desk.lines[1] == (
        f"the process {child.spec.name} does not work: it ended unexpectedly (signal 9); its work is not done;"
        " it is started again"
    )
    assert desk.lines[2] == f"the process {child.spec.name} works again: here I am"


async def test_pauses_double_up_to_a_bound_and_end_with_a_steady_child(mock_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    async with desk.keeping(spec("returns")) as (child,):
        paused = []
        for number in range(11):
            health = await state_of(child, ChildState.WAITING)
            assert health.since_ms == desk.now_ms()
            assert health.next_try_ms is not None
            paused.append(health.next_try_ms - desk.now_ms())
            assert health.restarts == number
            mock_clock.jump((paused[-1] - 1) / 1000)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert child.health().state is ChildState.WAITING
            mock_clock.jump(0.002)
            await until(lambda: child.health().restarts == number + 1)  # noqa: B023
    first = limits.CHILD_RESTART_MS
    assert paused == [min(first << number, limits.CHILD_RESTART_MS_MAX) for number in range(11)]
    told = [fields["failures"] for kind, fields in desk.events if kind == "child_failed"]
    assert told[-2:] == [10, 11]


async def test_a_child_that_ran_for_a_while_has_no_failures_in_a_row(mock_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    pauses = []
    async with desk.keeping(spec("works")) as (child,):
        for up_ms in (1, limits.CHILD_STEADY_MS - 1, limits.CHILD_STEADY_MS, 1):
            pid = await pid_of(child)
            mock_clock.jump(up_ms / 1000)
            os.kill(pid, signal.SIGKILL)
            health = await state_of(child, ChildState.WAITING)
            assert health.next_try_ms is not None
            pauses.append(health.next_try_ms - desk.now_ms())
            mock_clock.jump((pauses[-1] + 1) / 1000)
            await until(lambda: child.health().state is not ChildState.WAITING)
    assert pauses == [each * limits.CHILD_RESTART_MS for each in (1, 2, 1, 2)]


async def test_a_child_that_fails_again_and_again_is_reported_ever_more_rarely(
    mock_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    async with desk.keeping(spec("exits")) as (child,):
        for number in range(9):
            await state_of(child, ChildState.WAITING)
            mock_clock.jump(2 * limits.CHILD_RESTART_MS_MAX / 1000)
            await until(lambda: child.health().restarts == number + 1)  # noqa: B023
        await state_of(child, ChildState.WAITING)
    assert [fields["failures"] for _, fields in desk.events] == [1, 2, 4, 8]
    assert len(desk.lines) == 4
    assert desk.events[0][1]["detail"] == "it ended before it was ready (exit status 3); its work is not done"


async def test_a_child_that_says_why_it_cannot_work(mock_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    specs = [spec("port_in_use"), spec("hopeless"), spec("lacks_a_module"), spec("raises")]
    async with desk.keeping(*specs) as (slowly, never, lacking, bug):
        busy = await state_of(slowly, ChildState.WAITING)
        assert (busy.reason, busy.detail) == (Reason.ADDRESS_IN_USE, "127.0.0.1:3000 is in use by another program")
        assert busy.next_try_ms == desk.now_ms() + limits.CHILD_RETRY_SLOWLY_MS
        assert busy.pid is None
        hopeless = await state_of(never, ChildState.FAILED)
        assert (hopeless.reason, hopeless.detail) == (Reason.INVALID_CONFIG, "this cannot work")
        assert hopeless.next_try_ms is None
        lacks = await state_of(lacking, ChildState.FAILED)
        assert lacks.reason is Reason.UNAVAILABLE
        assert lacks.detail == "the Python module no_such_module is not installed"
        failed = await state_of(bug, ChildState.WAITING)
        assert failed.reason is Reason.INTERNAL
        assert failed.detail.startswith(f"unexpected ValueError in {_PROGRAMS}")
        assert "secret" not in failed.detail
        mock_clock.jump(10 * limits.CHILD_RETRY_SLOWLY_MS / 1000)
        await until(lambda: slowly.health().restarts == 1)
        await state_of(slowly, ChildState.WAITING)
        assert never.health() == hopeless
    assert never.health().state is ChildState.STOPPED
    assert any("not started again before the node is" in line for line in desk.lines)
    assert [fields["failures"] for _, fields in desk.events if fields["child"] == "port_in_use"] == [1, 2]


async def test_a_child_works_once_its_cause_is_gone(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    desk = Desk()
    mark = tmp_path / "mark"
    async with desk.keeping(spec("fails_until_told", given=bytes(mark))) as (child,):
        await state_of(child, ChildState.WAITING)
        mark.touch()
        mock_clock.jump(1)
        await state_of(child, ChildState.RUNNING)
    assert desk.kinds == ["child_failed", "child_started", "child_ended"]
    assert desk.events[1][1]["failures"] == 1
    assert len(desk.lines) == 2


async def test_an_interpreter_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    for executable in ("/nowhere/python", ""):
        monkeypatch.setattr(sys, "executable", executable)
        async with desk.keeping(spec("works")) as (child,):
            health = await state_of(child, ChildState.WAITING)
            assert health.reason is Reason.SPAWN_FAILED
            assert "it cannot be started" in health.detail


@pytest.mark.parametrize("program", ["silent", "deaf", "closes", "tests.support.child_stuck_import:main"])
async def test_a_child_that_never_shakes_hands_is_killed(program: str) -> None:
    desk = Desk()
    async with desk.keeping(spec(program, handshake_ms=300, stop_ms=100)) as (child,):
        await until(lambda: child.health().pid is not None)
        pid = child.health().pid
        assert pid is not None
        assert child.health().state is ChildState.STARTING
        health = await state_of(child, ChildState.WAITING)
        assert not lives(pid)
        assert (health.reason, health.detail) == (Reason.TIMEOUT, "it was not ready within 300 ms")


async def test_a_handshake_without_end_is_nonsense() -> None:
    process = Process(spec("talks_without_end"))
    outcome = await process.handshake()
    await process.end(0)
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.MALFORMED


async def test_hostile_words_of_a_child_are_made_harmless() -> None:
    desk = Desk()
    async with desk.keeping(spec("hostile_words")) as (child,):
        health = await state_of(child, ChildState.RUNNING)
    assert health.detail.startswith("?[31m?red?xxx")
    assert len(health.detail) == limits.EVENT_DETAIL_CHARS
    assert health.addresses == ("a?",) * limits.CHILD_ADDRESSES_MAX


_REASON = b'{"failed": {"reason": "%s", "message": "m", "retry": "never"}}\n'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"ready": {}}\n', Ready()),
        (b'{"ready": {"detail": "d", "addresses": ["a"], "later": 1}}\n', Ready("d", ("a",))),
        (_REASON % b"address_in_use", Failure(Reason.ADDRESS_IN_USE, "m", Retry.NEVER)),
        (_REASON % b"of_a_later_version", Failure(Reason.INTERNAL, "m", Retry.NEVER)),
        (b'{"failed": {"message": "m"}}\n', Failure(Reason.INTERNAL, "m", Retry.SOON)),
        *(
            (line, Failure(Reason.MALFORMED, "its handshake cannot be understood"))
            for line in (
                b"\n",
                b"{}\n",
                b"[]\n",
                b"hello\n",
                b'{"ready": {"detail": 1}}\n',
                b'{"ready": {}, "failed": {"message": "m"}}\n',
                b'{"failed": {"reason": "internal"}}\n',
                b'{"ready": "\xff"}\n',
                b'{"ready": ' + b"[" * 16_000 + b"\n",
            )
        ),
    ],
)
def test_first_lines(line: bytes, expected: Ready | Failure) -> None:
    assert outcome_of(line) == expected


async def test_a_child_that_does_not_end_when_asked_is_killed() -> None:
    desk = Desk()
    async with desk.keeping(spec("stubborn", stop_ms=100), spec("works")) as (child, other):
        pid = await pid_of(child)
        await state_of(other, ChildState.RUNNING)
    assert pid is not None
    assert not lives(pid)
    ended = {fields["child"]: fields["escalated"] for kind, fields in desk.events if kind == "child_ended"}
    assert ended == {"stubborn": True, "works": False}


async def test_a_child_is_released_and_wanted_again() -> None:
    desk = Desk()
    child = desk.children.on_demand(spec("works"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        await trio.testing.wait_all_tasks_blocked()
        assert child.health().state is ChildState.STOPPED
        child.want()
        await child.running()
        pid = child.health().pid
        child.release()
        assert child.stream is None
        await state_of(child, ChildState.STOPPED)
        assert pid is not None
        assert not lives(pid)
        child.want()
        await child.running()
        child.release()
        child.want()  # while it ends
        await child.running()
        nursery.cancel_scope.cancel()
    assert child.health().restarts == 0
    assert desk.kinds == ["child_started", "child_ended"] * 3
    assert desk.lines == ["the process works works: here I am"] * 3


async def test_a_child_that_is_released_while_it_starts_does_not_run(tmp_path: Path) -> None:
    desk = Desk()
    mark = tmp_path / "mark"
    child = desk.children.on_demand(spec("starts_when_told", given=bytes(mark)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.run)
        child.want()
        await until(lambda: child.health().pid is not None)
        assert child.health().state is ChildState.STARTING
        child.release()
        mark.touch()
        await state_of(child, ChildState.STOPPED)
        nursery.cancel_scope.cancel()
    assert desk.events == []


async def test_a_child_that_does_not_do_its_work_is_given_up() -> None:
    desk = Desk()
    async with desk.keeping(spec("stubborn")) as (child,):  # an orderly end would take a minute
        pid = await pid_of(child)
        os.kill(pid, signal.SIGSTOP)
        child.give_up(Reason.TIMEOUT, "it did not answer")
        child.give_up(Reason.TIMEOUT, "and once more")
        await until(lambda: child.health().restarts == 1)
        assert not lives(pid)
        pid = await pid_of(child)
        os.kill(pid, signal.SIGKILL)
    failed = [fields["detail"] for kind, fields in desk.events if kind == "child_failed"]
    assert failed[0] == "it did not answer; its work is not done"


async def test_nothing_is_left_of_a_child_and_its_descriptors() -> None:
    desk = Desk()
    before = descriptors()
    async with desk.keeping(spec("has_a_helper")) as (child,):
        health = await state_of(child, ChildState.RUNNING)
        helper = int(health.detail)
        assert lives(helper)
    await until(lambda: not lives(helper))
    for program in ("works", "exits", "port_in_use", "silent", "says_what_it_was_given"):
        process = Process(spec(program, given=b"?\n", handshake_ms=200, stop_ms=100))
        await process.handshake()
        await process.end(100)
        assert not lives(process.pid)
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # it was reaped
    with trio.move_on_after(0.01):
        async with desk.keeping(spec("works")):  # cancelled while it starts
            await trio.sleep_forever()
    assert descriptors() == before


async def test_children_can_be_added_while_others_run() -> None:
    desk = Desk()
    async with desk.keeping(spec("works")) as (child,):
        await state_of(child, ChildState.RUNNING)
        late = desk.children.keep(spec("tells"))
        await state_of(late, ChildState.RUNNING)
    assert [each.state for each in desk.children.health()] == [ChildState.STOPPED] * 2
    assert sorted(desk.kinds) == ["child_ended"] * 2 + ["child_started"] * 2


async def test_the_children_of_a_node_and_their_events(tmp_path: Path) -> None:
    async with Node(settings_of(tmp_path)) as node:
        assert [each.name for each in node.children.health()] == ["signatures"]
        child = node.children.keep(spec("works"))
        pid = await pid_of(child)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: child.health().restarts == 1)
        pid = await pid_of(child)
    assert not lives(pid)
    assert child.health().state is ChildState.STOPPED
    counted = {kind: number for kind, number in node.reporter.counters.items() if kind.startswith("child_")}
    assert counted == {"child_started": 2, "child_failed.internal": 1, "child_ended": 1}


async def test_what_the_settings_leave_out_is_listed_too() -> None:
    desk = Desk()
    desk.children.off("web", "web_addr is off")
    (health,) = desk.children.health()
    assert (health.name, health.state, health.detail) == ("web", ChildState.OFF, "web_addr is off")


@pytest.mark.parametrize(
    ("retry", "failures", "random", "expected"),
    [
        (Retry.SOON, 1, 0.0, 500),
        (Retry.SOON, 1, 0.5, 750),
        (Retry.SOON, 3, 1.0, 4_000),
        (Retry.SOON, 10_000, 1.0, 60_000),
        (Retry.SLOWLY, 1, 1.0, 60_000),
        (Retry.SLOWLY, 50, 0.0, 30_000),
        (Retry.NEVER, 1, 0.5, None),
    ],
)
def test_pauses(retry: Retry, failures: int, random: float, expected: int | None) -> None:
    assert pause_ms(retry, failures, 1_000, random) == expected
