"""Messages to and from neighbours: hellos, heads, requests, and the repair of gaps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from crabnet import limits
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects, FieldValue, Notice, Send, Serve, ServeNamed, ServeProof
from crabnet.core.notices import talk_refused_notice
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.replica import Replica
from crabnet.core.sync.announcing import Announcing
from crabnet.core.sync.peers import Introduction, Refused
from crabnet.core.sync.wants import STRANGERS
from crabnet.errors import CrabnetError, Reason
from crabnet.protocol import sync
from crabnet.protocol.admission import NOT_UNDERSTOOD, OUT_OF_TIME, Admitted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.identity import Signer
from crabnet.protocol.payloads import PayloadRefusedError
from crabnet.protocol.sync import ForkMark, Named
from crabnet.source import GOSSIP, bare, is_p2p, p2p_source


class Neighbours(Announcing):
    """Handles and sends messages of neighbours (docs/PROTOCOL.md, section 12)."""

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        replica: Replica,
        entropy: Callable[[], int],
        room: Callable[[str, int], int],
    ) -> None:
        """``room`` returns how many envelopes of an author are worth requesting at a time (in milliseconds)."""
        super().__init__(config, signer, replica, entropy)
        self._room = room

    def begin(self) -> None:
        """Call this once after the replica was loaded."""
        for author in self._replica.feeds.authors():
            self.digests.changed(author)

    def heard(self, source: str, now_ms: int, effects: Effects) -> None:
        """Record a verified message from ``source``. Ask the source to prove its address if it has not yet."""
        if not self._config.talk:
            return
        before = self.peers.heard(source, now_ms)
        if before.returns and self.proven(source):
            self._tell_holdings([source], now_ms, effects)
        if source in self.trusted:
            if not before.present:
                self._look_around(now_ms, effects, again=True)
            return
        if is_p2p(source):
            return
        challenge = self.peers.due_challenge(source, self._token, now_ms)
        if challenge:
            self._say(self._hello(challenge=challenge), source, now_ms, effects)

    def joined(self, source: str, node_id: str, now_ms: int, effects: Effects) -> None:
        """Take a peer that has proved itself by its handshake."""
        if not self._config.talk:
            return
        self._tell_lost(self.peers.joined(source, node_id, now_ms), "replaced", effects)
        self._say(self._hello(), source, now_ms, effects)
        self._now_proven(source, node_id, now_ms, effects)
        self._introduce_soon(now_ms)

    def left(self, source: str, effects: Effects) -> None:
        """Forget a peer that is not connected any more."""
        self._tell_lost(self.peers.left(source), "disconnected", effects)
        self._look_at_ms = 0

    def noticed(self, source: str, now_ms: int) -> None:
        """Record a message from a baseline peer. The node sends no messages for neighbours to it."""
        self.peers.heard(source, now_ms)

    def refused(self, item: Applied, source: str, now_ms: int, effects: Effects) -> None:
        """Record a refused message. Report a configured peer that is incompatible, once for each Reason."""
        meta, reason = item.meta, item.reason
        if reason is None or not self.proven(source):
            return
        of_itself = meta is not None and (not meta.seq or meta.from_ == self.peers.node_id(source))
        if reason not in NOT_UNDERSTOOD and not (reason in OUT_OF_TIME and of_itself):
            return
        refused = Refused(now_ms, reason.value, item.detail[: limits.EVENT_DETAIL_CHARS])
        if self.peers.refused(source, refused) and source in self.trusted:
            fields: dict[str, FieldValue] = {"address": source, "reason": reason.value, "detail": refused.detail}
            effects.notices.append(Notice("peer_refused", fields))

    @property
    def peers_total(self) -> int:
        """The number of peers: those that have proved themselves, and configured ones that have been heard."""
        return len(self.around())

    def is_present(self, address: str) -> bool:
        """True if a verified message came from this address recently."""
        return self.peers.present(address)

    def talk(self, admitted: Admitted, source: str, now_ms: int, effects: Effects) -> bool:
        """Handle a message that belongs to no feed. Returns False if its payload is malformed or not allowed."""
        meta = admitted.envelope.meta
        if meta.from_ == self._signer.node_id:
            return True
        if is_p2p(source) and meta.from_ != bare(source):
            self._passed_on(admitted, now_ms)
            return True
        try:
            said = sync.talk_of(admitted.envelope, admitted.kind)
        except PayloadRefusedError as error:
            effects.notices.append(talk_refused_notice(meta, source, error))
            return False
        self.heard(source, now_ms, effects)
        if self._config.talk:
            self._said(said, meta, source, now_ms, effects)
        return True

    def _passed_on(self, admitted: Admitted, now_ms: int) -> None:
        """Take an introduction that gossip has passed on. Other such talk counts for nothing, and nothing is answered:
        it would count as that of the peer that has passed it on.
        """
        with suppress(PayloadRefusedError):  # the peer that has passed it on is not to blame
            said = sync.talk_of(admitted.envelope, admitted.kind)
            if isinstance(said, sync.Hello) and self._config.talk:
                told = Introduction(said.identity.alias, said.identity.agent)
                if self.peers.passed_on(admitted.envelope.meta.from_, told, now_ms):
                    self._introduce_soon(now_ms)

    def _said(self, said: sync.Talk, meta: EnvelopeMeta, source: str, now_ms: int, effects: Effects) -> None:
        if source in self.trusted:
            if self.peers.node_id(source) != meta.from_:
                self.clocks.ask_again(now_ms)
            self._tell_lost(self.peers.introduced(source, meta.from_), "replaced", effects)
        if isinstance(said, sync.Hello):
            configured = source in self.trusted
            took_ms = self.clocks.said(meta.from_, source, said.echo, meta.ts, now_ms, configured=configured)
            if took_ms is not None:
                self.peers.measured(source, took_ms)
            self._hello_from(said, source, now_ms, effects)
        elif isinstance(said, sync.Heads):
            self._told(said, source, now_ms, effects)
        elif self.proven(source) and not isinstance(said, sync.BidDeclined):
            self._proven_said(said, meta.from_, source, now_ms, effects)
        elif isinstance(said, sync.Request):
            self._author_asks(said, meta.from_, source, now_ms, effects)

    def _author_asks(self, said: sync.Request, asker: str, source: str, now_ms: int, effects: Effects) -> None:
        """Answer an author that asks how far its own feed goes. It need not prove its address for that.

        The answer is not longer than the question.
        """
        if any(want.author == asker for want in said.wants) and self.peers.spend_credit(source):
            feed = self._replica.feeds.get(asker)
            head = sync.Head(asker, feed.head_seq, feed.head_id, feed.end)
            self._say(sync.Heads([head]), source, now_ms, effects)

    def _proven_said(
        self,
        said: sync.Request | sync.ForkRequest | sync.RelayPrune,
        author: str,
        source: str,
        now_ms: int,
        effects: Effects,
    ) -> None:
        """Handle a message that only a configured or proven address may send."""
        if isinstance(said, sync.Request):
            self._asked(said, author, source, now_ms, effects)
        elif isinstance(said, sync.RelayPrune):
            self.relay.pruned(said, source, now_ms)
        else:
            effects.proofs.extend(
                ServeProof(mark.author, mark.seq, source)
                for mark in said.wants
                if self._replica.feeds.get(mark.author).end == mark.seq
            )

    def _told(self, said: sync.Heads, source: str, now_ms: int, effects: Effects) -> None:
        """Handle what a neighbour says about its holdings and about how far its answers went."""
        for head in said.heads:
            with suppress(CrabnetError):  # stored data cannot be read at the moment; the neighbour repeats the head
                self._head_from(head, source, now_ms, effects)
        for served in said.served:
            self.planner.ended(served, source, now_ms)
        for bucket in said.buckets:
            self.reconciler.told_bucket(source, bucket)
        if said.root and self.proven(source):
            self.peers.note_digests(source)
            own = self._replica.feeds.get(self._signer.node_id)
            if self.reconciler.told_root(source, said.root, now_ms) and own.head_seq and not own.end:
                self.guard.told(sync.Head(own.author, own.head_seq, own.head_id), source, now_ms)

    def _may_ask(self, source: str) -> bool:
        return self.proven(source) or self.peers.spend_credit(source)

    def _head_from(self, head: sync.Head, source: str, now_ms: int, effects: Effects) -> None:
        proven = self.proven(source)
        if head.author == self._signer.node_id and proven and self.guard.told(head, source, now_ms):
            self.warn(f"{source} says that the feed of this node reaches seq {head.seq}", effects)
            self._ask_for_own_feed(head.seq, source, now_ms, effects)
        if head.end and proven and self._lacks_proof(ForkMark(head.author, head.end)):
            self.proofs.note(ForkMark(head.author, head.end), source, now_ms, teller=self._teller(source))
        if proven:
            self._may_have_named(head, source, now_ms)
            held_seq = self._replica.feeds.get(head.author).head_seq
            self.reconciler.reach.told(source, head.author, head.seq, held_seq)
        if self.planner.hear(head, source, now_ms, proven=proven):
            held = self._replica.feeds.get(head.author).head_seq
            self._gap_notice(head.author, held + 1, head.seq, source, effects)

    def _teller(self, source: str) -> str:
        """The teller behind a source: one key at many addresses is one teller."""
        if not self.proven(source):
            return STRANGERS
        return source if source in self.trusted else self.peers.node_id(source) or source

    def _lacks_proof(self, mark: ForkMark) -> bool:
        end = self._replica.feeds.get(mark.author).end
        return not end or mark.seq < end

    def _lacks_named(self, named: Named) -> bool:
        return self._replica.parking.lacks_named(named)

    def lacks(self, named: Named, meta: EnvelopeMeta, source: str, now_ms: int) -> None:
        """Note that an envelope from ``source`` rests on one that is not held. Usually that one is on its way.

        A node that holds an envelope also holds all envelopes that it rests on. So this node asks all holders of the
        one for the other.
        """
        if not self._config.talk:
            return
        holders = [self._holder(meta, source), *self.planner.holders(meta.from_, meta.seq)]
        holders += self.named.sources(Named(named.seed_id, meta.id))
        for each in dict.fromkeys(filter(None, holders)):
            self.named.note(named, each, now_ms + limits.SYNC_QUIET_MS, teller=self._teller(each))

    def _holder(self, meta: EnvelopeMeta, source: str) -> str:
        """Who holds what an envelope from ``source`` follows and rests on; "" if that is not known.

        A libp2p peer passes on what a topic brings before its node looks at it, so it need not hold anything. Otherwise
        one author with many keys could make this node ask honest peers in vain, and for nothing else.
        """
        if not is_p2p(source) or self.planner.wanted(meta.from_, meta.seq):
            return source
        author = p2p_source(meta.from_)
        return author if self.peers.is_confirmed(author) else ""

    def _may_have_named(self, head: sync.Head, source: str, now_ms: int) -> None:
        """Note that a neighbour holds parked envelopes of a feed, so that it also holds what they rest on."""
        for seq, named in self._replica.parking.lacks_of(head.author):
            if seq <= head.seq:
                self.named.note(named, source, now_ms, teller=self._teller(source))

    def _asked(self, request: sync.Request, asker: str, source: str, now_ms: int, effects: Effects) -> None:
        """Handle a request: have held envelopes sent.

        Where the held feed ends before the requested range, answer with its head. An author also gets an answer if
        nothing of its feed is held.
        """
        heads = []
        for want in request.wants:
            feed = self._replica.feeds.get(want.author)
            self.relay.asked(want.author, _link(source))
            self.reconciler.reach.told(source, want.author, want.from_seq - 1, feed.head_seq)
            if want.from_seq <= feed.head_seq:
                last = min(want.to_seq, want.from_seq + limits.SYNC_WANT_ENTRIES_MAX - 1)
                effects.serves.append(Serve(want.author, want.from_seq, last, source))
            elif feed.head_seq or feed.end or want.author == asker:
                heads.append(sync.Head(want.author, feed.head_seq, feed.head_id, feed.end))
        effects.serves_named.extend(ServeNamed(each.seed_id, each.envelope_id, source) for each in request.names)
        if heads:
            self._say(sync.Heads(heads), source, now_ms, effects)
        if request.buckets and self.peers.spend_answer(source, now_ms):
            for answer in self.announcer.buckets(self.digests, request.buckets):
                self._say(answer, source, now_ms, effects)

    def served(self, ranges: list[sync.Served], to: str, now_ms: int, effects: Effects) -> None:
        """Say to a neighbour how far the answers to its requests went."""
        self._say(sync.Heads([], served=ranges), to, now_ms, effects)

    def applied(self, item: Applied, source: str, now_ms: int, effects: Effects) -> None:
        """Handle the outcome of a feed envelope from ``source``."""
        meta = item.meta
        if meta is None:
            return
        own = meta.from_ == self._signer.node_id
        if item.fork is not None:
            self.changed(meta.from_)
            self.planner.forked(meta.from_, now_ms)
        if own and (item.in_feed or item.parked):
            adopted = item.in_feed
            if self.guard.proved(meta.seq, source, now_ms, adopted=adopted):
                self.warn(self.guard.why, effects)
        if item.parked:
            self.planner.arrived(meta.from_, meta.seq, now_ms)
        if item.record is not None and item.in_feed:
            self._progressed(meta.from_, len(item.record), now_ms, effects)

    def asked_for(self, item: Applied) -> bool:
        """True if the node asked for an envelope by its name."""
        return len(self.named) > 0 and item.meta is not None and Named(item.seed_id, item.meta.id) in self.named

    def pass_on(self, item: Applied, source: str, now_ms: int, effects: Effects) -> None:
        """Relay a live envelope that has entered its feed, unchanged, to neighbours that may lack it."""
        meta = item.meta
        if meta is None or not item.in_feed or not item.raw or meta.from_ == self._signer.node_id:
            return
        for address in self.relay.targets(meta.from_, _link(source), now_ms):
            effects.sends.append(Send(item.raw, meta.kind, meta.id, address, relayed=True))

    def repeated(self, meta: EnvelopeMeta, source: str, now_ms: int) -> None:
        """Handle an envelope of a feed that is held already."""
        if meta.seq and meta.from_ != self._signer.node_id and self.proven(source):
            own = self.peers.node_id(source) == meta.from_
            self.relay.repeated(meta.from_, _link(source), now_ms, own=own)

    def gap(self, meta: EnvelopeMeta, reason: Reason | None, source: str, now_ms: int, effects: Effects) -> None:
        """Handle an envelope that is ahead of the held feed, does not link to it, or found no room."""
        source = self._holder(meta, source)
        if not self._config.talk or not source:
            return
        held = self._replica.feeds.get(meta.from_).head_seq
        forked_at = meta.seq if reason is Reason.BROKEN_CHAIN else 0
        taken = reason not in {Reason.PARKING_FULL, Reason.AUTHOR_LIMITED}
        upto = max(meta.seq - 1, 1) if taken else meta.seq
        if self.planner.note(meta.from_, upto, source, now_ms, proven=self.proven(source), forked_at=forked_at):
            self._gap_notice(meta.from_, held + 1, upto, source, effects)

    def changed(self, author: str) -> None:
        """Record that a feed has a new head."""
        self.digests.changed(author)
        self.announcer.changed(author)

    def _progressed(self, author: str, size: int, now_ms: int, effects: Effects) -> None:
        """Record that a feed has advanced."""
        self.changed(author)
        closed = self.planner.progressed(author, now_ms, size=size)
        if closed is not None:
            first, last, duration_ms = closed
            fields: dict[str, FieldValue] = {
                "author": author,
                "first_seq": first,
                "last_seq": last,
                "duration_ms": duration_ms,
            }
            effects.notices.append(Notice("gap_filled", fields))

    def tick(self, now_ms: int, effects: Effects) -> None:
        """Do the periodic work.

        Announce the holdings, request missing envelopes, forget silent peers, and try remembered ones.
        """
        if not self._config.talk:
            return
        steps: tuple[Callable[[int, Effects], None], ...] = (
            self._lose_silent,
            self._look_for_peers,
            self._invite,
            self._ask_for_time,
            self.ask,
            self._announce,
            self._look_around,
            self._prune,
            self._clear,
            self._introduce,
        )
        for step in steps:
            with self._replica.mending.soft:
                step(now_ms, effects)

    def rest(self, now_ms: int, effects: Effects) -> None:
        """Call this after some messages were handled. It sends further requests at once if there is room."""
        if self.planner.hungry or self.reconciler.hungry:
            self.ask(now_ms, effects)

    def ask(self, now_ms: int, effects: Effects) -> None:
        """Send the requests that are due to neighbours."""
        for source, wants in self.planner.requests(now_ms, self._may_ask, self._room):
            for want in wants:
                fields: dict[str, FieldValue] = {
                    "author": want.author,
                    "first_seq": want.from_seq,
                    "last_seq": want.to_seq,
                    "address": source,
                }
                effects.notices.append(Notice("gap_requested", fields))
            self._say(sync.Request(wants), source, now_ms, effects)
        for source, prefixes in self.reconciler.requests(now_ms, self.proven, self.planner.has_told_much):
            self._say(sync.Request([], prefixes), source, now_ms, effects)
        wants_max = limits.SYNC_WANTS_PER_MESSAGE_MAX
        for source, marks in self.proofs.requests(now_ms, self._lacks_proof, self.proven, wants_max):
            self._say(sync.ForkRequest(marks), source, now_ms, effects)
        names_max = limits.SYNC_NAMES_PER_MESSAGE_MAX
        for source, named in self.named.requests(now_ms, self._lacks_named, self._may_ask, names_max):
            self._say(sync.Request([], names=named), source, now_ms, effects)

    def _hello_from(self, hello: sync.Hello, source: str, now_ms: int, effects: Effects) -> None:
        if hello.challenge and self._config.stays:
            self._say(self._hello(echo=hello.challenge), source, now_ms, effects)
        node_id = hello.identity.node_id
        self.peers.introduces(source, Introduction(hello.identity.alias, hello.identity.agent))
        replaced = self.peers.confirm(source, node_id, hello.echo, now_ms)
        if replaced is not None:
            self._tell_lost(replaced, "replaced", effects)
            if source not in self.trusted:
                self.book.confirmed(source, node_id, now_ms)
            self._now_proven(source, node_id, now_ms, effects)

    def _now_proven(self, source: str, node_id: str, now_ms: int, effects: Effects) -> None:
        effects.notices.append(Notice("peer_confirmed", {"address": source, "peer": node_id}))
        self._tell_holdings([source], now_ms, effects)
        if self.guard.waits:
            self._ask_for_own_feed(0, source, now_ms, effects)
        self._look_around(now_ms, effects, again=True)


def _link(source: str) -> str:
    """The path by which an envelope came, for the relay: all libp2p peers are one, because gossip connects them."""
    return GOSSIP if is_p2p(source) else source
