"""What a node states among baseline peers, who read five kinds of messages, each in one datagram (own-9, net-4)."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.build import cut_to_datagram
from crabnet.core.commands import CreateClaim, FinishRun, Publish, Settle, StartRun, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Send
from crabnet.domain.model import Bid, OutputFile, Seed, SeedStatus, Termination, TerminationCause
from crabnet.protocol.envelope import Kind
from tests.support.envelopes import NOW_S, signer

NOW_MS = NOW_S * 1000


class Lone:
    """A node among baseline peers that does everything itself."""

    def __init__(self) -> None:
        numbers = count(1)
        self.core = Core(CoreConfig(talk=False), signer("one"), lambda: next(numbers))
        self.seed_id = ""

    def do(self, wish: Publish | SubmitBid | CreateClaim | StartRun | FinishRun | Settle, now_ms: int) -> list[Send]:
        effects = Effects()
        self.core.handle(wish, now_ms, effects)
        if isinstance(effects.reply, Seed):
            self.seed_id = effects.reply.id
        if isinstance(effects.reply, Bid):
            effects = Effects()
            self.core.handle(CreateClaim(seed_id=self.seed_id, bid_id=self.bid_of()), now_ms, effects)
        return effects.sends

    def bid_of(self) -> str:
        (bid,) = self.core.record(self.seed_id).bids
        return bid.body.id

    def publish(self) -> None:
        self.do(Publish(title="t", command="true", bid_window_ms=60_000, exec_deadline_ms=200_000), NOW_MS)


def result(seed_id: str, stdout: str = "", stderr: str = "", files: int = 0) -> FinishRun:
    return FinishRun(
        seed_id=seed_id,
        exit_code=0,
        timed_out=False,
        stdout=stdout,
        stderr=stderr,
        output_hash="0" * 64,
        duration_ms=1,
        termination=Termination(cause=TerminationCause.EXITED),
        files=tuple(OutputFile(name=f"f{number}", size=1, sha256="0" * 64) for number in range(files)),
    )


def settled(sends: list[Send]) -> list[str]:
    """The statuses that are told."""
    return [
        msgspec.json.decode(send.data)["payload"]["seed"]["status"]
        for send in sends
        if send.kind == Kind.TASK_SETTLE and send.to is None
    ]


def test_they_are_told_that_a_task_was_withdrawn() -> None:
    node = Lone()
    node.publish()
    assert settled(node.do(Settle(seed_id=node.seed_id, outcome=SeedStatus.EXPIRED), NOW_MS)) == ["Expired"]


def test_they_are_told_that_a_claim_was_forfeited() -> None:
    node = Lone()
    node.publish()
    node.do(SubmitBid(seed_id=node.seed_id, price=1), NOW_MS)
    late_ms = NOW_MS + 10**7
    assert settled(node.do(Settle(seed_id=node.seed_id, outcome=SeedStatus.FORFEITED), late_ms)) == ["Forfeited"]


@pytest.mark.parametrize(
    ("stdout", "stderr"),
    [
        ("x" * 131_072, ""),
        ("", "x" * 131_072),
        ("x" * 131_072, "y" * 131_072),
        ("\x01" * 131_072, "\N{PILE OF POO}" * 30_000),
        ("short", "y" * 131_072),
    ],
)
def test_a_large_result_is_cut_to_one_datagram_and_marked(stdout: str, stderr: str) -> None:
    node = Lone()
    node.publish()
    node.do(SubmitBid(seed_id=node.seed_id, price=1), NOW_MS)
    node.do(StartRun(seed_id=node.seed_id), NOW_MS)
    (send,) = [send for send in node.do(result(node.seed_id, stdout, stderr), NOW_MS) if send.kind == Kind.TASK_RESULT]
    assert len(send.data) <= limits.DATAGRAM_RECEIVE_BYTES_MAX
    sent = msgspec.json.decode(send.data)["payload"]["result"]
    for name, whole in (("stdout", stdout), ("stderr", stderr)):
        cut = sent[name] != whole
        assert bool(sent.get(f"{name}_truncated")) is cut
        assert cut is (len(whole) > 100)
        assert not cut or (sent[name].startswith(whole[:1_000]) and "cut to what a baseline peer" in sent[name])
    assert len(send.data) > limits.DATAGRAM_RECEIVE_BYTES_MAX // 2


@given(st.text(max_size=2_000), st.text(max_size=2_000), st.integers(0, 3))
def test_what_fits_is_left_as_it_is(stdout: str, stderr: str, files: int) -> None:
    wish = result("s", stdout, stderr, files)
    assert cut_to_datagram(wish) == wish


def test_many_files_make_room_for_the_output() -> None:
    cut = cut_to_datagram(result("s", "x" * 131_072, files=400))
    assert (cut.files, cut.files_omitted) == ((), 400)
    assert len(cut.stdout) > 50_000
