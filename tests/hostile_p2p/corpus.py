"""All attacks over libp2p."""

from __future__ import annotations

from tests.hostile_p2p import connections, gossip, muxing, others, streams

ATTACKS = [each for group in (connections, muxing, gossip, streams, others) for each in group.attacks.all]
QUICK = [each for each in ATTACKS if each.quick]
SLOW = [each for each in ATTACKS if not each.quick]
