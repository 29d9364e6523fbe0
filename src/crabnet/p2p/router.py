"""The meshes of gossipsub 1.1 on py-libp2p 0.8.1, with the corrections that it needs (ADR 43 lists them)."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.exceptions import NoPubsubAttached
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.utils import safe_bytes_from_hex

from crabnet import limits
from crabnet.errors import Reason
from crabnet.p2p.checking import Checked, Verdict
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.control import ControlBudgets, Seen
from crabnet.p2p.queues import Cache, message_id
from crabnet.p2p.scoring import Scores, scoring

PROTOCOLS: Final = (TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0"))
"""Later versions of gossipsub are half as fast here, because they announce each message that they do not want."""

Refused = Callable[[ID, Checked, int], None]
"""Gets a peer, what was wrong with what it sent, and its size in bytes."""


class Router(GossipSub):
    """The mesh of each topic."""

    scorer: Scores

    def __init__(self, topics: Iterable[str], refused: Refused) -> None:
        """``topics`` are those that this node knows. ``refused`` gets what a peer does beyond its budget."""
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
        self.scorer = Scores(scoring())
        self.budgets: ControlBudgets[ID] = ControlBudgets()
        self.rejected = Seen(limits.GOSSIP_SEEN_S, limits.P2P_REFUSALS_MAX, steady_ms)
        """Messages whose bytes are not valid, and never will be. They are not asked for again."""
        self._topics = frozenset(topics)
        self._refused = refused
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
            if queue is not None and self.scorer.allow_publish(peer, topics):
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
        self._gossiping = peers_to_gossip is not None
        try:
            return super()._handle_topic_heartbeat(topic, current_peers, is_fanout, peers_to_gossip)
        finally:
            self._gossiping = False

    def _get_in_topic_gossipsub_peers_from_minus(
        self, topic: str, num_to_select: int, minus: Iterable[ID], backoff_check: bool = False
    ) -> list[ID]:
        """Peers for the mesh, or for gossip. The library does not look at their scores."""
        pubsub = _attached(self.pubsub)
        least = self.scorer.params.gossip_threshold if self._gossiping else 0.0
        peers = pubsub.peer_topics.get(topic, set())
        bad = {peer for peer in peers if self.scorer.score(peer, [topic]) < least}
        return super()._get_in_topic_gossipsub_peers_from_minus(
            topic, num_to_select, bad.union(minus), backoff_check and not self._gossiping
        )

    def mesh_heartbeat(self) -> tuple[defaultdict[ID, list[str]], defaultdict[ID, list[str]]]:
        """Take peers with a negative score out of the meshes, as gossipsub 1.1 demands; the library keeps them."""
        self._judge_promises()
        out = [(topic, peer) for topic, peers in self.mesh.items() for peer in peers if self._is_bad(peer, topic)]
        for topic, peer in out:
            self.mesh[topic].discard(peer)
            self._add_back_off(peer, topic, is_unsubscribe=False)
        self._forget_back_offs()
        grafts, prunes = super().mesh_heartbeat()
        for topic, peer in out:
            prunes[peer].append(topic)
        return grafts, prunes

    def _is_bad(self, peer: ID, topic: str) -> bool:
        return self.scorer.score(peer, [topic]) < 0

    def _forget_back_offs(self) -> None:
        now_s = int(time.time())
        for topic, until_s in self.back_off.items():
            self.back_off[topic] = {peer: each for peer, each in until_s.items() if each > now_s}

    def _judge_promises(self) -> None:
        for peer, count in self.budgets.broken(steady_ms()).items():
            self.scorer.penalize_behavior(peer, count)

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        """Take a new subscriber into the mesh, unless its score is negative."""
        if not self._is_bad(peer_id, topic):
            await super().on_peer_subscribed(peer_id, topic)

    # --- control messages ------------------------------------------------------------------------------

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Heed the control messages of one RPC, as many as the peer may send."""
        control, peer = rpc.control, sender_peer_id
        budget = self.budgets.of(peer)
        ignored = 0
        if self._is_graylisted(peer):
            return
        for graft in control.graft:
            if self._may(peer, graft.topicID):
                await self._grafted(graft, peer)
            else:
                ignored += 1
        for prune in control.prune:
            if self._may(peer, prune.topicID):
                prune.backoff = min(prune.backoff, limits.GOSSIP_BACK_OFF_S_MAX)
                del prune.peers[:]
                await self.handle_prune(prune, peer)
            else:
                ignored += 1
        for ihave in control.ihave:
            if self._may(peer, ihave.topicID):
                await self.handle_ihave(ihave, peer)
            else:
                ignored += 1
        for iwant in control.iwant:
            if budget.controls.take(steady_ms()):
                await self.handle_iwant(iwant, peer)
            else:
                ignored += 1
        if ignored:
            self.scorer.penalize_behavior(peer, ignored)
            checked = Checked(Verdict.REJECT, Reason.RATE_LIMITED, f"{ignored} control messages too many")
            self._refused(peer, checked, 0)

    def _may(self, peer: ID, topic: str) -> bool:
        """True for a control message about a topic of this node that is within the budget of the peer."""
        return topic in self._topics and self.budgets.of(peer).controls.take(steady_ms())

    def _is_graylisted(self, peer: ID) -> bool:
        return self.scorer.is_graylisted(peer, list(self._topics))

    async def _grafted(self, graft: rpc_pb2.ControlGraft, peer: ID) -> None:
        topic = graft.topicID
        if topic in self.mesh and self._is_bad(peer, topic):
            await self.emit_prune(topic, peer, do_px=False, is_unsubscribe=False)
            return
        if topic in self.mesh and self._check_back_off(peer, topic):
            self.scorer.penalize_behavior(peer)  # gossipsub 1.1 counts a GRAFT during a back-off as misbehaviour
        await self.handle_graft(graft, peer)

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for the messages on offer that are new. They are to come soon."""
        pubsub, peer = _attached(self.pubsub), sender_peer_id
        if not self.scorer.allow_gossip(peer, [ihave_msg.topicID]):
            return
        now_ms = steady_ms()
        budget = self.budgets.of(peer)
        wanted = [
            found
            for each in budget.looked_at(ihave_msg.messageIDs, now_ms)
            if (found := safe_bytes_from_hex(each)) is not None
            and not pubsub.seen_messages.has(found)
            and not self.rejected.has(found)
        ]
        if wanted:
            self.budgets.promise(peer, random.choice(wanted), now_ms)  # noqa: S311 - one of them stands for all, as in go-libp2p
            await self.emit_iwant(wanted, peer)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send messages that are asked for, each only a few times, and as many as the queue to the peer has room for.

        The library copies all of them into one RPC, each as often as it is named.
        """
        pubsub, peer = _attached(self.pubsub), sender_peer_id
        queue = pubsub.peer_queues.get(peer)
        if queue is None or self.scorer.score(peer, list(self._topics)) < self.scorer.params.gossip_threshold:
            return
        budget = self.budgets.of(peer)
        for each in budget.looked_at(iwant_msg.messageIDs, steady_ms()):
            found = safe_bytes_from_hex(each)
            message = None if found is None else self.mcache.get(found)
            if found is None or message is None:
                continue
            if not budget.serve(found) or not queue.push(rpc_pb2.RPC(publish=[message])):
                self.scorer.penalize_behavior(peer, 0.1)

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """Queue a control message. The library signs a record of this node for each."""
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

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


def _attached(pubsub: Pubsub | None) -> Pubsub:
    if pubsub is None:
        raise NoPubsubAttached
    return pubsub
