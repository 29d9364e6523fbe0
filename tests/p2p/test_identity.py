"""What a peer may say of itself, and before it has proved who it is."""

from __future__ import annotations

import pytest
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import MessageTooLarge
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.p2p.handshaking import Bounded
from crabnet.p2p.identity import IdentityError, _message
from crabnet.p2p.negotiating import Communicator
from crabnet.p2p.prefixed import prefixed
from tests.support.hostile_p2p import Identity, line


class Bytes(IRawConnection):
    """A connection over which these bytes come."""

    is_initiator = False

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` of what is left."""
        data, self._content = self._content[:n], self._content[len(self._content[:n]) :]
        return data

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def close(self) -> None:
        """Nothing to release."""

    def get_remote_address(self) -> tuple[str, int] | None:
        """Unknown."""
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Unknown."""
        return []

    def get_connection_type(self) -> ConnectionType:
        """Unknown."""
        return ConnectionType.UNKNOWN


def test_a_peer_may_say_who_it_is() -> None:
    who = Identity("a")
    assert _message(who.id, who.identify()).protocols


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": Identity("b").keys.public_key.serialize()},
        {"public_key": b"\xff" * 40},
        {"public_key": b"\x08\x01\x12" + prefixed(bytes(limits.P2P_KEY_BYTES_MAX))},
        {"signedPeerRecord": bytes(limits.P2P_RECORD_BYTES_MAX + 1)},
    ],
)
def test_a_peer_may_not_say_that_it_is_another_or_something_endless(changes: dict[str, object]) -> None:
    who = Identity("a")
    with pytest.raises(IdentityError):
        _message(who.id, who.identify(**changes))


def test_of_many_addresses_some_are_kept() -> None:
    who = Identity("a")
    said = _message(who.id, who.identify(listen_addrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x50"] * 500))
    assert len(said.listen_addrs) == 4 * limits.P2P_ADDRESSES_PER_PEER_MAX


async def test_a_handshake_reads_only_so_many_bytes() -> None:
    bounded = Bounded(Bytes(bytes(100)), 10)
    assert len(await bounded.read(8)) == 8
    with pytest.raises(MessageTooLarge):
        await bounded.read(3)
    bounded.release()
    assert len(await bounded.read(50)) == 50


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x03abc", line(b"\xff\xfe"), b"\xff\xff\xff\xff\x0f", b"\x80" * 20, b"", b"\x05ab"],
)
async def test_messages_of_a_negotiation_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(MultiselectCommunicatorError):
        await Communicator(Bytes(content)).read()


async def test_a_negotiation_ends_after_so_many_messages() -> None:
    communicator = Communicator(Bytes(line("na") * 1_000))
    for _ in range(limits.P2P_NEGOTIATION_MESSAGES_MAX):
        assert await communicator.read() == "na"
    with pytest.raises(MultiselectCommunicatorError):
        await communicator.read()
