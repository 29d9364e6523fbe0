"""Corrections of gossipsub: what is kept and queued, the scores of peers, the mesh, and answers to control messages."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from crabnet import limits
from crabnet.child import Lifeline
from crabnet.errors import Reason
from crabnet.p2p.queues import Cache, Outgoing, message_id
from crabnet.p2p.refusals import Refusals
from crabnet.p2p.router import PROTOCOLS
from crabnet.p2p.scoring import Scores, scoring
from crabnet.p2p.service import Service
from crabnet.transport.p2p_wire import Given, Misused, Noted, Path, Report
from tests.support.envelopes import Author
from tests.support.hostile_p2p import Identity

TOPIC = "crabnet/v2/default/tasks"


def message(data: bytes, topic: str = TOPIC) -> rpc_pb2.Message:
    """A message without a signature."""
    return rpc_pb2.Message(data=data, topicIDs=[topic])


def peers(count: int) -> list[ID]:
    """The ids of some peers."""
    return [ID.from_pubkey(create_new_key_pair(bytes([number]) * 32).public_key) for number in range(1, count + 1)]


# --- what is kept ------------------------------------------------------------------------------------------


def test_an_envelope_is_one_message_whoever_publishes_it() -> None:
    one, two = message(b"x"), rpc_pb2.Message(data=b"x", topicIDs=["other"], from_id=b"y", seqno=b"z")
    assert message_id(one) == message_id(two) == hashlib.sha256(b"x").digest()


def test_messages_are_kept_for_some_heartbeats() -> None:
    cache = Cache()
    cache.put(message(b"x"))
    name = message_id(message(b"x"))
    for heartbeat in range(5):
        assert cache.get(name) is not None
        assert (name in cache.window(TOPIC)) is (heartbeat < 3)
        cache.shift()
    assert cache.get(name) is None


def test_only_so_many_bytes_are_kept_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_CACHE_BYTES_MAX", 100)
    cache = Cache()
    for _ in range(3):
        cache.put(message(b"a" * 60))
    cache.put(message(b"b" * 60))
    assert cache.get(message_id(message(b"b" * 60))) is None
    for _ in range(5):
        cache.shift()
    cache.put(message(b"b" * 60))
    assert cache.get(message_id(message(b"b" * 60))) is not None


async def test_what_waits_for_a_peer_is_bounded_in_bytes_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GOSSIP_QUEUE_BYTES_MAX", 1_000)
    queue, rpc = Outgoing(), rpc_pb2.RPC(publish=[message(b"x" * 400)])
    assert [queue.push(rpc) for _ in range(3)] == [True, True, False]
    assert await queue.pop() == rpc
    assert queue.push(rpc)


async def test_what_waits_for_a_peer_is_bounded_in_number() -> None:
    queue, rpc = Outgoing(), rpc_pb2.RPC()
    taken = sum(queue.push(rpc) for _ in range(2 * limits.GOSSIP_QUEUE_MESSAGES_MAX))
    assert taken == limits.GOSSIP_QUEUE_MESSAGES_MAX
    queue.close()
    assert not queue.push(rpc)


# --- scores and the mesh -----------------------------------------------------------------------------------


def test_rejected_messages_cost_a_peer_its_place_and_time_gives_it_back() -> None:
    scores, (peer, honest) = Scores(scoring()), peers(2)
    for _ in range(6):
        scores.on_invalid_message(peer, TOPIC)
    assert not scores.allow_publish(peer, [TOPIC])
    assert not scores.allow_gossip(peer, [TOPIC])
    assert scores.allow_publish(honest, [TOPIC])
    heartbeats = 0
    while not scores.allow_publish(peer, [TOPIC]):
        scores.on_heartbeat()
        heartbeats += 1
    assert 1 <= heartbeats <= 10
    while scores.score(peer, [TOPIC]) < 0:
        scores.on_heartbeat()
        heartbeats += 1
    assert heartbeats <= 60


def test_what_speaks_against_a_peer_stays_when_it_leaves_and_what_speaks_for_it_does_not() -> None:
    scores, (peer, honest) = Scores(scoring()), peers(2)
    for _ in range(6):
        scores.on_invalid_message(peer, TOPIC)
        scores.on_first_delivery(honest, TOPIC)
    scores.penalize_behavior(peer, 30)
    bad, good = scores.score(peer, [TOPIC]), scores.score(honest, [TOPIC])
    scores.remove_peer(peer)
    scores.remove_peer(honest)
    assert scores.score(peer, [TOPIC]) == bad < 0
    assert scores.score(honest, [TOPIC]) == 0 < good


def test_counts_of_peers_that_are_gone_are_forgotten() -> None:
    scores = Scores(scoring())
    for peer in peers(200):
        scores.on_invalid_message(peer, TOPIC)
        scores.penalize_behavior(peer)
    for _ in range(60):
        scores.on_heartbeat()
    assert not scores.invalid_messages
    assert not scores.behavior_penalty


@pytest.fixture
def service() -> Iterator[Service]:
    """What runs in the process, without a network. Its heartbeats are those of the test."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = Given(seed=b"\1" * 32, namespace="default", listen=[], publish=[TOPIC], subscribe=[TOPIC])
        yield Service(given, Lifeline(ours, b""))


def joined(service: Service, peer: ID) -> Outgoing:
    """A peer that has subscribed; what is queued for it."""
    service.router.add_peer(peer, PROTOCOLS[0])
    service.router.mesh.setdefault(TOPIC, set())
    service.gossip.peer_topics.setdefault(TOPIC, set()).add(peer)
    service.gossip.peer_queues[peer] = queue = Outgoing()
    return queue


async def drain(queue: Outgoing) -> list[rpc_pb2.RPC]:
    """All that is queued."""
    found = []
    while len(queue):
        rpc = await queue.pop()
        assert rpc is not None
        found.append(rpc)
    return found


async def test_a_peer_that_is_rejected_leaves_the_mesh_and_comes_back_when_time_has_passed(service: Service) -> None:
    (peer,) = peers(1)
    router = service.router
    router.prune_back_off = 0
    joined(service, peer)
    assert router.mesh_heartbeat()[0] == {peer: [TOPIC]}
    assert router.mesh[TOPIC] == {peer}
    router.scorer.on_invalid_message(peer, TOPIC)
    assert router.mesh_heartbeat() == ({}, {peer: [TOPIC]})
    assert router.mesh[TOPIC] == set()
    heartbeats = 0
    while not router.mesh[TOPIC]:
        router.scorer.on_heartbeat()
        grafts, prunes = router.mesh_heartbeat()
        assert not prunes
        heartbeats += 1
    assert grafts == {peer: [TOPIC]}
    assert 5 <= heartbeats <= 40


async def test_a_graft_of_a_peer_with_a_bad_score_is_answered_by_a_prune(service: Service) -> None:
    (peer,) = peers(1)
    queue = joined(service, peer)
    service.router.scorer.on_invalid_message(peer, TOPIC)
    graft = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)]))
    await service.router.handle_rpc(graft, peer)
    assert service.router.mesh[TOPIC] == set()
    (answer,) = await drain(queue)
    assert [each.topicID for each in answer.control.prune] == [TOPIC]


async def test_a_message_is_sent_for_iwant_a_few_times_only(service: Service) -> None:
    (peer,) = peers(1)
    queue = joined(service, peer)
    service.router.mcache.put(message(b"x" * 1_000))
    name = message_id(message(b"x" * 1_000))
    iwant = rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[name] * 100)])
    for _ in range(20):
        await service.router.handle_rpc(rpc_pb2.RPC(control=iwant), peer)
    sent = [each for rpc in await drain(queue) for each in rpc.publish]
    assert [each.data for each in sent] == [b"x" * 1_000] * limits.GOSSIP_SERVED_MAX


async def test_messages_on_offer_are_asked_for_once_and_broken_promises_count(service: Service) -> None:
    (peer,) = peers(1)
    queue = joined(service, peer)
    names = [at.to_bytes(32, "big") for at in range(1, 11)]
    ihave = rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=names * 2)])
    await service.router.handle_rpc(rpc_pb2.RPC(control=ihave), peer)
    (asked,) = await drain(queue)
    assert list(asked.control.iwant[0].messageIDs) == names
    assert service.router.budgets.broken(int(trio.current_time() * 1000) + limits.GOSSIP_PROMISE_S * 1000) == {peer: 1}


async def test_control_messages_name_no_record_of_the_node(service: Service) -> None:
    (peer,) = peers(1)
    queue = joined(service, peer)
    await service.router.emit_graft(TOPIC, peer)
    (sent,) = await drain(queue)
    assert not sent.HasField("senderRecord")


async def test_each_peer_gets_its_own_control_messages(service: Service) -> None:
    one, two = peers(2)
    queues = [joined(service, one), joined(service, two)]
    await service.router._emit_control_msgs({one: [TOPIC]}, {two: [TOPIC]}, {})
    first, second = [await drain(queue) for queue in queues]
    assert [len(each.control.graft) for each in first] == [1]
    assert [len(each.control.prune) for each in first] == [0]
    assert [len(each.control.prune) for each in second] == [1]


# --- messages ----------------------------------------------------------------------------------------------


async def test_a_message_is_delivered_and_passed_on_and_a_repetition_is_not(service: Service) -> None:
    who = Identity("author")
    forwarder, other = peers(2)
    queues = [joined(service, forwarder), joined(service, other)]
    service.gossip.subscribed_topics_receive[TOPIC] = None  # type: ignore[assignment]
    service.router.mesh[TOPIC] = {forwarder, other}
    author = Author("author")
    author.signer = who.signer
    sound = who.message(TOPIC, author.publish(int(time.time())).raw)
    for _ in range(3):
        await service.gossip._take(forwarder, rpc_pb2.RPC(publish=[sound]))
    assert await drain(queues[0]) == []
    assert [list(each.publish) for each in await drain(queues[1])] == [[sound]]


def test_what_is_refused_is_told_together() -> None:
    told: list[Report] = []
    refusals = Refusals(told.append)
    (peer,) = peers(1)
    for _ in range(1_000):
        refusals.connection(peer, Reason.MALFORMED, "x\x1b[2J" * 1_000, hostile=True)
    assert not told
    refusals.tell()
    refusals.tell()
    (report,) = told
    assert isinstance(report, Misused)
    assert (report.peer, report.path, report.count, report.hostile) == (str(peer), Path.CONNECTION, 1_000, True)
    assert "\x1b" not in report.detail


def test_unknown_topics_are_told_once_each_and_not_in_a_flood() -> None:
    told: list[Report] = []
    refusals = Refusals(told.append)
    (peer,) = peers(1)
    for _ in range(2):
        refusals.foreign_topic(peer, "crabnet/v9/default/tasks")
    refusals.foreign_topic(peer, "somebody/else")
    assert len(told) == 1
    for number in range(10_000):
        refusals.foreign_topic(peer, f"crabnet/v9/default/t{number}")
    assert len(told) <= limits.P2P_TOPICS_REPORTED_BURST + 10 * limits.P2P_TOPICS_REPORTED_PER_S
    assert all(isinstance(each, Noted) for each in told)
