"""The soft parts of a core that trade: accounts, buyer, seller, declines (ADR 44)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from crabnet.core.commands import Checked
from crabnet.core.config import CoreConfig
from crabnet.core.mending import Part
from crabnet.core.moves import Move
from crabnet.core.replica.replica import Replica
from crabnet.core.trading.buying import Buyer
from crabnet.core.trading.declines import Declines
from crabnet.core.trading.histories import ArchivedTask, Histories
from crabnet.core.trading.selling import Offer, Seller, Surroundings
from crabnet.domain.record import Record
from crabnet.market import policies
from crabnet.market.heard import summary
from crabnet.market.history import Account, Dealt
from crabnet.market.policies import Declined


class Trading:
    """What a node knows and does by policy. A query has an answer even if a part fails, as in ``SoftParts``.

    ``denies`` says with which authors the node makes no new deals.
    """

    def __init__(
        self,
        config: CoreConfig,
        node_id: str,
        replica: Replica,
        entropy: Callable[[], int],
        denies: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._replica = replica
        self._denies = denies
        self._soft = replica.mending.soft
        self.histories = Histories(replica)
        self.surroundings = Surroundings(dealings=self._dealt)
        """What the node tells the policies of a worker. It outlives ``seller``."""
        self.declines = Declines(entropy)
        self._entropy = entropy
        self.renew_policies()

    def renew_policies(self) -> None:
        """Make buyer and seller anew. They know nothing until ``watch`` of every seed."""
        self.buyer, self.seller = self._new_buyer(), self._new_seller()

    def renew(self, part: Part) -> None:
        """Make declines or accounts anew."""
        if part is Part.DECLINES:
            self.declines = Declines(self._entropy)
            return
        self.histories = Histories(self._replica)
        self.histories.begin()
        for seed_id in self._replica.state.records:
            self.histories.watch(seed_id)

    def parts(self) -> dict[Part, object]:
        """The present soft parts."""
        return {
            Part.HISTORIES: self.histories,
            Part.BUYER: self.buyer,
            Part.SELLER: self.seller,
            Part.DECLINES: self.declines,
        }

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Tell the policies of a seed that has changed, or has a further bid."""
        with self._soft:
            self.histories.watch(seed_id)
        with self._soft:
            self.buyer.watch(seed_id, record, now_ms)
        with self._soft:
            self.seller.watch(seed_id, record, now_ms)

    def archived(self, seeds: Sequence[tuple[str, Record]]) -> None:
        """Call this for seeds that have left memory."""
        with self._soft:
            self.histories.archived(seeds)

    def fold_histories(self, seeds_max: int, now_ms: int) -> None:
        """Count some changed seeds in the accounts."""
        with self._soft:
            self.histories.fold_some(seeds_max, now_ms // 1000)

    def add_archived(self, tasks: Iterable[ArchivedTask]) -> None:
        """Count seeds of the archive in the accounts."""
        with self._soft:
            self.histories.add_archived(tasks)

    def follower(self, seed_id: str) -> str | None:
        """The seed of this node that takes up ``seed_id`` again."""
        with self._soft:
            return self.buyer.follower(seed_id)
        return None

    def leaves_to_operator(self, seed_id: str, record: Record) -> bool:
        """True if it is up to the operator what becomes of the result of an own seed."""
        with self._soft:
            return self.buyer.leaves(seed_id, record)
        return False

    def moves(self, now_ms: int) -> list[Move]:
        """The operations that policies ask for."""
        moves: list[Move] = []
        for part in (self.buyer, self.seller):
            with self._soft:
                moves += part.moves(now_ms)
        return moves

    def checked(self, given: Checked, now_ms: int) -> None:
        """Take the outcome of a check."""
        with self._soft:
            self.buyer.checked(given, now_ms)

    def due_ms(self) -> int | None:
        """When policies may ask for something next, in milliseconds since the epoch."""
        with self._soft:
            times = (self.buyer.next_ms(), self.seller.next_ms())
            return min((at_ms for at_ms in times if at_ms is not None), default=None)
        return None

    def goes_on(self, seed_id: str, record: Record) -> bool:
        """True if the node takes the next step about a seed by itself: runs what it has won, or settles its own."""
        if record.progress.claimed_by == self._node_id and self._config.auto_run:
            return True
        seed = record.definition
        if seed is None or seed.created_by != self._node_id:
            return False
        terms = self.terms_of(seed_id, record)
        return terms is not None and terms.accept is not policies.Accepting.NEVER

    def terms_of(self, seed_id: str, record: Record) -> policies.Terms | None:
        """What this node does by itself with a seed of its own. None if nothing."""
        with self._soft:
            return self.buyer.terms_of(seed_id, record)
        return None

    def won(self) -> list[str]:
        """The seeds that were claimed for this node and are not begun, oldest claim first."""
        with self._soft:
            return list(self.seller.commitments.won)
        return []

    def offer(self, seed_id: str, record: Record, now_ms: int) -> Offer | None:
        """What this worker would do with an open task now. None if it is not open, or if the policy fails."""
        with self._soft:
            return self.seller.offer(seed_id, record, now_ms)
        return None

    def take_declined(self) -> list[tuple[str, Declined]]:
        """The tasks for which this worker has not bid since the last call, each once for a reason."""
        with self._soft:
            return self.seller.take_declined()
        return []

    def declined(self) -> list[tuple[str, Declined]]:
        """The open tasks for which this worker has not bid, with the reasons."""
        with self._soft:
            return self.seller.declined()
        return []

    def _new_buyer(self) -> Buyer:
        return Buyer(self._config, self._node_id, self._replica, self._denies, self._past, self._said)

    def _said(self, seed_id: str, record: Record) -> str:
        """Why workers do not bid for a seed, as they say."""
        seed = record.definition
        return "" if seed is None else summary(self.declines.of(seed_id, record), seed, len(record.bids))

    def _past(self, author: str) -> Account:
        """What is known of an author's past."""
        return self.histories.account(author)

    def _new_seller(self) -> Seller:
        return Seller(self._config, self._node_id, self._replica, self.surroundings, self._denies)

    def _dealt(self, publisher: str, now_ms: int) -> Dealt:
        """What a publisher has done with results."""
        return self.histories.dealt(publisher, now_ms // 1000)
