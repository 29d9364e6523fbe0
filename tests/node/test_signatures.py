"""Signatures checked by another process: the same answers, whatever becomes of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.node.children.children import Children
from crabnet.node.clock import wall_ms
from crabnet.node.network.signatures import Batch, Signatures, verifier_spec
from crabnet.node.network.verify_process import decode_answer, encode_batch, serve
from crabnet.operations.children import ChildState
from crabnet.protocol.identity import SignedBytes, verify_each
from tests.support.envelopes import signer

_SIGNER = signer("alice")
_GENUINE = [SignedBytes(_SIGNER.public_key, b"%d" % at, _SIGNER.sign(b"%d" % at)) for at in range(9)]
_FORGED = [each._replace(content=each.content + b"!") for each in _GENUINE]
_MIXED = [*_GENUINE, *_FORGED, *_GENUINE]
_EXPECTED = [True] * 9 + [False] * 9 + [True] * 9
_WAIT_S = 60


class Desk:
    """Signatures under test, what the node checked itself, and what was told."""

    def __init__(self, processors: int = 2) -> None:
        self.checked_here = 0
        self.told: list[tuple[str, dict[str, FieldValue]]] = []
        children = Children(lambda *event: self.told.append(event), wall_ms, random.random)
        self.child = children.on_demand(verifier_spec())
        self.signatures = Signatures(self._verify_all, self.child, processors=processors)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events that were told."""
        return [kind for kind, _ in self.told]

    def _verify_all(self, signed: Sequence[SignedBytes]) -> list[bool]:
        self.checked_here += len(signed)
        return verify_each(signed)

    async def check(self, signed: Sequence[SignedBytes]) -> list[bool]:
        """One batch."""
        return await self.signatures.answers(await self.signatures.begin(signed))

    async def started(self) -> int:
        """The process, once it takes batches."""
        with trio.fail_after(_WAIT_S):
            while self.signatures.pid is None:
                assert await self.check(_MIXED) == _EXPECTED
                await trio.sleep(0.01)
        return self.signatures.pid


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[Signatures]:
    """The job of the node that starts and ends the process."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.signatures.run)
        yield desk.signatures
        nursery.cancel_scope.cancel()


async def ended(pid: int) -> None:
    """Wait until there is no such process, or only what is left of it for its parent."""
    with trio.fail_after(_WAIT_S):
        while True:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                return
            if state == "Z":
                return
            await trio.sleep(0.01)


async def test_the_process_answers_batches_in_their_order_and_ends_with_the_job() -> None:
    desk = Desk()
    async with running(desk) as signatures:
        pid = await desk.started()
        before = desk.checked_here
        batches = [await signatures.begin(each) for each in (_MIXED, _GENUINE * 2, _FORGED * 2)]
        answers = [await signatures.answers(batch) for batch in batches]
        assert answers == [_EXPECTED, [True] * 18, [False] * 18]
        assert desk.checked_here == before
    await ended(pid)
    assert signatures.pid is None
    assert desk.kinds == ["child_started", "child_ended"]


async def test_contents_of_any_size_go_through() -> None:
    contents = [b"", b"x", b"y" * limits.ENVELOPE_BYTES_MAX] * 7
    signed = [SignedBytes(_SIGNER.public_key, each, _SIGNER.sign(each)) for each in contents]
    desk = Desk()
    async with running(desk):
        await desk.started()
        before = desk.checked_here
        assert await desk.check(signed) == [True] * len(signed)
        assert desk.checked_here == before


async def test_while_nothing_is_under_way_the_node_checks_a_part_itself() -> None:
    desk = Desk()
    async with running(desk) as signatures:
        await desk.started()
        batches = [await signatures.begin(_MIXED) for _ in range(3)]
        assert [len(batch.known) for batch in batches] == [14, 0, 0]
        assert [await signatures.answers(batch) for batch in batches] == [_EXPECTED] * 3
        assert len((await signatures.begin(_MIXED)).known) == 14


async def test_few_signatures_start_no_process() -> None:
    desk = Desk()
    async with running(desk) as signatures:
        few = (_GENUINE * 2)[: limits.VERIFY_BATCH_MIN - 1]
        assert (await signatures.begin(few)).stream is None
        await trio.testing.wait_all_tasks_blocked()
        assert signatures.pid is None
        assert await desk.check(few) == [True] * len(few)


async def test_one_processor_has_no_process() -> None:
    desk = Desk(processors=1)
    async with running(desk) as signatures:
        assert await desk.check(_MIXED) == _EXPECTED
        await trio.testing.wait_all_tasks_blocked()
        assert await desk.check(_MIXED) == _EXPECTED
        assert signatures.pid is None


async def test_a_killed_process_leaves_no_batch_unanswered_and_is_told() -> None:
    desk = Desk()
    async with running(desk) as signatures:
        pid = await desk.started()
        batches: list[Batch] = []
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            batches.append(await signatures.begin(_MIXED))
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(_WAIT_S):
            assert [await signatures.answers(batch) for batch in batches] == [_EXPECTED] * 3
            assert await desk.check(_MIXED) == _EXPECTED
            while "child_failed" not in desk.kinds:
                await trio.sleep(0.01)
        assert signatures.pid is None
        assert desk.kinds == ["child_started", "child_failed"]
        assert desk.told[1][1]["child"] == "signatures"
        assert str(desk.told[1][1]["detail"]).endswith("; the node checks them itself for now")
        assert desk.child.health().state is ChildState.WAITING


async def test_a_process_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VERIFY_ANSWER_MS", 20)
    monkeypatch.setattr(limits, "VERIFY_RESTART_MS", 0)
    desk = Desk()
    async with running(desk):
        stuck = await desk.started()
        os.kill(stuck, signal.SIGSTOP)
        assert await desk.check(_MIXED) == _EXPECTED
        await ended(stuck)
        assert await desk.started() != stuck  # and a new one is started


async def test_a_process_that_is_not_needed_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    async with running(desk):
        monkeypatch.setattr(limits, "VERIFY_IDLE_MS", 200)
        pid = await desk.started()
        await ended(pid)
        monkeypatch.setattr(limits, "VERIFY_IDLE_MS", 60_000)
        assert await desk.started() != pid
        assert desk.kinds == ["child_started", "child_ended", "child_started"]


async def test_a_process_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    desk = Desk()
    async with running(desk):
        with trio.fail_after(_WAIT_S):
            while not desk.told:
                assert await desk.check(_MIXED) == _EXPECTED
                await trio.sleep(0.01)
    assert "cannot be started" in str(desk.told[0][1]["detail"])


_NODE = """
import sys, trio
from crabnet.node.children.children import Children
from crabnet.node.network.signatures import Signatures, verifier_spec
from crabnet.protocol.identity import SignedBytes, verify_each
async def main():
    children = Children(lambda *_: None, lambda: 0, lambda: 0.0)
    signatures = Signatures(verify_each, children.on_demand(verifier_spec()), processors=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(signatures.run)
        while signatures.pid is None:
            await signatures.begin([SignedBytes(b"", b"", b"")] * 99)
            await trio.sleep(0.01)
        print(signatures.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def test_the_process_ends_when_its_node_is_killed() -> None:
    node = await trio.to_thread.run_sync(
        lambda: subprocess.Popen([sys.executable, "-c", _NODE], stdout=subprocess.PIPE, text=True)
    )
    with node:
        assert node.stdout is not None
        pid = int(await trio.to_thread.run_sync(node.stdout.readline))
        node.kill()
    await ended(pid)


@given(st.lists(st.sampled_from([*_GENUINE, *_FORGED]), max_size=30), st.integers(0, 40))
def test_bytes_of_a_batch(signed: list[SignedBytes], cut: int) -> None:
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=serve, args=(theirs,))
    serving.start()
    with ours:
        batch = encode_batch(signed)
        ours.sendall(batch + batch[: max(0, len(batch) - 1 - cut)])  # the second one is cut short
        ours.shutdown(socket.SHUT_WR)
        answer = b""
        while more := ours.recv(4096):
            answer += more
    serving.join()
    assert decode_answer(answer, len(signed)) == verify_each(signed)


@pytest.mark.parametrize(
    ("answer", "count"), [(b"", 1), (b"\0", 2), (b"\0\1\0", 2), (b"\0\2", 2), (b"10", 2), (b"\1\xff\1", 3)]
)
def test_anything_else_is_no_answer(answer: bytes, count: int) -> None:
    assert decode_answer(answer, count) is None
