"""Attacks of peers with an identity on their connection: frames of yamux, identify, ping."""

from __future__ import annotations

import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.prefixed import prefixed
from tests.hostile_p2p.case import BAD, DROPPED, Attacks, Target
from tests.support.hostile_p2p import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    IDENTIFY,
    MULTISTREAM,
    PING,
    PINGED,
    PUSH,
    RST,
    SYN,
    SYNC,
    WINDOW,
    Identity,
    Stream,
    header,
    line,
    peer,
    read_prefixed,
)

attacks = Attacks()


async def _ends(target: Target, who: Identity, *frames: bytes) -> None:
    """These frames end the connection."""
    async with peer(target.address, who) as hostile:
        for each in frames:
            if not await hostile.attempt(each):
                break
        await hostile.ended()


@attacks(BAD, Reason.MALFORMED, quick=True)
async def frame_of_another_version(target: Target, who: Identity) -> None:
    """Version 7."""
    await _ends(target, who, header(DATA, 0, 1, 0, version=7))


@attacks(BAD, Reason.MALFORMED)
async def frame_of_an_unknown_type(target: Target, who: Identity) -> None:
    """Type 9."""
    await _ends(target, who, header(9, 0, 1, 0))


@attacks(BAD, Reason.MALFORMED)
async def frame_with_unknown_flags(target: Target, who: Identity) -> None:
    """All flags."""
    await _ends(target, who, header(DATA, 0xFFFF, 1, 0))


@attacks(BAD, Reason.MALFORMED, quick=True)
async def more_than_the_window(target: Target, who: Identity) -> None:
    """Three times what a new stream has room for, where the node does not read."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(IDENTIFY)
        for _ in range(13):
            if not await hostile.attempt(header(DATA, 0, stream.number, 65_000) + bytes(65_000)):
                break
        await hostile.ended()


@attacks(BAD, Reason.MALFORMED)
async def frame_of_gigabytes(target: Target, who: Identity) -> None:
    """A frame of 4 GiB, for a stream that is open and for one that is not."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open()
        await hostile.attempt(header(DATA, 0, stream.number, 2**32 - 1))
        await hostile.ended()
    await _ends(target, Identity(f"{who.id} 2"), header(DATA, 0, 77, 2**32 - 1))


@attacks(BAD, Reason.MALFORMED)
async def window_that_overflows(target: Target, who: Identity) -> None:
    """Windows of 4 GiB on top of each other."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open()
        for _ in range(3):
            await hostile.attempt(header(WINDOW, 0, stream.number, 2**32 - 1))
        await hostile.ended()


@attacks(BAD, Reason.MALFORMED)
async def stream_with_a_number_of_the_node(target: Target, who: Identity) -> None:
    """The one that has called opens streams with odd numbers only."""
    await _ends(target, who, header(WINDOW, SYN, 2, 0))


@attacks(BAD, Reason.MALFORMED)
async def the_same_stream_twice(target: Target, who: Identity) -> None:
    """A number that is in use."""
    await _ends(target, who, header(WINDOW, SYN, 101, 0), header(WINDOW, SYN, 101, 0))


@attacks()
async def frames_for_streams_that_are_not(target: Target, who: Identity) -> None:
    """Data, windows and ends for a thousand streams that nobody has opened."""
    async with peer(target.address, who) as hostile:
        for number in range(1_001, 2_001, 2):
            await hostile.send(header(DATA, 0, number, 4) + b"data" + header(WINDOW, FIN, number, 5))
        stream = await hostile.open(PING)
        await stream.write(bytes(32))
        assert await stream.read(32) == bytes(32)


@attacks(DROPPED, Reason.LIMIT_EXCEEDED, quick=True)
async def many_streams(target: Target, who: Identity) -> None:
    """Streams that are opened and left alone. Those beyond the limit are reset."""
    async with peer(target.address, who) as hostile:
        for number in range(1, 300, 2):
            hostile.streams[number] = Stream(hostile, number)
            await hostile.send(header(WINDOW, SYN, number, 0))
        with trio.fail_after(60):
            while not hostile.streams[299].is_over:
                await trio.sleep(0.01)


@attacks(DROPPED, Reason.LIMIT_EXCEEDED)
async def thousands_of_streams(target: Target, who: Identity) -> None:
    """Three thousand are asked for at once, and left alone."""
    async with peer(target.address, who) as hostile:
        for number in range(1, 6_000, 2):
            hostile.streams[number] = Stream(hostile, number)
            await hostile.send(header(WINDOW, SYN, number, 0))
        with trio.fail_after(60):
            while not hostile.streams[299].is_over:
                await trio.sleep(0.01)


@attacks()
async def streams_opened_and_reset_at_once(target: Target, who: Identity) -> None:
    """Five hundred streams, each reset with the next frame."""
    async with peer(target.address, who) as hostile:
        with trio.move_on_after(2):
            for number in range(1, 1_001, 2):
                await hostile.send(header(WINDOW, SYN, number, 0) + header(WINDOW, RST, number, 0))


@attacks()
async def streams_reset_with_their_first_frame(target: Target, who: Identity) -> None:
    """SYN and RST together, SYN and FIN together, ACK of nothing."""
    async with peer(target.address, who) as hostile:
        for number in range(1, 61, 2):
            await hostile.send(header(WINDOW, SYN | RST, number, 0) + header(WINDOW, ACK, number, 9))
        for number in range(61, 121, 2):
            await hostile.send(header(DATA, SYN | FIN, number, 3) + b"abc")
        stream = await hostile.open(PING)
        await stream.write(bytes(32))
        assert await stream.read(32) == bytes(32)


@attacks()
async def a_flood_of_pings(target: Target, who: Identity) -> None:
    """As many pings as fit into two seconds. The node answers a thousand in each, and the others wait."""
    async with peer(target.address, who) as hostile:
        with trio.move_on_after(2):
            for number in range(200_000):
                await hostile.send(header(PINGED, SYN, 0, number) * 100)
        assert hostile.counts[str(PINGED)] <= 4 * limits.P2P_CONTROL_FRAMES_PER_S


@attacks()
async def a_flood_of_windows(target: Target, who: Identity) -> None:
    """As many updates of a window as fit into a second."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open()
        with trio.move_on_after(1):
            while True:
                await hostile.send(header(WINDOW, 0, stream.number, 1) * 100)


@attacks()
async def go_away_and_still_here(target: Target, who: Identity) -> None:
    """Data after the word that no more comes."""
    await _ends(target, who, header(GO_AWAY, 0, 0, 0) + header(WINDOW, SYN, 1, 0), header(GO_AWAY, 0, 0, 99))


@attacks()
async def garbage_on_a_new_stream(target: Target, who: Identity) -> None:
    """Bytes instead of multistream-select on twenty streams."""
    async with peer(target.address, who) as hostile:
        for _ in range(20):
            stream = await hostile.open()
            await stream.write(b"\xff" * 100)
            await stream.ended()


@attacks(quick=True)
async def half_open_streams(target: Target, who: Identity) -> None:
    """Sixty streams that begin to negotiate."""
    async with peer(target.address, who) as hostile:
        for _ in range(50):
            stream = await hostile.open()
            await stream.write(line(MULTISTREAM)[:7])


@attacks()
async def a_reader_that_does_not_read(target: Target, who: Identity) -> None:
    """Pings within the window, whose answers are left in the socket."""
    async with peer(target.address, who) as hostile:
        streams = [await hostile.open(PING), await hostile.open(PING)]
        hostile.may_read = trio.Event()
        with trio.move_on_after(1):
            for _ in range(60):
                for stream in streams:
                    await stream.write(bytes(4_096))
            await trio.sleep_forever()


@attacks(BAD, Reason.MALFORMED)
async def pings_beyond_the_window(target: Target, who: Identity) -> None:
    """More pings than the node has allowed."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(PING)
        while await hostile.attempt(header(DATA, 0, stream.number, 65_536) + bytes(65_536)):
            pass
        await hostile.ended()


@attacks(BAD, Reason.MALFORMED, quick=True)
async def another_key_by_push(target: Target, who: Identity) -> None:
    """A peer that says that it is another one."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(PUSH)
        other = Identity("somebody else").keys.public_key.serialize()
        await stream.write(prefixed(who.identify(public_key=other)))
        await stream.ended()


@attacks(BAD, Reason.MALFORMED)
async def another_key_when_asked(target: Target, who: Identity) -> None:
    """The same as an answer to identify."""
    asked = trio.Event()

    async def lie(stream: Stream) -> None:
        await stream.write(prefixed(who.identify(public_key=Identity("x").keys.public_key.serialize())))
        asked.set()

    async with peer(target.address, who, offered={IDENTIFY: lie}) as _:
        with trio.fail_after(20):
            await asked.wait()
        await trio.sleep(0.1)


@attacks(BAD, Reason.MALFORMED)
async def a_megabyte_of_addresses(target: Target, who: Identity) -> None:
    """A message of identify of 1 MiB."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(PUSH)
        address = bytes.fromhex("047f000001060050")
        await stream.write(prefixed(who.identify(listen_addrs=[address] * 100_000))[:200_000])
        await stream.ended()


@attacks(BAD, Reason.MALFORMED)
async def identify_that_is_garbage(target: Target, who: Identity) -> None:
    """No protobuf, and a record that is none."""
    async with peer(target.address, who) as hostile:
        for content in (b"\xff" * 50, who.identify(signedPeerRecord=b"\xff" * 50, listen_addrs=[b"\xff", b""])):
            stream = await hostile.open(PUSH)
            await stream.write(prefixed(content))
            await stream.ended()


@attacks(BAD, Reason.MALFORMED)
async def a_flood_of_pushes(target: Target, who: Identity) -> None:
    """Thirty pushes of identify."""
    async with peer(target.address, who) as hostile:
        for _ in range(30):
            stream = await hostile.open(PUSH)
            await stream.write(prefixed(who.identify()))
            await stream.ended()


@attacks()
async def pushes_that_do_not_go_on(target: Target, who: Identity) -> None:
    """The half of a message on ten streams."""
    async with peer(target.address, who) as hostile:
        for _ in range(10):
            stream = await hostile.open(PUSH)
            await stream.write(prefixed(who.identify())[:20])


@attacks()
async def questions_for_identify(target: Target, who: Identity) -> None:
    """Fifty questions, whose answers nobody reads."""
    async with peer(target.address, who) as hostile:
        for _ in range(50):
            await hostile.open(IDENTIFY)
        stream = await hostile.open(IDENTIFY)
        assert await read_prefixed(stream)


@attacks()
async def ping_that_is_none(target: Target, who: Identity) -> None:
    """Too few bytes, then the end; and many streams of ping."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(PING)
        await stream.write(b"abc")
        await stream.frame(DATA, FIN)
        await stream.ended()
        for _ in range(10):
            await hostile.open(PING)


@attacks()
async def protocols_that_nobody_speaks(target: Target, who: Identity) -> None:
    """Thirty streams for protocols that are not offered."""
    async with peer(target.address, who) as hostile:
        for number in range(30):
            stream = await hostile.open()
            await stream.write(line(MULTISTREAM) + line(f"/unknown/{number}") + line("ls"))
        stream = await hostile.open(SYNC)
        assert not stream.is_over
