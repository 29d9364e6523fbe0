"""Takes declines of bids to the publishers of seeds: those of this node, those for this node, and those of others.

A decline goes to its publisher if that is a neighbour, else to a few neighbours. Each of them passes it on once, if the
publisher is its neighbour. So one decline makes at most DECLINE_FANOUT others.
"""

from __future__ import annotations

from collections.abc import Callable

from crabnet import limits
from crabnet.core.effects import Effects, FieldValue, Notice, Send
from crabnet.core.notices import talk_refused_notice
from crabnet.core.replica.replica import Replica
from crabnet.core.soft_parts import SoftParts
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.market.heard import HeardDecline
from crabnet.market.policies import Declined
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import Envelope, EnvelopeMeta, Kind
from crabnet.protocol.payloads import PayloadRefusedError
from crabnet.protocol.sync import DECLINES, BidDeclined, talk_of
from crabnet.source import GOSSIP

_MAY_TAKE_BIDS = frozenset({SeedStatus.OPEN, SeedStatus.FORFEITED})


class Declining:
    """The declines of the node ``node_id``. ``tells`` is false if its operator does not want to state any."""

    def __init__(
        self, node_id: str, replica: Replica, parts: SoftParts, entropy: Callable[[], int], *, tells: bool
    ) -> None:
        self._node_id = node_id
        self._replica = replica
        self._parts = parts
        self._entropy = entropy
        self._tells = tells
        self._soft = replica.mending.soft
        self._around: dict[str, str] = {}
        self._looked_at_ms = -1
        self._now_ms = 0
        replica.admission.useful = self._is_useful

    def of(self, seed_id: str) -> tuple[HeardDecline, ...]:
        """What workers say about an own seed for which they do not bid."""
        with self._soft:
            return self._parts.trading.declines.of(seed_id, self._replica.state.records.get(seed_id, EMPTY))
        return ()

    def tick(self, now_ms: int, effects: Effects) -> None:
        """State what is due, once there is somebody to hear it."""
        self._now_ms = now_ms
        for seed_id, declined in self._parts.trading.take_declined():
            self.decline(seed_id, declined, now_ms)
        if not self._tells or not self._parts.trading.declines.waits or not self._addresses:
            return
        for said in self._parts.trading.declines.due(now_ms):
            record = self._replica.state.records.get(said.seed_id, EMPTY)
            has_bid = any(bid.author == self._node_id for bid in record.bids)
            if record.seed is not None and not has_bid and is_biddable(record, now_ms // 1000):
                self._parts.neighbours.tell(said, self._ways_to(record.seed.author), now_ms, effects)

    @property
    def _addresses(self) -> dict[str, str]:
        """The addresses of neighbours by node id. It is made anew at most once in a tick, and only if it is used.

        A node that was started again on another port has several for a while: the one heard last counts.
        """
        if self._looked_at_ms != self._now_ms:
            self._looked_at_ms = self._now_ms
            neighbours = self._parts.neighbours
            peers = neighbours.peers
            around = sorted(neighbours.around(), key=lambda address: peers.last_heard_ms(address) or 0)
            self._around = {node_id: address for address in around if (node_id := peers.node_id(address))}
        return self._around

    def decline(self, seed_id: str, declined: Declined, now_ms: int) -> None:
        """State soon why this node does not bid."""
        if self._tells:
            nodes = len(self._addresses) + len(self._parts.neighbours.peers.others())
            self._parts.trading.declines.decline(seed_id, declined, nodes, now_ms)

    def _ways_to(self, publisher: str) -> list[str]:
        """The address of a publisher, or those of a few neighbours that may know it."""
        if publisher in self._addresses:
            return [self._addresses[publisher]]
        left = sorted(self._addresses.values())
        provider = self._parts.neighbours.relay.provider(publisher)
        ways = [provider] if provider != GOSSIP and provider in left else []
        left = [address for address in left if address not in ways]
        while left and len(ways) < limits.DECLINE_FANOUT:
            ways.append(left.pop(self._entropy() % len(left)))
        return ways

    # --- declines of others ----------------------------------------------------------------------------

    def _is_useful(self, envelope: Envelope, kind: Kind) -> bool:
        """False for a decline with which this node can do nothing. It costs less than a check of the signature."""
        if kind is not Kind.BID_DECLINED:
            return True
        seed_id = envelope.payload.get("seed_id")
        record = self._replica.state.records.get(seed_id) if isinstance(seed_id, str) else None
        return record is not None and self._concerns(record, envelope.meta)

    def _concerns(self, record: Record, meta: EnvelopeMeta) -> bool:
        """True for a seed that may take bids, of this node or of a neighbour."""
        seed = record.definition
        if seed is None or record.progress.status not in _MAY_TAKE_BIDS or meta.ts > seed.claim_deadline_s:
            return False
        publisher = seed.created_by
        return publisher != meta.from_ and (publisher == self._node_id or publisher in self._addresses)

    def received(self, admitted: Admitted, source: str, now_ms: int, effects: Effects) -> bool:
        """Take a verified decline. Returns False if its payload is malformed."""
        meta = admitted.envelope.meta
        try:
            said = talk_of(admitted.envelope, admitted.kind)
        except PayloadRefusedError as error:
            effects.notices.append(talk_refused_notice(meta, source, error))
            return False
        record = self._replica.state.records.get(said.seed_id, EMPTY) if isinstance(said, BidDeclined) else EMPTY
        seed = record.definition
        if not isinstance(said, BidDeclined) or seed is None or not self._parts.neighbours.proven(source):
            return True
        if seed.created_by == self._node_id:
            self._heard(said, meta, source, now_ms, effects)
        elif self._parts.neighbours.peers.node_id(source) == meta.from_:
            self._pass_on(admitted.envelope, seed.created_by, now_ms, effects)
        return True

    def _heard(self, said: BidDeclined, meta: EnvelopeMeta, source: str, now_ms: int, effects: Effects) -> None:
        heard = HeardDecline(meta.from_, said.reason, said.price, now_ms)
        if self._parts.trading.declines.hear(said.seed_id, heard):
            fields: dict[str, FieldValue] = {
                "seed_id": said.seed_id,
                "worker": meta.from_,
                "reason": said.reason if said.reason in DECLINES else None,
                "detail": None if said.reason in DECLINES else said.reason,
                "price": said.price,
                "address": source,
            }
            effects.notices.append(Notice("bid_declined", fields))

    def _pass_on(self, envelope: Envelope, publisher: str, now_ms: int, effects: Effects) -> None:
        """Send a decline of a neighbour on to its publisher, unchanged."""
        address = self._addresses.get(publisher)
        if address is not None and self._parts.trading.declines.may_pass_on(envelope.meta.from_, now_ms):
            effects.sends.append(Send(envelope.raw, envelope.meta.kind, envelope.meta.id, address, relayed=True))
