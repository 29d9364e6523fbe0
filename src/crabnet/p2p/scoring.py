"""The scores of peers in gossipsub 1.1 (its specification, "Peer Scoring"), as far as Crabnet uses them.

A peer loses points for messages that are rejected, for control messages beyond its budget, and for messages that it
offers and does not send. Time gives them back. It loses its place in the mesh with fewer than 0 points.
"""

from __future__ import annotations

from libp2p.peer.id import ID
from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams

from crabnet import limits

_FORGOTTEN = 0.1
"""Counts below this are as good as none."""


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


class Scores(PeerScorer):
    """The counts of all peers. What speaks against a peer stays when it leaves, or it would only have to come again."""

    def remove_peer(self, peer: ID) -> None:
        """Forget what speaks for a peer that is gone, and what is as good as forgotten."""
        invalid = dict(self.invalid_messages.get(peer, {}))
        behaviour = self.behavior_penalty.get(peer, 0.0)
        super().remove_peer(peer)
        if any(count > _FORGOTTEN for count in invalid.values()):
            self.invalid_messages[peer].update(invalid)
        if behaviour > _FORGOTTEN:
            self.behavior_penalty[peer] = behaviour

    def on_heartbeat(self, dt_seconds: float = 1.0) -> None:
        """Let a second pass."""
        super().on_heartbeat(dt_seconds)
        for peer in [peer for peer, topics in self.invalid_messages.items() if not _any(topics)]:
            del self.invalid_messages[peer]
        for peer in [peer for peer, count in self.behavior_penalty.items() if count <= _FORGOTTEN]:
            del self.behavior_penalty[peer]
        for table in (self.invalid_messages, self.behavior_penalty):
            while len(table) > limits.SOURCES_MAX:
                del table[next(iter(table))]


def _any(counts: dict[str, float]) -> bool:
    return any(count > _FORGOTTEN for count in counts.values())
