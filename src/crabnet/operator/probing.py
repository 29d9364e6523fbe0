"""Asks configured peers whether they are there: one signed hello from a temporary port and a temporary key.

A node answers a hello that has a challenge, whoever sends it, and its answer says what time it is there. The probe is
never confirmed as a peer, because it answers no challenge.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from statistics import median_low
from typing import Final, NamedTuple

import trio

from crabnet import __version__, limits
from crabnet.errors import CrabnetError, NetworkError, Reason, RefusedError
from crabnet.node.clock import steady_ms, wall_ms
from crabnet.operator.check import Check, Situation, Verdict
from crabnet.protocol import sync
from crabnet.protocol.admission import Admission, AdmissionPolicy, Admitted
from crabnet.protocol.envelope import seal
from crabnet.protocol.identity import Signer
from crabnet.protocol.payloads import PayloadRefusedError
from crabnet.protocol.replay import SeenWindow
from crabnet.source import for_everybody, udp_source
from crabnet.transport.base import parse_address
from crabnet.transport.udp import UdpTransport

_ANY_TIME_S: Final = 2**40
"""The probe accepts an answer with any time, because it wants to know the time of the peer."""
_SEED_BYTES: Final = 32


class Answer(NamedTuple):
    """The answer of a peer. ``ahead_s``: how far its clock is ahead of this one's, in seconds."""

    node_id: str
    alias: str
    agent: str
    round_trip_ms: int
    ahead_s: int


def ask_peers(namespace: str, targets: Iterable[str]) -> dict[str, Answer | None]:
    """Ask each target, ``host:port``, at the same time. None for those that do not answer within PROBE_MS.

    Blocks for at most PROBE_MS and the time of name lookups. Raises NetworkError without any usable socket.
    """
    return trio.run(partial(_ask_all, namespace, list(dict.fromkeys(targets))))


async def _ask_all(namespace: str, targets: list[str]) -> dict[str, Answer | None]:
    answers: dict[str, Answer | None] = dict.fromkeys(targets)
    async with await UdpTransport.open(receive_buffer_bytes=limits.UDP_RECEIVE_BUFFER_BYTES) as transport:
        probe = _Probe(namespace, transport)
        with trio.move_on_after(limits.PROBE_MS / 1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(probe.listen, answers, nursery.cancel_scope)
                for target in targets:
                    nursery.start_soon(probe.ask, target)
    return answers


class _Probe:
    """The questions under way, by their challenges."""

    def __init__(self, namespace: str, transport: UdpTransport) -> None:
        self._namespace = namespace
        self._transport = transport
        self._signer = Signer(os.urandom(_SEED_BYTES))
        policy = AdmissionPolicy(namespace, message_ttl_s=_ANY_TIME_S, future_skew_s=_ANY_TIME_S)
        self._admission = Admission(policy, SeenWindow(ttl_s=0, capacity=0))
        self._asked: dict[str, tuple[str, int]] = {}

    async def ask(self, target: str) -> None:
        """Ask a target, and again some times, because datagrams may be lost."""
        address = parse_address(target)
        for _ in range(limits.PROBE_TRIES):
            challenge = os.urandom(16).hex()
            self._asked[challenge] = (target, steady_ms())
            with suppress(NetworkError):  # it stays without an answer
                await self._transport.send(self._hello(challenge), address)
            await trio.sleep(limits.PROBE_MS / 1000 / limits.PROBE_TRIES)

    def _hello(self, challenge: str) -> bytes:
        identity = sync.NodeIdentity(self._signer.node_id, "config verify", f"crabnet/{__version__}")
        kind, payload = sync.payload_of(sync.Hello(identity, challenge))
        nonce = int.from_bytes(os.urandom(6), "big")
        now_s = wall_ms() // 1000
        return seal(self._signer, kind=kind, namespace=self._namespace, ts=now_s, nonce=nonce, payload=payload).raw

    async def listen(self, answers: dict[str, Answer | None], scope: trio.CancelScope) -> None:
        """Take answers in until all targets have answered."""
        while not all(answers.values()):
            for data, _ in await self._transport.receive():
                self._take(data, answers)
        scope.cancel()

    def _take(self, data: bytes, answers: dict[str, Answer | None]) -> None:
        admitted = self._admission.admit(data, wall_ms() // 1000)
        if not isinstance(admitted, Admitted):
            return
        try:
            said = sync.talk_of(admitted.envelope, admitted.kind)
        except PayloadRefusedError:
            return
        if not isinstance(said, sync.Hello) or said.echo not in self._asked:
            return
        target, at_ms = self._asked[said.echo]
        ahead_s = admitted.envelope.meta.ts - wall_ms() // 1000
        answers[target] = answers[target] or Answer(
            said.identity.node_id, said.identity.alias, said.identity.agent, steady_ms() - at_ms, ahead_s
        )


def peers(at: Situation) -> Iterator[Check]:
    """Whether the configured peers answer, and whether their clocks agree with this one."""
    settings = at.settings
    bootstrap = list(settings.udp_bootstrap_peers)
    others = [
        each for each in settings.udp_announce_addrs if not for_everybody(udp_source(each)) and each not in bootstrap
    ]
    answers: dict[str, Answer | None] = {}
    if settings.legacy_peers:
        yield Check("peers", Verdict.OK, "peers are not asked, because those of the old protocol do not answer")
    elif bootstrap or others:
        try:
            answers = ask_peers(settings.namespace, [*bootstrap, *others])
        except CrabnetError as error:
            yield Check("peers", Verdict.WARNING, error.message, error)
    for target in bootstrap:
        if target in answers:
            yield _reached("bootstrap_peers", target, answers[target], settings.namespace)
    for target in others:
        if target in answers:
            yield _reached("peers", target, answers[target], settings.namespace)
    yield _clock([each for each in answers.values() if each is not None], settings.future_skew_s, settings.clock_check)


def _reached(name: str, target: str, answer: Answer | None, namespace: str) -> Check:
    if answer is None:
        error = NetworkError(
            f"{target} did not answer within {limits.PROBE_MS} ms in namespace {namespace!r}", Reason.NODE_UNREACHABLE
        )
        return Check(name, Verdict.WARNING, error.message, error)
    said = f"{answer.node_id} ({answer.agent or 'unknown program'})"
    return Check(name, Verdict.OK, f"{target} answered in {answer.round_trip_ms} ms: {said}")


def _clock(answers: list[Answer], tolerance_s: int, checked: bool) -> Check:
    name, now_s = "clock", wall_ms() // 1000
    wrong = ""
    if now_s < limits.CLOCK_PLAUSIBLE_FROM_S:
        wrong = "this machine's clock has not been set"
    elif answers:
        ahead_s = median_low(each.ahead_s for each in answers)
        if abs(ahead_s) > tolerance_s:
            side = "behind" if ahead_s > 0 else "ahead of"
            wrong = f"this machine's clock is {abs(ahead_s)} s {side} those of the {len(answers)} peers that answered"
    if wrong:
        error = RefusedError(f"{wrong}, so the node would sign nothing", Reason.CLOCK_SUSPECT)
        return Check(name, Verdict.FAILED if checked else Verdict.WARNING, error.message, error)
    if not answers:
        return Check(name, Verdict.OK, "the clock is plausible; no peer has said what time it is")
    return Check(name, Verdict.OK, f"it agrees with {len(answers)} peers within {tolerance_s} s")
