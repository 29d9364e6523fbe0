"""Attacks over the protocols for relays, reachability and discovery: whichever of them the node offers."""

from __future__ import annotations

import trio

from crabnet.errors import Reason
from crabnet.p2p.prefixed import prefixed
from tests.hostile_p2p.case import BAD, Attacks, Target
from tests.support.hostile_p2p import DATA, FIN, MULTISTREAM, Identity, Peer, Stream, line, peer, read_line

attacks = Attacks()


async def _offered(hostile: Peer) -> list[str]:
    """The protocols that the node speaks, but for those of libp2p that have attacks of their own."""
    stream = await hostile.open()
    await stream.write(line(MULTISTREAM) + line("ls"))
    assert await read_line(stream) == MULTISTREAM
    spoken = (await read_line(stream)).split("\n")
    return [each for each in spoken if each and not each.startswith(("/meshsub", "/ipfs/"))]


async def _to_each(target: Target, who: Identity, content: bytes, *, ends: bool = True) -> None:
    """Send this to each of the protocols, with the end of the stream behind it."""
    async with peer(target.address, who) as hostile:
        streams: list[Stream] = []
        for each in await _offered(hostile):
            stream = await hostile.open(each)
            await stream.write(content)
            if ends:
                await stream.frame(DATA, FIN)
            streams.append(stream)
        assert streams
        if ends:
            for stream in streams:
                await stream.ended()
        await trio.sleep(0.05)


@attacks(BAD, Reason.MALFORMED, quick=True)
async def garbage_to_every_protocol(target: Target, who: Identity) -> None:
    """Messages of the right length that are no protobuf and no envelope."""
    await _to_each(target, who, prefixed(b"\xff" * 64))


@attacks(BAD, Reason.MALFORMED)
async def endless_lengths_to_every_protocol(target: Target, who: Identity) -> None:
    """Varints that never end."""
    await _to_each(target, who, b"\xff" * 64)


@attacks()
async def messages_of_gigabytes_to_every_protocol(target: Target, who: Identity) -> None:
    """A length of 4 GiB, and some of it."""
    await _to_each(target, who, b"\xff\xff\xff\xff\x0f" + bytes(10_000))


@attacks()
async def silence_to_every_protocol(target: Target, who: Identity) -> None:
    """Streams that say nothing."""
    await _to_each(target, who, b"", ends=False)
    await _to_each(target, who, b"")


@attacks()
async def half_messages_to_every_protocol(target: Target, who: Identity) -> None:
    """Messages that do not go on."""
    await _to_each(target, who, prefixed(bytes(100))[:50], ends=False)


@attacks()
async def nothing_but_fields_to_every_protocol(target: Target, who: Identity) -> None:
    """A protobuf with thousands of fields that nobody knows."""
    await _to_each(target, who, prefixed(b"\xf8\x07\x01" * 2_000))
