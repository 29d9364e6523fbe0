"""The topics of gossipsub on py-libp2p 0.8.1, with the corrections that it needs (ADR 43 lists them)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

import trio
from libp2p.abc import IHost, INetStream
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX, signature_validator
from libp2p.utils.varint import encode_varint_prefixed

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Verdict
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.control import Seen
from crabnet.p2p.prefixed import MalformedStreamError, Prefixed, prefixed
from crabnet.p2p.queues import Outgoing, message_id
from crabnet.p2p.router import PROTOCOLS, Refused, Router
from crabnet.p2p.streams import some_bytes

Check = Callable[[ID, str, bytes], Checked]
"""Judges a message by its forwarder, topic and bytes. It never raises."""
Admit = Callable[[ID], Checked | None]
"""Says why a peer may send nothing more at the moment; None if it may. It never raises."""


class Gossip(Pubsub):
    """Topics: subscriptions, messages in and out."""

    def __init__(
        self,
        host: IHost,
        router: Router,
        topics: Iterable[str],
        admit: Admit,
        check: Check,
        deliver: Callable[[ID, str, bytes], None],
        refused: Refused,
        foreign: Callable[[ID, str], None],
    ) -> None:
        """``deliver`` gets accepted messages, ``refused`` the others; ``foreign`` subscriptions to unknown topics.

        ``admit`` is asked before anything is checked, ``check`` before a message is delivered.
        """
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
        self._admit = admit
        self._check = check
        self._deliver = deliver
        self._refused = refused
        self._foreign = foreign
        self.seen_messages.stop()
        self.seen_messages = Seen(limits.GOSSIP_SEEN_S, limits.P2P_SEEN_MESSAGES_MAX, steady_ms)  # type: ignore[assignment]
        self._reading: Counter[ID] = Counter()
        """Inbound streams that are read."""
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

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        """Send what is queued for a peer, in few writes. The library writes each RPC by itself, and leaves the stream
        open when a peer is given up.
        """
        try:
            while isinstance(queue, Outgoing) and (rpcs := await queue.pop_some()):
                await stream.write(b"".join(prefixed(rpc.SerializeToString()) for rpc in rpcs))
        except Exception:  # noqa: BLE001 - the library raises what it likes for a connection that has ended
            self._handle_dead_peer(peer_id)
        finally:
            with trio.move_on_after(limits.P2P_CLOSE_MS / 1000, shield=True):
                await _reset(stream)

    async def stream_handler(self, stream: INetStream) -> None:
        """Read the RPCs of a peer until its stream ends. Whatever it sends ends nothing but this stream."""
        peer = stream.muxed_conn.peer_id
        if self._reading[peer] >= limits.GOSSIP_STREAMS_PER_PEER_MAX:
            self._refused(peer, Checked(Verdict.IGNORE, Reason.LIMIT_EXCEEDED, "too many gossip streams"), 0)
            await _reset(stream)
            return
        self._reading[peer] += 1
        try:
            cut = Prefixed(self.max_inbound_rpc_size)
            while self.manager.is_running:
                for content in cut.add(await some_bytes(stream, cut)):
                    await self._take(peer, rpc_pb2.RPC.FromString(content))
        except (StreamEOF, StreamReset, StreamClosed, StreamError):
            pass
        except MalformedStreamError as error:
            self._refused(peer, Checked(Verdict.REJECT, Reason.MALFORMED, str(error)), 0)
        except Exception as error:  # noqa: BLE001 - bytes of a stranger must not end the process
            self._refused(peer, Checked(Verdict.REJECT, Reason.MALFORMED, f"no RPC: {type(error).__name__}"), 0)
        finally:
            self._reading[peer] -= 1
            if not self._reading[peer]:
                del self._reading[peer]
        if peer not in self._reading:
            self._handle_dead_peer(peer)
        await _reset(stream)

    async def _take(self, peer: ID, rpc: rpc_pb2.RPC) -> None:
        for number, message in enumerate(rpc.publish, 1):
            self._receive(peer, message)
            if number % limits.GOSSIP_SLICE == 0:
                await trio.lowlevel.checkpoint()
        self._subscribed(peer, rpc)
        if rpc.HasField("control"):
            await self._router.handle_rpc(rpc, peer)
        await trio.lowlevel.checkpoint()

    def _subscribed(self, peer: ID, rpc: rpc_pb2.RPC) -> None:
        """Heed subscriptions, as many as the peer may change. Those beyond that are not even looked at."""
        count = len(rpc.subscriptions)
        budget = self._router.budgets.of(peer).subscriptions
        if count and (count > self.max_subscriptions_per_rpc or not budget.take(steady_ms(), count)):
            self._refused(peer, Checked(Verdict.REJECT, Reason.RATE_LIMITED, f"{count} subscriptions"), 0)
            return
        for subscription in rpc.subscriptions:
            if subscription.subscribe and subscription.topicid not in (self.allowed_topics or ()):
                self._foreign(peer, subscription.topicid)
            else:
                self.handle_subscription(peer, subscription)

    def _receive(self, peer: ID, message: rpc_pb2.Message) -> None:
        """Check one message, deliver it, and pass it on."""
        size = len(message.data)
        checked = self._admit(peer)
        if checked is None and len(message.topicIDs) != 1:
            checked = Checked(Verdict.REJECT, Reason.MALFORMED, f"a message of {len(message.topicIDs)} topics")
        elif checked is None and message.topicIDs[0] not in self.topic_ids:
            checked = Checked(Verdict.IGNORE, Reason.UNSOLICITED, "a message of a topic without a subscription")
        if checked is not None:
            self._refused(peer, checked, size)
            return
        if self._is_msg_seen(message):
            return
        topic = message.topicIDs[0]
        checked = self._judged(peer, topic, message)
        if checked.verdict is not Verdict.REJECT:
            self._mark_msg_seen(message)
            self._router.budgets.arrived(message_id(message))
        if checked.verdict is Verdict.ACCEPT:
            self._router.scorer.on_first_delivery(peer, topic)
            self._deliver(peer, topic, message.data)
            self._router.forward(peer, message)
        else:
            self._refused(peer, checked, size)

    def _judged(self, peer: ID, topic: str, message: rpc_pb2.Message) -> Checked:
        """The verdict on a message that is new. A peer whose score is too low is not listened to."""
        scorer = self._router.scorer
        if not scorer.allow_publish(peer, [topic]):
            return Checked(Verdict.REJECT, Reason.MISUSE, "it has sent too much that was refused")
        if _signed(message):
            checked = self._check(peer, topic, message.data)
            if checked.verdict is Verdict.REJECT:
                self._router.rejected.add(message_id(message))
                self._router.budgets.arrived(message_id(message))
        else:
            checked = Checked(Verdict.REJECT, Reason.BAD_SIGNATURE, "the signature of gossipsub is wrong")
        if checked.verdict is Verdict.REJECT:
            scorer.on_invalid_message(peer, topic)
        return checked


def _signed(message: rpc_pb2.Message) -> bool:
    """True if its author has signed it. Keys and names longer than any that are in use are not even read."""
    if len(message.key) > limits.P2P_KEY_BYTES_MAX or len(message.from_id) > limits.P2P_ID_BYTES_MAX:
        return False
    try:
        return bool(signature_validator(message))
    except Exception:  # noqa: BLE001 - the library raises what it likes for a key that it cannot read
        return False


async def _reset(stream: INetStream) -> None:
    try:
        await stream.reset()
    except Exception:  # noqa: BLE001 - it is gone already, whatever the library says
        return
