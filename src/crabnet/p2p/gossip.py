"""Gossipsub 1.1 on py-libp2p 0.8.1, with the corrections that it needs (ADR 43 lists them, with what was measured)."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.pubsub.exceptions import NoPubsubAttached
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX, signature_validator
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Verdict

PROTOCOLS: Final = (TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0"))
"""Later versions of gossipsub are half as fast here, because they announce each message that they do not want."""

Check = Callable[[ID, str, bytes], Checked]
"""Judges a message by its forwarder, topic and bytes. It never raises."""


def message_id(message: rpc_pb2.Message) -> bytes:
    """SHA-256 of the data, so that one envelope is one message, whoever publishes it."""
    return hashlib.sha256(message.data).digest()


class Cache(MessageCache):
    """The recent messages, by ``message_id`` and bounded in bytes."""

    def __init__(self) -> None:
        super().__init__(window_size=3, history_size=5)
        self._bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keep a message for some heartbeats, if there is room."""
        mid = message_id(msg)
        size = len(msg.data)
        if mid in self.msgs or self._bytes + size > limits.GOSSIP_CACHE_BYTES_MAX:
            return
        self._bytes += size
        self.msgs[mid] = msg
        self.history[0].append(CacheEntry(mid, msg.topicIDs))

    def shift(self) -> None:
        """Forget the oldest messages."""
        for entry in self.history[-1]:
            message = self.msgs.get(entry.mid)
            if message is not None:
                self._bytes -= len(message.data)
        super().shift()


class Outgoing(RpcQueue):
    """What waits for one peer, bounded in messages and bytes."""

    def __init__(self) -> None:
        super().__init__(max_size=limits.GOSSIP_QUEUE_MESSAGES_MAX)
        self._waiting_bytes = 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """Queue one RPC. False if there is no room."""
        size = rpc.ByteSize()
        if self._waiting_bytes + size > limits.GOSSIP_QUEUE_BYTES_MAX or not super().push(rpc, priority):
            return False
        self._waiting_bytes += size
        return True

    async def pop(self) -> rpc_pb2.RPC | None:
        """The next RPC. None once the queue is closed."""
        rpc = await super().pop()
        if rpc is not None:
            self._waiting_bytes -= rpc.ByteSize()
        return rpc


def scoring() -> ScoreParams:
    """Scores that make a peer lose its place by messages that are rejected, and get it back by time."""
    return ScoreParams(
        p2_first_message_deliveries=TopicScoreParams(weight=0.1, cap=100.0, decay=0.97),
        p4_invalid_messages=TopicScoreParams(weight=10.0, cap=100.0, decay=limits.GOSSIP_INVALID_DECAY),
        p5_behavior_penalty_weight=1.0,
        p5_behavior_penalty_decay=0.9,
        p5_behavior_penalty_threshold=20.0,
        publish_threshold=-50.0,
        gossip_threshold=-30.0,
        graylist_threshold=-80.0,
        accept_px_threshold=1e9,
    )


class Router(GossipSub):
    """The mesh of each topic."""

    def __init__(self) -> None:
        super().__init__(
            protocols=list(PROTOCOLS),
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_initial_delay=0.1,
            heartbeat_interval=1,
            prune_back_off=5,
            unsubscribe_back_off=1,
            do_px=False,
            score_params=scoring(),
            adaptive_gossip_enabled=False,  # in a small mesh it slows the heartbeat down to a minute
            spam_protection_enabled=False,  # it drops silently; `Check` has budgets of its own
            eclipse_protection_enabled=False,
        )
        self.mcache = Cache()
        self._gossiping = False

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Pass a message on that was checked."""
        self.forward(msg_forwarder, pubsub_msg)

    def forward(self, forwarder: ID, message: rpc_pb2.Message) -> int:
        """Queue a message for the peers that are to get it. Returns how many had room.

        The library also keeps messages for peers that did not subscribe to the topic, a hundred for each.
        """
        pubsub = _attached(self.pubsub)
        self.mcache.put(message)
        rpc = rpc_pb2.RPC(publish=[message])
        topics = list(message.topicIDs)
        origin = ID(message.from_id)
        taken = 0
        for peer in self._get_peers_to_send(topics, forwarder, origin, message_id(message)):
            queue = pubsub.peer_queues.get(peer)
            if queue is not None and self.scorer is not None and self.scorer.allow_publish(peer, topics):
                taken += queue.push(rpc)
        for topic in topics:
            self.time_since_last_publish[topic] = int(time.time())
        return taken

    def _get_peers_to_send(
        self, topic_ids: Iterable[str], msg_forwarder: ID, origin: ID, msg_id: bytes | None = None
    ) -> Iterable[ID]:
        """The mesh; and for this node's own messages all peers of the topic ("flood publish" of gossipsub 1.1)."""
        topics = list(topic_ids)
        peers = set(super()._get_peers_to_send(topics, msg_forwarder, origin, msg_id))
        pubsub = _attached(self.pubsub)
        if msg_forwarder == pubsub.my_id:
            for topic in topics:
                peers |= pubsub.peer_topics.get(topic, set())
            peers.discard(pubsub.my_id)
        return peers

    def _handle_topic_heartbeat(
        self,
        topic: str,
        current_peers: set[ID],
        is_fanout: bool = False,
        peers_to_gossip: defaultdict[ID, dict[str, list[bytes]]] | None = None,
    ) -> tuple[set[ID], bool]:
        """A peer in back-off gets no GRAFT, but gossip: it may have no other neighbour."""
        self._gossiping = True
        try:
            return super()._handle_topic_heartbeat(topic, current_peers, is_fanout, peers_to_gossip)
        finally:
            self._gossiping = False

    def _get_in_topic_gossipsub_peers_from_minus(
        self, topic: str, num_to_select: int, minus: Iterable[ID], backoff_check: bool = False
    ) -> list[ID]:
        return super()._get_in_topic_gossipsub_peers_from_minus(
            topic, num_to_select, minus, backoff_check and not self._gossiping
        )

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        """One control message for each peer. The library also sends a peer what is meant for the peers before it."""
        for peer in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            control = self.pack_control_msgs(
                [
                    rpc_pb2.ControlIHave(messageIDs=ids[-limits.GOSSIP_IHAVE_IDS_MAX :], topicID=topic)
                    for topic, ids in peers_to_gossip.get(peer, {}).items()
                ],
                [rpc_pb2.ControlGraft(topicID=topic) for topic in peers_to_graft.get(peer, ())],
                [
                    rpc_pb2.ControlPrune(topicID=topic, backoff=self.prune_back_off)
                    for topic in peers_to_prune.get(peer, ())
                ],
            )
            await self.emit_control_message(control, peer)

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:  # noqa: ARG002 - the name is that of the library
        """The ledger finds equivocation. The library would keep a thousand whole messages for this."""
        return True

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        """Peers that a stranger names are not dialled here: ``discovery`` asks for addresses, and judges them."""


class Gossip(Pubsub):
    """Topics: subscriptions, messages in and out."""

    def __init__(
        self,
        host: IHost,
        router: Router,
        topics: Iterable[str],
        check: Check,
        deliver: Callable[[ID, str, bytes], None],
        refused: Callable[[ID, Checked, int], None],
        foreign: Callable[[ID, str], None],
    ) -> None:
        """``deliver`` gets accepted messages, ``refused`` the others; ``foreign`` subscriptions to unknown topics."""
        super().__init__(
            host,
            router,
            seen_ttl=limits.GOSSIP_SEEN_S,
            strict_signing=True,
            msg_id_constructor=message_id,
            max_inbound_rpc_size=limits.GOSSIP_RPC_BYTES_MAX,
            max_subscriptions_per_rpc=limits.GOSSIP_SUBSCRIPTIONS_MAX,
            max_subscriptions_per_peer=limits.GOSSIP_SUBSCRIPTIONS_MAX,
            allowed_topics=set(topics),
        )
        self._router = router
        self._check = check
        self._deliver = deliver
        self._refused = refused
        self._foreign = foreign
        self.counter = time.time_ns()  # the library begins with whole seconds, and repeats numbers after a restart

    def publish_to(self, topics: list[str], data: bytes) -> int:
        """Publish a message of this node. Returns the number of peers for which it is queued."""
        message = rpc_pb2.Message(data=data, topicIDs=topics, from_id=self.my_id.to_bytes(), seqno=self._next_seqno())
        key = self.host.get_private_key()
        message.signature = key.sign(PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString())
        message.key = self.host.get_public_key().serialize()
        self._mark_msg_seen(message)
        return self._router.forward(self.my_id, message)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Open a stream to a peer, and tell it the subscriptions.

        Raises SwarmException, StreamFailure and StreamClosed, which the library expects.
        """
        if peer_id in self.peers:
            return
        stream = await self.host.new_stream(peer_id, list(PROTOCOLS))
        await stream.write(encode_varint_prefixed(self.get_hello_packet().SerializeToString()))
        self._router.add_peer(peer_id, stream.get_protocol())
        self.peers[peer_id] = stream
        self.peer_queues[peer_id] = queue = Outgoing()
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, queue)

    async def _replay_recent_messages(self, peer_id: ID, topic: str) -> None:
        """Sync brings what a peer has missed. The library would write here beside the task that writes this stream."""

    async def stream_handler(self, stream: INetStream) -> None:
        """Read the RPCs of a peer until its stream ends. Whatever it sends ends nothing but this stream."""
        peer = stream.muxed_conn.peer_id
        try:
            while self.manager.is_running:
                content = await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
                await self._take(peer, rpc_pb2.RPC.FromString(content))
        except (StreamEOF, StreamReset, StreamClosed, IncompleteReadError):
            self._handle_dead_peer(peer)
        except Exception as error:  # noqa: BLE001 - bytes of a stranger must not end the process
            self._refused(peer, Checked(Verdict.REJECT, Reason.MALFORMED, f"no RPC: {type(error).__name__}"), 0)
            await _reset(stream)
            self._handle_dead_peer(peer)

    async def _take(self, peer: ID, rpc: rpc_pb2.RPC) -> None:
        for message in rpc.publish:
            self._receive(peer, message)
        if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
            for subscription in rpc.subscriptions:
                if subscription.subscribe and subscription.topicid not in (self.allowed_topics or ()):
                    self._foreign(peer, subscription.topicid)
                else:
                    self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            rpc.ClearField("senderRecord")
            await self._router.handle_rpc(rpc, peer)

    def _receive(self, peer: ID, message: rpc_pb2.Message) -> None:
        """Check one message, deliver it, and pass it on."""
        if len(message.topicIDs) != 1 or message.topicIDs[0] not in self.topic_ids or self._is_msg_seen(message):
            return
        topic = message.topicIDs[0]
        scorer = self._router.scorer
        if scorer is not None and not scorer.allow_publish(peer, [topic]):
            return
        checked = Checked(Verdict.REJECT, None, "its pubsub signature is wrong")
        if _signed(message):
            checked = self._check(peer, topic, message.data)
            if checked.verdict is not Verdict.REJECT:
                self._mark_msg_seen(message)
        if checked.verdict is Verdict.ACCEPT:
            if scorer is not None:
                scorer.on_first_delivery(peer, topic)
            self._deliver(peer, topic, message.data)
            self._router.forward(peer, message)
            return
        if checked.verdict is Verdict.REJECT and scorer is not None:
            scorer.on_invalid_message(peer, topic)
        self._refused(peer, checked, len(message.data))


def _signed(message: rpc_pb2.Message) -> bool:
    try:
        return bool(signature_validator(message))
    except Exception:  # noqa: BLE001 - the library raises what it likes for a key that it cannot read
        return False


def _attached(pubsub: Pubsub | None) -> Pubsub:
    if pubsub is None:
        raise NoPubsubAttached
    return pubsub


async def _reset(stream: INetStream) -> None:
    try:
        await stream.reset()
    except Exception:  # noqa: BLE001 - it is gone already, whatever the library says
        return
