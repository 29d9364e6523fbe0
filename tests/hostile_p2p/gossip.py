"""Attacks over gossipsub."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable

import trio
from libp2p.pubsub.pb import rpc_pb2

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.prefixed import prefixed
from tests.hostile_p2p.case import BAD, DROPPED, IGNORED, REJECTED, Attacks, Target, author, seed
from tests.support.hostile_p2p import (
    DATA,
    FIN,
    MESHSUB,
    MULTISTREAM,
    SYN,
    Identity,
    Peer,
    Stream,
    header,
    line,
    peer,
    rpc,
)

attacks = Attacks()


async def _sends(target: Target, who: Identity, *content: bytes, ends: bool = False) -> None:
    """Send this on a stream of gossipsub. The node answers a question on another stream afterwards."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.gossip(target.topic())
        for each in content:
            await stream.write(each)
        if ends:
            await stream.ended()
        await _was_heard(hostile)


async def _was_heard(hostile: Peer) -> None:
    """Wait until the node has taken everything that was sent before."""
    stream = await hostile.open("/ipfs/ping/1.0.0")
    await stream.write(bytes(32))
    await stream.read(32)
    await trio.sleep(0.05)


def _publish(*messages: rpc_pb2.Message) -> bytes:
    return rpc(publish=list(messages))


def _control(**fields: object) -> bytes:
    return rpc(control=rpc_pb2.ControlMessage(**fields))  # type: ignore[arg-type]


# --- RPCs that are none ------------------------------------------------------------------------------------


@attacks(BAD, Reason.MALFORMED, quick=True)
async def rpc_that_is_garbage(target: Target, who: Identity) -> None:
    """No protobuf."""
    await _sends(target, who, prefixed(b"\xff" * 100), ends=True)


@attacks(BAD, Reason.MALFORMED, quick=True)
async def rpc_of_gigabytes(target: Target, who: Identity) -> None:
    """A length of 4 GiB."""
    await _sends(target, who, b"\xff\xff\xff\xff\x0f" + bytes(1000), ends=True)


@attacks(BAD, Reason.MALFORMED)
async def rpc_a_little_too_long(target: Target, who: Identity) -> None:
    """A byte more than is read."""
    await _sends(target, who, prefixed(bytes(limits.GOSSIP_RPC_BYTES_MAX + 1))[:1_000], ends=True)


@attacks(BAD, Reason.MALFORMED)
async def rpc_with_an_endless_length(target: Target, who: Identity) -> None:
    """A varint that never ends."""
    await _sends(target, who, b"\x80" * 50, ends=True)


@attacks()
async def rpc_that_is_cut(target: Target, who: Identity) -> None:
    """The end of the stream in the middle of an RPC."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.gossip(target.topic())
        await stream.write(_publish(who.message(target.topic(), b"x" * 1_000))[:500])
        await stream.frame(DATA, FIN)
        await stream.ended()


@attacks()
async def rpcs_of_nothing(target: Target, who: Identity) -> None:
    """A thousand RPCs without content."""
    await _sends(target, who, b"\x00" * 1_000)


@attacks(DROPPED, Reason.LIMIT_EXCEEDED)
async def many_gossip_streams(target: Target, who: Identity) -> None:
    """Ten streams of gossipsub at once: two are read."""
    async with peer(target.address, who) as hostile:
        streams = [await hostile.open(MESHSUB) for _ in range(10)]
        with trio.fail_after(20):
            while sum(each.is_over for each in streams) < 8:
                await trio.sleep(0.01)


@attacks()
async def gossip_streams_that_come_and_go(target: Target, who: Identity) -> None:
    """Forty streams of gossipsub, each with a subscription, each reset."""
    async with peer(target.address, who) as hostile:
        for _ in range(40):
            stream = await hostile.gossip(target.topic())
            await stream.frame(1, 8)


@attacks()
async def rpc_byte_by_byte(target: Target, who: Identity) -> None:
    """A subscription in frames of one byte."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.open(MESHSUB)
        for byte in rpc(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=target.topic())]):
            await hostile.send(header(DATA, 0, stream.number, 1) + bytes([byte]))
        await _was_heard(hostile)


# --- subscriptions -----------------------------------------------------------------------------------------


def _subscriptions(topics: Iterable[str], *, begin: bool = True) -> bytes:
    return rpc(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=begin, topicid=each) for each in topics])


@attacks(DROPPED, Reason.RATE_LIMITED, quick=True)
async def a_hundred_thousand_subscriptions(target: Target, who: Identity) -> None:
    """In RPCs of 10,000 each."""
    await _sends(target, who, *(_subscriptions(f"t{turn}/{at}" for at in range(10_000)) for turn in range(10)))


@attacks(DROPPED, Reason.RATE_LIMITED)
async def subscriptions_that_come_and_go(target: Target, who: Identity) -> None:
    """A topic that is entered and left, a thousand times."""
    topic = target.topic()
    await _sends(target, who, (_subscriptions([topic], begin=False) + _subscriptions([topic])) * 1_000)


@attacks("topic_unknown")
async def topics_that_look_like_ours(target: Target, who: Identity) -> None:
    """Subscriptions to a later version, another namespace, and nonsense."""
    topics = [target.topic(version=9), "crabnet/v2/elsewhere/tasks", "crabnet", "x" * 10_000, "", "\x00\x1b[2J"]
    await _sends(target, who, _subscriptions(topics))


@attacks("topic_unknown")
async def a_flood_of_unknown_topics(target: Target, who: Identity) -> None:
    """More than the node tells of."""
    await _sends(target, who, _subscriptions(f"crabnet/v3/default/t{at}" for at in range(60)))


# --- control messages --------------------------------------------------------------------------------------


@attacks(DROPPED, Reason.RATE_LIMITED, quick=True)
async def a_flood_of_ihave(target: Target, who: Identity) -> None:
    """Two hundred times thousand ids that nobody knows. The node asks for no more than for some thousands."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.gossip(target.topic())
        for turn in range(200):
            ids = [turn.to_bytes(4, "big") + at.to_bytes(28, "big") for at in range(1_000)]
            await stream.write(_control(ihave=[rpc_pb2.ControlIHave(topicID=target.topic(), messageIDs=ids)]))
        await _was_heard(hostile)


@attacks(DROPPED, Reason.RATE_LIMITED)
async def a_flood_of_iwant(target: Target, who: Identity) -> None:
    """A message of the node, asked for 100,000 times: it comes a few times."""
    big = author(who).publish(int(time.time()), description="x" * 50_000).raw
    message = who.message(target.topic(), big)
    other = Identity(f"{who.id} other")
    async with peer(target.address, who) as hostile, peer(target.address, other) as second:
        stream = await hostile.gossip(target.topic())
        await stream.write(_publish(message))
        await _was_heard(hostile)
        asking = await second.gossip()
        ids = [hashlib.sha256(big).digest()] * 10_000
        for _ in range(100):
            await asking.write(_control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids)]))
        for _ in range(100):
            await stream.write(_control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids[:10])]))
        await _was_heard(second)
        assert second.received < (limits.GOSSIP_SERVED_MAX + 2) * len(big)


@attacks(DROPPED, Reason.RATE_LIMITED)
async def a_storm_of_graft_and_prune(target: Target, who: Identity) -> None:
    """In and out of the mesh, five hundred times."""
    topic = target.topic()
    both = _control(graft=[rpc_pb2.ControlGraft(topicID=topic)]) + _control(
        prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=1)]
    )
    await _sends(target, who, both * 500)


@attacks()
async def graft_during_a_back_off(target: Target, who: Identity) -> None:
    """The node was told to stay away, and the peer comes at once, twenty times."""
    topic = target.topic()
    prune = _control(prune=[rpc_pb2.ControlPrune(topicID=topic, backoff=60)])
    await _sends(target, who, prune, *[_control(graft=[rpc_pb2.ControlGraft(topicID=topic)])] * 20)


@attacks()
async def back_off_for_ages(target: Target, who: Identity) -> None:
    """A back-off of 2^64 seconds."""
    await _sends(target, who, _control(prune=[rpc_pb2.ControlPrune(topicID=target.topic(), backoff=2**64 - 1)]))


@attacks()
async def peers_by_prune(target: Target, who: Identity) -> None:
    """A PRUNE that names a hundred peers to connect to, and records that are garbage."""
    peers = [rpc_pb2.PeerInfo(peerID=bytes([at]) * 38, signedPeerRecord=b"\xff" * 100) for at in range(100)]
    await _sends(target, who, _control(prune=[rpc_pb2.ControlPrune(topicID=target.topic(), peers=peers)]))


@attacks(DROPPED, Reason.RATE_LIMITED)
async def control_of_unknown_topics(target: Target, who: Identity) -> None:
    """GRAFT, PRUNE and IHAVE for 10,000 topics that the node does not have."""
    topics = [f"crabnet/v2/default/t{at}" for at in range(10_000)]
    await _sends(
        target,
        who,
        _control(graft=[rpc_pb2.ControlGraft(topicID=each) for each in topics]),
        _control(prune=[rpc_pb2.ControlPrune(topicID=each, backoff=9) for each in topics]),
        _control(ihave=[rpc_pb2.ControlIHave(topicID=each, messageIDs=[b"x"]) for each in topics]),
    )


@attacks()
async def ids_that_are_odd(target: Target, who: Identity) -> None:
    """Ids that are empty, long, hexadecimal, and not quite."""
    ids = [b"", b"a", b"ab", b"abc", b"zz", b"\xff", b"x" * 100_000, b"ab" * 32]
    ihave = rpc_pb2.ControlIHave(topicID=target.topic(), messageIDs=ids)
    await _sends(target, who, _control(ihave=[ihave], iwant=[rpc_pb2.ControlIWant(messageIDs=ids)]))


@attacks()
async def a_record_of_somebody_else(target: Target, who: Identity) -> None:
    """RPCs with records of a peer that are garbage."""
    await _sends(target, who, rpc(senderRecord=b"\xff" * 200, control=rpc_pb2.ControlMessage()))


# --- messages ----------------------------------------------------------------------------------------------


@attacks(REJECTED, Reason.BAD_SIGNATURE, quick=True)
async def message_with_a_wrong_signature(target: Target, who: Identity) -> None:
    """A signature of zeros, and none at all."""
    topic, data = target.topic(), seed(who).raw
    await _sends(
        target,
        who,
        _publish(who.message(topic, data, signature=bytes(64)), who.message(topic, data, signature=b"")),
    )


@attacks(REJECTED, Reason.BAD_SIGNATURE)
async def message_with_a_bad_key(target: Target, who: Identity) -> None:
    """Keys that are garbage, unknown, of RSA and endless, and a sender that is none."""
    topic, data = target.topic(), seed(who).raw
    odd: list[dict[str, object]] = [
        {"from_id": b"\x12\x20" + bytes(32), "key": b"\xff" * 40},
        {"from_id": b"\x12\x20" + bytes(32), "key": b"\x08\x63\x12\x01\x00"},
        {"from_id": b"\x12\x20" + bytes(32), "key": b"\x08\x00\x12\x04\x30\x02\x02\x00"},
        {"from_id": b"\x12\x20" + bytes(32), "key": b"\xff" * 100_000},
        {"from_id": b"\x00\xff\x01" + b"\xff" * 1_000},
        {"from_id": b""},
    ]
    await _sends(target, who, *(_publish(who.message(topic, data, **each)) for each in odd))


@attacks(REJECTED, Reason.BAD_SIGNATURE)
async def message_from_somebody_else(target: Target, who: Identity) -> None:
    """Signed by the peer, in the name of another."""
    other = Identity("victim of a lie").id.to_bytes()
    await _sends(target, who, _publish(who.message(target.topic(), seed(who).raw, from_id=other)))


@attacks()
async def message_with_an_odd_number(target: Target, who: Identity) -> None:
    """Numbers that are none, and huge."""
    topic = target.topic()
    await _sends(target, who, _publish(*(who.message(topic, b"{}", seqno=each) for each in (b"", b"\xff" * 10_000))))


@attacks(BAD, Reason.MALFORMED)
async def message_of_many_topics(target: Target, who: Identity) -> None:
    """A message without data for no topic, and for three."""
    topic = target.topic()
    await _sends(
        target, who, _publish(who.message(topic, b"", topicIDs=[topic] * 3), who.message(topic, b"", topicIDs=[]))
    )


@attacks(IGNORED, Reason.UNSOLICITED)
async def message_of_an_unknown_topic(target: Target, who: Identity) -> None:
    """A sound envelope where nobody listens."""
    await _sends(target, who, _publish(who.message("crabnet/v2/default/nowhere", seed(who).raw)))


@attacks(BAD, Reason.EMPTY)
async def message_without_data(target: Target, who: Identity) -> None:
    """Nothing, soundly signed."""
    await _sends(target, who, _publish(who.message(target.topic(), b"")))


@attacks(REJECTED, Reason.MALFORMED, quick=True)
async def message_that_is_no_envelope(target: Target, who: Identity) -> None:
    """JSON of something else, brackets, and bytes."""
    topic = target.topic()
    odd = [b"{}", b"[]", b'{"meta":{},"payload":{}}', b"\x00", b'{"a":' + b"[" * 20_000, b"\xff\xfe" * 100]
    await _sends(target, who, _publish(*(who.message(topic, each) for each in odd)))


@attacks(REJECTED, Reason.TOO_LARGE)
async def message_that_is_too_large(target: Target, who: Identity) -> None:
    """An envelope of 900,000 bytes."""
    await _sends(target, who, _publish(who.message(target.topic(), b'{"a":"' + b"a" * 900_000 + b'"}')))


@attacks(REJECTED, Reason.BAD_SIGNATURE, quick=True)
async def envelope_with_a_wrong_signature(target: Target, who: Identity) -> None:
    """Gossip is signed as it should be, the envelope is not."""
    value = json.loads(seed(who).raw)
    signature = value["meta"]["signature"]
    value["meta"]["signature"] = ("B" if signature[0] == "A" else "A") + signature[1:]
    await _sends(target, who, _publish(who.message(target.topic(), json.dumps(value).encode())))


@attacks(IGNORED, Reason.WRONG_NAMESPACE)
async def envelope_of_another_namespace(target: Target, who: Identity) -> None:
    """Soundly signed, for others."""
    await _sends(target, who, _publish(who.message(target.topic(), seed(who, "elsewhere").raw)))


@attacks(IGNORED, Reason.EXPIRED)
async def envelope_of_long_ago(target: Target, who: Identity) -> None:
    """A month old."""
    await _sends(target, who, _publish(who.message(target.topic(), seed(who, age_s=30 * 86_400).raw)))


@attacks("", None)
async def envelope_of_the_future(target: Target, who: Identity) -> None:
    """A month ahead."""
    await _sends(target, who, _publish(who.message(target.topic(), seed(who, age_s=-30 * 86_400).raw)))


@attacks()
async def the_same_message_again(target: Target, who: Identity) -> None:
    """A sound message a thousand times, and a sound envelope in many messages."""
    topic, data = target.topic(), seed(who).raw
    message = who.message(topic, data)
    await _sends(target, who, _publish(*[message] * 1_000), _publish(*(who.message(topic, data) for _ in range(50))))


@attacks(DROPPED, Reason.MISUSE, blocks=True, quick=True)
async def a_flood_of_rejected_messages(target: Target, who: Identity) -> None:
    """Thousands of messages that are no envelope. After a few none is checked; then the peer is blocked."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.gossip(target.topic())
        forged = who.message(target.topic(), b'{"meta":{},"payload":{"n":0}}')
        with trio.move_on_after(10):
            for number in range(40):
                forged.data = b'{"meta":{},"payload":{"n":%d}}' % number
                if not await hostile.attempt(_framed(stream, _publish(*[forged] * 200))):
                    break
                await trio.sleep(0.05)
        await hostile.ended()


@attacks(BAD, Reason.MALFORMED, blocks=True)
async def a_hundred_thousand_empty_messages(target: Target, who: Identity) -> None:
    """In one RPC. Each is refused, so the peer is blocked."""
    async with peer(target.address, who) as hostile:
        stream = await hostile.gossip(target.topic())
        await hostile.attempt(_framed(stream, rpc(publish=[rpc_pb2.Message()] * 100_000)))
        await hostile.ended()


@attacks()
async def gossip_without_a_stream_back(target: Target, who: Identity) -> None:
    """A peer that speaks no gossipsub when it is asked, but sends it."""

    async def refuse(stream: Stream) -> None:
        await stream.frame(1, 8)

    async with peer(target.address, who, offered={MESHSUB: refuse}) as hostile:
        stream = await hostile.gossip(target.topic())
        await stream.write(_publish(who.message(target.topic(), seed(who).raw)))
        await _was_heard(hostile)


@attacks()
async def gossip_on_streams_that_are_never_read(target: Target, who: Identity) -> None:
    """A subscriber that reads nothing."""

    async def idle(_: Stream) -> None:
        await trio.sleep_forever()

    async with peer(target.address, who, offered={MESHSUB: idle}) as hostile:
        await hostile.gossip(target.topic())
        await hostile.send(header(1, SYN, 99, 0) + header(DATA, 0, 99, 20) + line(MULTISTREAM))
        await trio.sleep(0.2)


def _framed(stream: Stream, data: bytes) -> bytes:
    return b"".join(
        header(DATA, 0, stream.number, len(part)) + part
        for part in (data[at : at + 60_000] for at in range(0, len(data), 60_000))
    )
