"""A neighbour made by hand: answers challenges, says heads, asks for feeds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from crabnet.core.commands import Received
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Send
from crabnet.protocol import sync
from crabnet.protocol.admission import AdmissionPolicy, Admitted
from crabnet.protocol.envelope import Envelope, seal
from crabnet.protocol.sync import Head, Hello, NodeIdentity, Talk, Want
from tests.support.envelopes import NOW_S, admission, signer

_WHENEVER = AdmissionPolicy(future_skew_s=2**53)


class Neighbour:
    """Speaks to one core from one address. Times in milliseconds.

    Several with the same name are the same node at several addresses: they need common ``nonces``, or say the same.
    """

    def __init__(self, core: Core, name: str, address: str, nonces: Iterator[int] | None = None) -> None:
        self.core = core
        self.signer = signer(name)
        self.address = address
        self.challenge = ""
        self._nonces = count(1) if nonces is None else nonces

    def say(self, talk: Talk, now_ms: int = NOW_S * 1000) -> Effects:
        """Say something; what the core does."""
        kind, payload = sync.payload_of(talk)
        envelope = seal(
            self.signer, kind=kind, namespace="default", ts=now_ms // 1000, nonce=next(self._nonces), payload=payload
        )
        return self.pass_on(envelope, now_ms)

    def pass_on(self, envelope: Envelope, now_ms: int = NOW_S * 1000) -> Effects:
        """Send an envelope of anybody."""
        effects = Effects()
        self.core.handle(Received(self.address, envelope.raw), now_ms, effects)
        for talk in self.heard(effects):
            if isinstance(talk, Hello) and talk.challenge:
                self.challenge = talk.challenge
        return effects

    def hello(self, *, challenge: str = "", echo: str = "", now_ms: int = NOW_S * 1000) -> Effects:
        """Introduce itself."""
        return self.say(Hello(NodeIdentity(self.signer.node_id), challenge, echo), now_ms)

    def confirm(self, now_ms: int = NOW_S * 1000) -> Effects:
        """Prove the address: echo the challenge that came, after a hello if none has come."""
        if not self.challenge:
            self.hello(now_ms=now_ms)
        return self.hello(echo=self.challenge, now_ms=now_ms)

    def heads(self, *heads: Head, now_ms: int = NOW_S * 1000) -> Effects:
        """Say what it holds."""
        return self.say(sync.Heads(list(heads)), now_ms)

    def ask(self, *wants: Want, now_ms: int = NOW_S * 1000) -> Effects:
        """Ask for parts of feeds."""
        return self.say(sync.Request(list(wants)), now_ms)

    def heard(self, effects: Effects) -> list[Talk]:
        """What the core says to this neighbour, or to everybody."""
        return [talk for send in effects.sends if send.to in {None, self.address} and (talk := talk_in(send))]


def talk_in(send: Send) -> Talk | None:
    """The talk that is sent, None for envelopes of feeds."""
    outcome = admission(_WHENEVER).admit(send.data, NOW_S, lambda _: True)
    if not isinstance(outcome, Admitted) or outcome.envelope.meta.seq:
        return None
    return sync.talk_of(outcome.envelope, outcome.kind)
