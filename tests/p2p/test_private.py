"""The key of a private network: the cipher, what members and strangers get, and what is known of strangers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from nacl.secret import SecretBox

from crabnet.p2p.stand_in import without_fastecdsa
from tests.support.dht import needs_libp2p

if TYPE_CHECKING:
    from crabnet.p2p.private import PrivateConnection

pytestmark = needs_libp2p

KEY, OTHER_KEY = os.urandom(32), os.urandom(32)
NONCE_BYTES = 24
HELLO = b"\x13/multistream/1.0.0\n"

FIRST_KEY = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
SECOND_KEY = "dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4"
NONCE = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37"
STREAM = "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"
"""From "Cryptography in NaCl" (D. J. Bernstein, 2009), sections 8 and 9."""


@pytest.fixture(autouse=True)
def importable() -> None:
    """libp2p can be imported in this process."""
    without_fastecdsa()


def test_the_cipher_is_that_of_nacl() -> None:
    from crabnet.p2p.xsalsa20 import XSalsa20, hsalsa20

    assert hsalsa20(bytes.fromhex(FIRST_KEY), bytes.fromhex(NONCE)[:16]).hex() == SECOND_KEY
    assert XSalsa20(bytes.fromhex(FIRST_KEY), bytes.fromhex(NONCE)).apply(bytes(32)).hex() == STREAM


@pytest.mark.parametrize("size", [0, 1, 31, 32, 63, 64, 65, 1_000, 100_000])
def test_the_stream_goes_on_from_call_to_call(size: int) -> None:
    """What libsodium seals is encrypted by the same stream, from its byte 32 on."""
    from crabnet.p2p.xsalsa20 import XSalsa20

    nonce, data = os.urandom(NONCE_BYTES), os.urandom(size)
    stream = XSalsa20(KEY, nonce)
    stream.apply(bytes(32))
    at = size // 3
    assert stream.apply(data[:at]) + stream.apply(data[at:]) == SecretBox(KEY).encrypt(data, nonce).ciphertext[16:]


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a connection."""
    here, there = trio.socket.socketpair()
    async with trio.SocketStream(here) as one, trio.SocketStream(there) as other:
        yield one, other


def private(socket: trio.SocketStream, *, key: bytes = KEY, is_initiator: bool = False) -> PrivateConnection:
    """A connection of a private network over a socket."""
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network.connection.raw_connection import RawConnection

    from crabnet.p2p.private import PrivateConnection

    return PrivateConnection(RawConnection(TrioTCPStream(socket), is_initiator), key, is_initiator=is_initiator)


def over_sockets(run: Callable[[trio.SocketStream, trio.SocketStream], Awaitable[None]]) -> None:
    """Run something with both ends of a connection."""

    async def main() -> None:
        async with sockets() as (here, there):
            await run(here, there)

    trio.run(main)


async def everything(socket: trio.SocketStream) -> bytes:
    """All bytes until the end, or until the connection is reset."""
    found = b""
    try:
        async for data in socket:
            found += data
    except trio.BrokenResourceError:
        return found
    return found


async def exactly(connection: PrivateConnection, size: int) -> bytes:
    """So many bytes."""
    found = b""
    while len(found) < size:
        data = await connection.read(size - len(found))
        assert data
        found += data
    return found


def test_members_understand_each_other() -> None:
    async def run(here: trio.SocketStream, there: trio.SocketStream) -> None:
        accepted, dialler = private(here), private(there, is_initiator=True)
        data = os.urandom(300_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted.admit)
            await dialler.write(HELLO)
            await dialler.write(b"and more")
        assert accepted.stranger is None
        assert await exactly(accepted, len(HELLO) + 8) == HELLO + b"and more"
        await accepted.write(HELLO)
        assert await exactly(dialler, len(HELLO)) == HELLO
        assert dialler.stranger is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted.write, data)
            assert await exactly(dialler, len(data)) == data
        await accepted.close()
        assert await dialler.read(1) == b""

    over_sockets(run)


def test_the_nonce_may_come_in_pieces_and_what_is_sent_is_random() -> None:
    async def run(here: trio.SocketStream, there: trio.SocketStream) -> None:
        from crabnet.p2p.xsalsa20 import XSalsa20

        accepted = private(here)
        nonce = os.urandom(NONCE_BYTES)
        said = nonce + XSalsa20(KEY, nonce).apply(HELLO)

        async def say() -> None:
            for at in range(len(said)):
                await there.send_all(said[at : at + 1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            await accepted.admit()
        await accepted.write(HELLO)
        heard = await there.receive_some(100)
        theirs = heard[:NONCE_BYTES]
        assert XSalsa20(KEY, theirs).apply(heard[NONCE_BYTES:]) == HELLO

    over_sockets(run)


def sealed(key: bytes, said: bytes) -> bytes:
    from crabnet.p2p.xsalsa20 import XSalsa20

    nonce = os.urandom(NONCE_BYTES)
    return nonce + XSalsa20(key, nonce).apply(said)


STRANGERS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "nothing": (lambda: b"", "SILENT", 0),
    "a part of a nonce": (lambda: b"x" * 23, "SILENT", 0),
    "a nonce and nothing": (lambda: b"x" * 24, "CLOSED", NONCE_BYTES),
    "the hello of the open network": (lambda: HELLO, "OPEN", 0),
    "the hello of the open network, and more": (lambda: HELLO + b"\x07/noise\n", "OPEN", 0),
    "HTTP": (lambda: b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "OTHER_KEY", 0),
    "noise": (lambda: os.urandom(200), "OTHER_KEY", 0),
    "another key": (lambda: sealed(OTHER_KEY, HELLO), "OTHER_KEY", 0),
    "another protocol": (lambda: sealed(KEY, b"\x13/multistream/2.0.0\n"), "OTHER_KEY", 0),
    "a part of the hello": (lambda: sealed(KEY, HELLO[:-1]), "CLOSED", NONCE_BYTES),
}
"""What somebody says, what is known of them then, and how many (random) bytes they have got."""


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_gets_random_bytes_at_most(name: str) -> None:
    said, known, size = STRANGERS[name]

    async def run(here: trio.SocketStream, there: trio.SocketStream) -> None:
        from crabnet.p2p.private import NotAMemberError, Stranger

        accepted = private(here)
        await there.send_all(said())
        await there.send_eof()
        with pytest.raises(NotAMemberError):
            await accepted.admit()
        await accepted.close()
        assert accepted.stranger is Stranger[known]
        assert len(await everything(there)) == size

    over_sockets(run)


def test_a_mirror_is_no_member() -> None:
    """Somebody who sends everything back has said the hello with the right key, but with the nonce of this side."""

    async def run(here: trio.SocketStream, there: trio.SocketStream) -> None:
        from crabnet.p2p.private import NotAMemberError, Stranger

        dialler = private(here, is_initiator=True)
        await dialler.write(HELLO)
        await there.send_all(await there.receive_some(100))
        with pytest.raises(NotAMemberError):
            await dialler.read(1)
        assert dialler.stranger is Stranger.OTHER_KEY

    over_sockets(run)
