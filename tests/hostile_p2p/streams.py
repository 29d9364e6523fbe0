"""Attacks over ``/crabnet/sync/1`` and ``/crabnet/direct/1``."""

from __future__ import annotations

import json
import time

import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.prefixed import prefixed
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.fork_proof import PROOF_START
from tests.hostile_p2p.case import BAD, DROPPED, IGNORED, REJECTED, Attacks, Target, author, seed
from tests.support.hostile_p2p import DATA, DIRECT, FIN, SYNC, Identity, header, peer

attacks = Attacks()


async def _ends(target: Target, who: Identity, content: bytes) -> None:
    """This ends streams of both protocols, and not the connection."""
    async with peer(target.address, who) as hostile:
        for protocol in (SYNC, DIRECT):
            stream = await hostile.open(protocol)
            await stream.write(content)
            await stream.ended()
        assert not hostile.is_over.is_set()


async def _sends(target: Target, who: Identity, *messages: bytes, protocol: str = SYNC) -> None:
    """These messages, then the end of the stream."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(protocol)
        for each in messages:
            await stream.write(prefixed(each))
        await stream.frame(DATA, FIN)
        await stream.ended()


@attacks(BAD, Reason.EMPTY)
async def messages_of_no_length(target: Target, who: Identity) -> None:
    """A length of 0, a hundred times."""
    await _sends(target, who, *[b""] * 5)


@attacks(BAD, Reason.MALFORMED, quick=True)
async def message_of_gigabytes(target: Target, who: Identity) -> None:
    """A length of 4 GiB."""
    await _ends(target, who, b"\xff\xff\xff\xff\x0f")


@attacks(BAD, Reason.MALFORMED)
async def message_a_little_too_long(target: Target, who: Identity) -> None:
    """A byte more than the largest message has."""
    await _ends(target, who, prefixed(bytes(limits.FORK_PROOF_BYTES_MAX + 1))[:10])


@attacks(BAD, Reason.MALFORMED)
async def length_that_is_too_long(target: Target, who: Identity) -> None:
    """A varint of six bytes, and one that is not in its shortest form."""
    await _ends(target, who, b"\x80\x80\x80\x80\x80\x01")
    await _ends(target, who, b"\x85\x00")


@attacks()
async def message_that_is_cut(target: Target, who: Identity) -> None:
    """The end of the stream within a message."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(SYNC)
        await stream.write(prefixed(seed(who).raw)[:100])
        await stream.frame(DATA, FIN)
        await stream.ended()


@attacks(REJECTED, Reason.MALFORMED, quick=True)
async def messages_that_are_garbage(target: Target, who: Identity) -> None:
    """Bytes, and JSON of something else."""
    await _sends(target, who, b"\xff" * 10, b"{}", b"null", b'{"meta":[],"payload":{}}', b"[" * 50_000)


@attacks(REJECTED, Reason.MALFORMED)
async def garbage_to_direct(target: Target, who: Identity) -> None:
    """The same to the other protocol."""
    await _sends(target, who, b"\xff" * 10, b"{}", protocol=DIRECT)


@attacks(REJECTED, Reason.BAD_SIGNATURE)
async def forged_envelopes(target: Target, who: Identity) -> None:
    """Envelopes whose signatures are those of others."""
    one, two = json.loads(seed(who).raw), json.loads(author(who).publish(int(time.time()), title="u").raw)
    one["meta"]["signature"] = two["meta"]["signature"]
    await _sends(target, who, json.dumps(one).encode())


@attacks(IGNORED, Reason.WRONG_NAMESPACE)
async def envelopes_of_another_namespace(target: Target, who: Identity) -> None:
    """Sound envelopes for others."""
    await _sends(target, who, seed(who, "elsewhere").raw)


@attacks(DROPPED, Reason.MISUSE, blocks=True, quick=True)
async def a_flood_of_forgeries(target: Target, who: Identity) -> None:
    """Thousands of messages that are none: after a few none is checked; then the peer is blocked."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(SYNC)
        content = b"".join(prefixed(b'{"meta":{},"payload":{"n":%d}}' % at) for at in range(500))
        with trio.move_on_after(10):
            for _ in range(200):
                if not await hostile.attempt(header(DATA, 0, stream.number, len(content)) + content):
                    break
                await trio.sleep(0.02)
        await hostile.ended()


@attacks()
async def half_open_for_ever(target: Target, who: Identity) -> None:
    """Streams of both protocols that say nothing, or half a length."""
    async with peer(target.address, who) as hostile:
        for protocol in (SYNC, DIRECT):
            await hostile.open(protocol)
            await (await hostile.open(protocol)).write(b"\x80")


@attacks()
async def many_streams_of_sync(target: Target, who: Identity) -> None:
    """Twenty streams: four are read."""
    async with peer(target.address, who) as hostile:
        streams = [await hostile.open(SYNC) for _ in range(20)]
        with trio.fail_after(20):
            while sum(each.is_over for each in streams) < 16:
                await trio.sleep(0.01)


@attacks()
async def message_byte_by_byte(target: Target, who: Identity) -> None:
    """A sound envelope in frames of one byte."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(SYNC)
        for byte in prefixed(seed(who).raw):
            await hostile.send(header(DATA, 0, stream.number, 1) + bytes([byte]))
        await stream.frame(DATA, FIN)
        await stream.ended()


def _want(target: Target, who: Identity, author_id: str, nonce: int) -> bytes:
    """A request for a whole feed."""
    payload: JsonObject = {"wants": [[author_id, 1, 2**31]]}
    now_s = int(time.time())
    return seal(
        who.signer, kind=Kind.FEED_REQUEST, namespace=target.namespace, ts=now_s, nonce=nonce, payload=payload
    ).raw


@attacks()
async def a_flood_of_wants(target: Target, who: Identity) -> None:
    """Five hundred requests for everything, whose answers nobody reads."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(SYNC)
        hostile.may_read = trio.Event()
        with trio.move_on_after(2):
            for number in range(500):
                await stream.write(prefixed(_want(target, who, target.node_id, number)))


@attacks(REJECTED, Reason.UNAUTHORISED, blocks=True)
async def a_flood_of_talk_for_somebody_else(target: Target, who: Identity) -> None:
    """Hellos, soundly signed, that speak for the node itself: only the node can tell. It blocks the peer."""
    payload: JsonObject = {"identity": {"node_id": target.node_id}, "challenge": "", "echo": ""}
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(SYNC)
        for number in range(600):
            now_s = int(time.time())
            said = seal(
                who.signer, kind=Kind.NODE_HELLO, namespace=target.namespace, ts=now_s, nonce=number, payload=payload
            )
            content = prefixed(said.raw)
            if not await hostile.attempt(header(DATA, 0, stream.number, len(content)) + content):
                break
        await hostile.ended()


@attacks()
async def bids_of_somebody_else(target: Target, who: Identity) -> None:
    """Sound envelopes of another author, to direct: they count for that author."""
    other = Identity(f"{who.id} author")
    await _sends(target, who, seed(other).raw, seed(other).raw, protocol=DIRECT)


@attacks()
async def a_fork_proof_that_nobody_wanted(target: Target, who: Identity) -> None:
    """What begins like a proof."""
    await _sends(target, who, PROOF_START + b"garbage", PROOF_START)
