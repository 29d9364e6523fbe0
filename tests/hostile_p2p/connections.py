"""Attacks before anybody has proved who he is: on TCP, multistream-select and noise."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import trio
from libp2p.security.noise.messages import NoiseHandshakePayload

from crabnet.p2p.prefixed import prefixed
from tests.hostile_p2p.case import Attacks, Target
from tests.support.hostile_p2p import (
    MULTISTREAM,
    NOISE,
    YAMUX,
    Identity,
    Peer,
    host_of,
    line,
    peer,
    read_line,
    secured,
    wire,
)

attacks = Attacks()


@attacks(quick=True)
async def garbage_instead_of_multistream(target: Target, _: Identity) -> None:
    """Bytes of every value."""
    async with wire(target.address) as link:
        await link.write(bytes(range(256)) * 16)
        await link.ended()


@attacks()
async def http_instead_of_multistream(target: Target, _: Identity) -> None:
    """A request of a browser."""
    async with wire(target.address) as link:
        await link.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await link.ended()


@attacks(quick=True)
async def length_of_exabytes(target: Target, _: Identity) -> None:
    """A message of 2^62 bytes, of which megabytes come."""
    async with wire(target.address) as link:
        with suppress(trio.BrokenResourceError):
            await link.write(b"\xff\xff\xff\xff\xff\xff\xff\xff\x3f")
            for _turn in range(100):
                await link.write(b"A" * 65_536)
        await link.ended()


@attacks()
async def length_that_never_ends(target: Target, _: Identity) -> None:
    """A varint of 10,000 bytes."""
    async with wire(target.address) as link:
        with suppress(trio.BrokenResourceError):
            await link.write(b"\x80" * 10_000)
        await link.ended()


@attacks()
async def proposals_without_end(target: Target, _: Identity) -> None:
    """A hundred protocols that nobody speaks."""
    async with wire(target.address) as link:
        await link.write(line(MULTISTREAM))
        with suppress(trio.BrokenResourceError):
            for number in range(100):
                await link.write(line(f"/nothing/{number}"))
        await link.ended()


@attacks()
async def lists_without_end(target: Target, _: Identity) -> None:
    """A hundred times `ls`."""
    async with wire(target.address) as link:
        await link.write(line(MULTISTREAM))
        with suppress(trio.BrokenResourceError):
            for _turn in range(100):
                await link.write(line("ls"))
        await link.ended()


@attacks()
async def text_that_is_no_text(target: Target, _: Identity) -> None:
    """A protocol whose name is not UTF-8."""
    async with wire(target.address) as link:
        await link.write(line(MULTISTREAM) + line(b"\xff\xfe\xfd"))
        await link.ended()


@attacks()
async def empty_messages(target: Target, _: Identity) -> None:
    """A message without a byte, and one without an end of line."""
    async with wire(target.address) as link:
        await link.write(line(MULTISTREAM) + b"\x00")
        await link.ended()
    async with wire(target.address) as link:
        await link.write(line(MULTISTREAM) + b"\x03abc")
        await link.ended()


@attacks(quick=True)
async def silence_in_many_connections(target: Target, _: Identity) -> None:
    """Connections from one host that say nothing: beyond 16 they are refused at once."""
    host = host_of(60_000)
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(wire(target.address, host)) for _turn in range(60)]
        refused = 0
        for link in links:
            with suppress(trio.BrokenResourceError), trio.move_on_after(0.05):
                while await link.stream.receive_some(100):
                    pass
                refused += 1
        assert refused >= 60 - 16


@attacks()
async def connections_that_come_and_go(target: Target, _: Identity) -> None:
    """Three hundred connections one after the other, from one host."""
    host = host_of(60_001)
    for _turn in range(300):
        async with wire(target.address, host) as link:
            with suppress(trio.BrokenResourceError):
                await link.write(line(MULTISTREAM))


@attacks(quick=True)
async def garbage_instead_of_noise(target: Target, _: Identity) -> None:
    """A first message of noise that is none."""
    async with wire(target.address) as link:
        await link.agree(NOISE)
        await link.write(b"\x00\x20" + b"\xff" * 32)
        await link.write(b"\x00\x40" + b"\xff" * 64)
        await link.ended()


@attacks()
async def giant_handshake(target: Target, _: Identity) -> None:
    """A first message of noise of 64 KiB."""
    async with wire(target.address) as link:
        await link.agree(NOISE)
        with suppress(trio.BrokenResourceError):
            await link.write(b"\xff\xff" + bytes(65_535))
        await link.ended()


@attacks()
async def handshake_of_a_point_of_low_order(target: Target, _: Identity) -> None:
    """An ephemeral key that makes every secret zero."""
    async with wire(target.address) as link:
        await link.agree(NOISE)
        with suppress(trio.BrokenResourceError):
            await link.write(b"\x00\x20" + bytes(32) + b"\x00\x60" + bytes(96))
        await link.ended()


async def _refused(target: Target, who: Identity, payload: bytes | None, tamper: bool = False) -> None:
    """Shake hands with another payload. The node ends the connection."""

    def make(sound: NoiseHandshakePayload) -> bytes:
        if payload is not None:
            return payload
        if tamper:
            sound.id_sig = bytes(64)
        return sound.serialize()

    async with wire(target.address) as link:
        await link.agree(NOISE)
        pattern = who.pattern()
        pattern.payload = make
        with suppress(trio.BrokenResourceError):
            session = await pattern.handshake_outbound(link, None)
            await session.write(line(MULTISTREAM))
        await link.ended()


@attacks(quick=True)
async def identity_with_a_wrong_signature(target: Target, who: Identity) -> None:
    """The static key is not signed by the identity."""
    await _refused(target, who, None, tamper=True)


@attacks(quick=True)
async def identity_of_somebody_else(target: Target, who: Identity) -> None:
    """The identity key of another peer, with a signature of one's own."""
    other = Identity("the other one")

    def make(sound: NoiseHandshakePayload) -> bytes:
        return NoiseHandshakePayload(other.keys.public_key, sound.id_sig).serialize()

    async with wire(target.address) as link:
        await link.agree(NOISE)
        pattern = who.pattern()
        pattern.payload = make
        with suppress(trio.BrokenResourceError):
            session = await pattern.handshake_outbound(link, None)
            await session.write(line(MULTISTREAM))
        await link.ended()


@attacks()
async def identity_that_is_garbage(target: Target, who: Identity) -> None:
    """A payload that is no protobuf, none at all, and a key of a kind that nobody knows."""
    await _refused(target, who, b"\xff" * 100)
    await _refused(target, who, b"")
    await _refused(target, who, b"\x0a\x04\x08\x63\x12\x00\x12\x40" + bytes(64))


@attacks(quick=True)
async def identity_that_takes_minutes_to_read(target: Target, who: Identity) -> None:
    """A private key of RSA with 200,000 bits in the place of a public one: the library looks whether it is prime."""
    p = (1 << 100_000) | 1
    values = [0, p * p, 65_537, 1, p, p, 1, 1, 1]
    body = b"".join(_der(2, value.to_bytes(value.bit_length() // 8 + 1, "big")) for value in values)
    key = b"\x08\x00\x12" + prefixed(_der(0x30, body))
    await _refused(target, who, b"\x0a" + prefixed(key) + b"\x12\x40" + bytes(64))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(size)]) + size + content


@attacks()
async def garbage_after_the_handshake(target: Target, who: Identity) -> None:
    """Bytes that nobody has encrypted."""
    async with secured(target.address, who) as (link, _session):
        with suppress(trio.BrokenResourceError):
            await link.write(b"\x00\x30" + b"\xaa" * 48)
        await link.ended()


@attacks()
async def muxer_that_nobody_speaks(target: Target, who: Identity) -> None:
    """Only mplex is proposed, again and again."""
    async with secured(target.address, who) as (link, session):
        with suppress(trio.BrokenResourceError):
            await session.write(line(MULTISTREAM))
            for _ in range(100):
                await session.write(line("/mplex/6.7.0"))
        await link.ended()


@attacks(quick=True)
async def handshakes_that_stop_half_way(target: Target, who: Identity) -> None:
    """Connections that stop after the negotiation, after noise, and in the middle of a message."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            link = await stack.enter_async_context(wire(target.address))
            await link.agree(NOISE)
            await link.write(b"\x00")
        for _ in range(5):
            await stack.enter_async_context(secured(target.address, who))


@attacks()
async def another_identity_on_each_connection(target: Target, who: Identity) -> None:
    """One host is many peers, one after the other."""
    host = host_of(60_002)
    for number in range(8):
        async with peer(target.address, Identity(f"{who.id} {number}"), host) as other:
            await other.open(YAMUX[:0])


@attacks()
async def the_same_identity_many_times(target: Target, who: Identity) -> None:
    """One peer with eight connections, of which each has streams."""
    async with AsyncExitStack() as stack:
        peers: list[Peer] = [await stack.enter_async_context(peer(target.address, who)) for _ in range(8)]
        for each in peers:
            stream = await each.open()
            await stream.write(line(MULTISTREAM))
            assert await read_line(stream) == MULTISTREAM or stream.is_over


@attacks()
async def connections_cut_in_a_frame(target: Target, who: Identity) -> None:
    """A peer that ends its connection in the middle of a frame, fifty times."""
    host = host_of(60_003)
    for _ in range(10):
        async with peer(target.address, who, host) as hostile:
            await hostile.attempt(b"\x00\x00\x00")
