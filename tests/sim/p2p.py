"""A model of the libp2p network: connections, streams that keep their order, and gossipsub, on virtual time.

It does what the libp2p processes of nodes do. Which messages pass is decided by the code of that process
(``p2p.checking``), and by which way an envelope goes by the code of the node (``dht_outbox.ways_of``). The mesh has the
degrees of ``p2p.gossip``. Nothing is lost on a connection, but everything with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from crabnet import limits
from crabnet.core.commands import Misbehaved, PeerJoined, PeerLeft
from crabnet.core.effects import Send
from crabnet.errors import Reason
from crabnet.node.network.dht_outbox import ways_of
from crabnet.p2p.checking import Checked, Checker, Verdict
from crabnet.protocol.topics import channel_of
from crabnet.source import bare, p2p_source
from crabnet.transport.p2p_wire import Path
from tests.sim.node import SimNode

if TYPE_CHECKING:
    from tests.sim.adversary import Adversary
    from tests.sim.world import World

DEGREE, DEGREE_LOW, DEGREE_HIGH, DEGREE_LAZY = 6, 4, 12, 6
HEARTBEAT_MS = 1_000
WINDOWS, WINDOWS_TOLD = 5, 3
"""Heartbeats for which a message is kept, and for which peers are told of it."""
START_MS = (500, 1_500)
"""From the start of a node, or the death of its libp2p process, until that process works."""
NOTICE_MS = (50, 400)
"""Until a peer notices that a connection has ended."""
RESEND_MS = 200
DIALS_SHARE = 0.3
"""The part of the addresses worth dialling that a node tries in one tick."""
GOSSIP_BYTES, STREAM_BYTES, CONTROL_BYTES, ID_BYTES = 218, 32, 60, 66
"""What is sent beside the data: sender, number, topic, signature and key of pubsub, and frames of yamux and noise."""


class _Link:
    """One connection. ``free_ms`` is when the last message of a side arrives: the next one arrives no sooner."""

    def __init__(self, dialler: Peer, other: Peer) -> None:
        self.ends = (dialler, other)
        self.is_up = True
        self.free_ms = {dialler.id: 0, other.id: 0}

    def beyond(self, peer: Peer) -> Peer:
        """The other end."""
        return self.ends[1] if peer is self.ends[0] else self.ends[0]


class _Cached(NamedTuple):
    topic: str
    data: bytes


class Peer:
    """A libp2p process: that of a node, or an adversary with one."""

    def __init__(self, owner: SimNode | Adversary, peer_id: str, known: set[str]) -> None:
        self.owner = owner
        self.id = peer_id
        self.known = known
        """Peers whose addresses it has."""
        self.up_from_ms = 0
        self.life = 0
        self.links: dict[str, _Link] = {}
        self.blocked: dict[str, int] = {}
        self.forget()

    def forget(self) -> None:
        """The process begins anew."""
        self.mesh: dict[str, dict[str, None]] = {}
        self.seen: dict[bytes, int] = {}
        self.recent: deque[dict[bytes, _Cached]] = deque([{}], maxlen=WINDOWS)
        self.refused: Counter[tuple[str, Reason, bool]] = Counter()
        node = self.owner
        self.checker = Checker(node.config.policy, 0) if isinstance(node, SimNode) else None

    @property
    def now_ms(self) -> int:
        """Its clock."""
        return self.owner.now_ms if isinstance(self.owner, SimNode) else self.owner.world.now_ms

    @property
    def passes_on(self) -> bool:
        """False for one that takes part, and gives nothing."""
        return isinstance(self.owner, SimNode) and not self.owner.withholds

    def connected(self) -> list[str]:
        """The peers that it believes to be connected."""
        return list(self.links)

    def is_up(self, now_ms: int) -> bool:
        """True if its process works."""
        return now_ms >= self.up_from_ms and (not isinstance(self.owner, SimNode) or self.owner.core is not None)


class P2p:
    """All connections and topics."""

    def __init__(self, world: World, *, finds_peers: bool = True) -> None:
        """``finds_peers``: nodes hear of further peers, as by the rendezvous, until they have ``P2P_PEERS_WANTED``."""
        self._world = world
        self._finds_peers = finds_peers
        self._peers: dict[str, Peer] = {}
        self._by_address: dict[str, Peer] = {}
        self._heartbeat_ms = 0
        self.sent: Counter[str] = Counter()
        """Messages by what they are for."""
        self.duplicates = 0

    def add(self, owner: SimNode | Adversary, known: list[SimNode | Adversary]) -> None:
        """A peer that has the addresses of some others."""
        peer = Peer(owner, _id(owner), {_id(other) for other in known})
        self._peers[peer.id] = self._by_address[owner.address] = peer
        if isinstance(owner, SimNode):
            owner.p2p = self

    def kill(self, node: SimNode) -> None:
        """End the libp2p process of a node, which is started again."""
        self._end(self._peers[node.id], tell=True)

    def knows_any(self, node: SimNode) -> bool:
        """True if the node has the address of another."""
        return bool(self._peers[node.id].known)

    def links_of(self, node: SimNode) -> list[str]:
        """The peers that are connected to a node."""
        return self._peers[node.id].connected()

    # --- connections -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Call this several times a second."""
        now_ms = self._world.now_ms
        for peer in self._peers.values():
            node = peer.owner
            if isinstance(node, SimNode) and (peer.life != node.lives or (node.core is None and peer.links)):
                self._end(peer, tell=False)
        beats = now_ms >= self._heartbeat_ms
        if beats:
            self._heartbeat_ms = now_ms + HEARTBEAT_MS
        for peer in self._peers.values():
            if peer.is_up(now_ms):
                self._dial(peer)
                if beats:
                    self._beat(peer)

    def _end(self, peer: Peer, *, tell: bool) -> None:
        """A process ends, or its node has. With ``tell`` the node notices."""
        if isinstance(peer.owner, SimNode):
            peer.life = peer.owner.lives
        peer.up_from_ms = self._world.now_ms + self._world.rng.randint(*START_MS)
        links, peer.links = peer.links, {}
        peer.forget()
        for other_id, link in links.items():
            if tell and isinstance(peer.owner, SimNode):
                peer.owner.give(PeerLeft(p2p_source(other_id)))
            self._break(link)

    def _break(self, link: _Link) -> None:
        if link.is_up:
            link.is_up = False
            for peer in link.ends:
                self._world.later(self._world.rng.randint(*NOTICE_MS), partial(self._notice, peer, link))

    def _notice(self, peer: Peer, link: _Link) -> None:
        other = link.beyond(peer)
        if peer.links.get(other.id) is not link:
            return
        del peer.links[other.id]
        for mesh in peer.mesh.values():
            mesh.pop(other.id, None)
        if isinstance(peer.owner, SimNode):
            peer.owner.give(PeerLeft(p2p_source(other.id)))

    def _dial(self, peer: Peer) -> None:
        rng = self._world.rng
        if self._finds_peers and len(peer.links) < limits.P2P_PEERS_WANTED and rng.random() < DIALS_SHARE:
            peer.known.add(rng.choice(list(self._peers)))
        for other_id in sorted(peer.known - peer.links.keys() - {peer.id}):
            other = self._peers.get(other_id)
            if other is None or peer.id in other.links or rng.random() >= DIALS_SHARE:
                continue
            if other.is_up(self._world.now_ms) and self._admit(peer, other) and not self._is_cut(peer, other):
                link = _Link(peer, other)
                for one, beyond in ((peer, other), (other, peer)):
                    one.links[beyond.id] = link
                for one, beyond in ((peer, other), (other, peer)):
                    if isinstance(one.owner, SimNode):
                        one.owner.give(PeerJoined(p2p_source(beyond.id), beyond.id))

    def _admit(self, one: Peer, other: Peer) -> bool:
        now_ms = self._world.now_ms
        return max(one.blocked.get(other.id, 0), other.blocked.get(one.id, 0)) <= now_ms

    def _is_cut(self, one: Peer, other: Peer) -> bool:
        pair = (one.owner.address, other.owner.address)
        return pair in self._world.cut or pair[::-1] in self._world.cut

    def block(self, node: SimNode, source: str, duration_ms: int) -> None:
        """See ``p2p_wire.Block``."""
        peer = self._peers[node.id]
        peer.blocked[bare(source)] = self._world.now_ms + duration_ms
        link = peer.links.get(bare(source))
        if link is not None:
            self._break(link)

    # --- what nodes send -------------------------------------------------------------------------------

    def send(self, node: SimNode, send: Send) -> None:
        """Carry out what a core wants to be sent."""
        peer = self._peers[node.id]
        for to, path in ways_of(send, peer.links):
            if path is Path.GOSSIP:
                self.publish(peer, channel_of(send.kind), send.data)
            else:
                self.stream(node, to, send.data)

    def stream(self, owner: SimNode | Adversary, to: str, message: bytes) -> None:
        """Send a message to one peer, if it is connected."""
        peer = self._by_address[owner.address]
        link = peer.links.get(bare(to))
        if link is not None:
            self.sent["streams"] += 1
            beyond = link.beyond(peer)
            self._over(link, peer, len(message) + STREAM_BYTES, partial(self._from_stream, peer, beyond, message))

    def takes(self, source: str, target: str) -> bool:
        """True for what an adversary of this network sends to somebody in it."""
        peer = self._by_address.get(source)
        return peer is not None and not isinstance(peer.owner, SimNode) and self._peer_at(target) is not None

    def _peer_at(self, target: str) -> Peer | None:
        return self._by_address.get(target) or self._peers.get(bare(target))

    def tell(self, source: str, target: str, data: bytes) -> None:
        """Send what an adversary sends, by a stream or by a topic."""
        peer, other = self._by_address[source], self._peer_at(target)
        if other is None:
            return
        if self._world.rng.random() < 0.5:
            self.stream(peer.owner, other.id, data)
        elif other.id in peer.links:
            kind = "tasks" if b'"SeedCreated"' in data[:1_000] else "talk" if b'"seq":0' in data else "work"
            self._gossip(peer, peer.links[other.id], kind, data)

    def publish(self, peer: Peer, topic: str, data: bytes) -> None:
        """Give a message to all peers of a topic ("flood publish")."""
        digest = sha256(data).digest()
        peer.seen[digest] = self._world.now_ms
        peer.recent[0].setdefault(digest, _Cached(topic, data))
        for link in list(peer.links.values()):
            self._gossip(peer, link, topic, data)

    def _gossip(self, peer: Peer, link: _Link, topic: str, data: bytes) -> None:
        self.sent["gossip"] += 1
        beyond = link.beyond(peer)
        self._over(link, peer, len(data) + GOSSIP_BYTES, partial(self._from_gossip, peer, beyond, topic, data))

    def _over(self, link: _Link, peer: Peer, size: int, arrive: Callable[[], None]) -> None:
        """Something goes over a connection: late if it has to be sent again, and in its place."""
        world = self._world
        world.count(size)
        delay_ms = world.rng.randint(*world.weather.delay_ms)
        while world.rng.random() < world.weather.loss:
            delay_ms += RESEND_MS
        at_ms = link.free_ms[peer.id] = max(world.now_ms + delay_ms, link.free_ms[peer.id])
        world.later(at_ms - world.now_ms, partial(self._arrive, link, peer, arrive))

    def _arrive(self, link: _Link, peer: Peer, arrive: Callable[[], None]) -> None:
        if link.is_up and self._is_cut(*link.ends):
            self._break(link)
        if link.is_up and link.beyond(peer).is_up(self._world.now_ms):
            arrive()

    # --- what peers receive ----------------------------------------------------------------------------

    def _from_stream(self, sender: Peer, peer: Peer, message: bytes) -> None:
        if peer.checker is None:
            self._pass_up(sender, peer, message)
            return
        checked = peer.checker.stream(sender.id, message, peer.now_ms)
        if checked.verdict is Verdict.ACCEPT:
            self._pass_up(sender, peer, message)
        else:
            self._refuse(sender, peer, checked)

    def _from_gossip(self, sender: Peer, peer: Peer, topic: str, data: bytes) -> None:
        digest = sha256(data).digest()
        if digest in peer.seen:
            self.duplicates += 1
            return
        if peer.checker is None:
            peer.seen[digest] = self._world.now_ms
            self._pass_up(sender, peer, data)
            return
        checked = peer.checker.admit(sender.id, peer.now_ms) or peer.checker.gossip(sender.id, data, peer.now_ms)
        if checked.verdict is not Verdict.REJECT:
            peer.seen[digest] = self._world.now_ms
        if checked.verdict is not Verdict.ACCEPT:
            self._refuse(sender, peer, checked)
            return
        peer.recent[0][digest] = _Cached(topic, data)
        if peer.passes_on:
            for other_id in list(peer.mesh.get(topic, ())):
                link = peer.links.get(other_id)
                if other_id != sender.id and link is not None:
                    self._gossip(peer, link, topic, data)
        self._pass_up(sender, peer, data)

    def _pass_up(self, sender: Peer, peer: Peer, message: bytes) -> None:
        source = p2p_source(sender.id)
        self._world.note(message)
        if isinstance(peer.owner, SimNode):
            peer.owner.take(source, message)
        else:
            peer.owner.receive(source, message)

    def _refuse(self, sender: Peer, peer: Peer, checked: Checked) -> None:
        reason = checked.reason or Reason.MALFORMED
        if reason is not Reason.DUPLICATE:
            peer.refused[sender.id, reason, checked.verdict is Verdict.REJECT] += 1

    # --- the mesh --------------------------------------------------------------------------------------

    def _beat(self, peer: Peer) -> None:
        """One heartbeat: tell the node what was refused, keep the meshes, tell others of recent messages."""
        rng, now_ms = self._world.rng, self._world.now_ms
        if isinstance(peer.owner, SimNode):
            for (other_id, reason, hostile), count in peer.refused.items():
                peer.owner.give(Misbehaved(p2p_source(other_id), reason, count, hostile))
            peer.refused.clear()
        for topic in ("tasks", "work", "talk"):
            mesh = peer.mesh.setdefault(topic, {})
            if len(mesh) < DEGREE_LOW:
                others = [each for each in peer.links if each not in mesh]
                for other_id in rng.sample(others, min(len(others), DEGREE - len(mesh))):
                    self._graft(peer, other_id, topic)
            elif len(mesh) > DEGREE_HIGH:
                for other_id in rng.sample(list(mesh), len(mesh) - DEGREE):
                    self._prune(peer, other_id, topic)
            if peer.passes_on:
                self._tell_recent(peer, topic)
        peer.recent.appendleft({})
        since_ms = now_ms - limits.GOSSIP_SEEN_S * 1000
        peer.seen = {digest: at_ms for digest, at_ms in peer.seen.items() if at_ms >= since_ms}

    def _graft(self, peer: Peer, other_id: str, topic: str) -> None:
        peer.mesh[topic][other_id] = None
        link = peer.links[other_id]
        beyond = link.beyond(peer)
        self._control(peer, link, 0, lambda: beyond.mesh.setdefault(topic, {}).setdefault(peer.id))

    def _prune(self, peer: Peer, other_id: str, topic: str) -> None:
        peer.mesh[topic].pop(other_id, None)
        link = peer.links.get(other_id)
        if link is not None:
            beyond = link.beyond(peer)
            self._control(peer, link, 0, lambda: beyond.mesh.setdefault(topic, {}).pop(peer.id, None))

    def _control(self, peer: Peer, link: _Link, ids: int, arrive: Callable[[], object]) -> None:
        self.sent["control"] += 1

        def take() -> None:
            arrive()

        self._over(link, peer, CONTROL_BYTES + ids * ID_BYTES, take)

    def _tell_recent(self, peer: Peer, topic: str) -> None:
        """IHAVE to some peers outside of the mesh. They ask for what they lack (IWANT)."""
        digests = [
            digest
            for window in list(peer.recent)[:WINDOWS_TOLD]
            for digest, cached in window.items()
            if cached.topic == topic
        ]
        others = [each for each in peer.links if each not in peer.mesh[topic]]
        if not digests or not others:
            return
        for other_id in self._world.rng.sample(others, min(len(others), DEGREE_LAZY)):
            link = peer.links[other_id]
            self._control(peer, link, len(digests), partial(self._told, peer, link, digests))

    def _told(self, teller: Peer, link: _Link, digests: list[bytes]) -> None:
        peer = link.beyond(teller)
        lacking = [digest for digest in digests if digest not in peer.seen]
        if lacking:
            self._control(peer, link, len(lacking), partial(self._asked, teller, link, lacking))

    def _asked(self, peer: Peer, link: _Link, digests: list[bytes]) -> None:
        for window in peer.recent:
            for digest in digests:
                if digest in window:
                    self._gossip(peer, link, *window[digest])


def _id(owner: SimNode | Adversary) -> str:
    return owner.id if isinstance(owner, SimNode) else owner.author.id
