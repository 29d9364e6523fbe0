"""How fast each author may add envelopes to this node (ADR 17).

Budgets only delay. The node does not take an envelope that is over budget. Sync brings it later, so honest nodes still
come to hold the same.

A known author has a budget of its own. All newcomers share one budget, and one newcomer may use at most half of it. So
an attacker with thousands of identities competes only with other newcomers. Envelopes that this node requested from a
proven neighbour are history and have a far larger budget. The exceptions are authors that were over their budget a
short time ago, and newcomers while they *throng*: while they use up the newcomers' budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket


class AuthorRates(Struct, frozen=True, kw_only=True):
    """Budgets in envelopes and bytes a second. A burst may have ``AUTHOR_BURST_S`` times as much. 0 turns one off."""

    envelopes_per_s: int = 0
    bytes_per_s: int = 0
    newcomer_envelopes_per_s: int = 0
    newcomer_bytes_per_s: int = 0
    history_envelopes_per_s: int = 0

    @property
    def limited(self) -> bool:
        """True if any of these budgets is on."""
        return any((self.envelopes_per_s, self.bytes_per_s, self.newcomer_envelopes_per_s, self.newcomer_bytes_per_s))


class _Purse:
    """The envelopes and bytes that may still come."""

    __slots__ = ("bytes", "envelopes")

    def __init__(self, envelopes_per_s: float, bytes_per_s: float) -> None:
        self.envelopes = TokenBucket(envelopes_per_s, envelopes_per_s * limits.AUTHOR_BURST_S)
        self.bytes = TokenBucket(bytes_per_s, max(bytes_per_s * limits.AUTHOR_BURST_S, limits.ENVELOPE_BYTES_MAX))

    def affords(self, cost: int, size: int, now_ms: int) -> bool:
        return self.envelopes.room(now_ms) >= cost and self.bytes.room(now_ms) >= size

    def pay(self, cost: int, size: int, now_ms: int) -> bool:
        if not self.affords(cost, size, now_ms):
            return False
        self.spend(cost, size)
        return True

    def spend(self, cost: int, size: int) -> None:
        """Charge this amount. Call it only if ``affords`` is true at this moment."""
        self.envelopes.tokens -= cost
        self.bytes.tokens -= size


class _Account:
    """The state of one author."""

    __slots__ = ("first_ms", "history", "purse")

    def __init__(self, first_ms: int, purse: _Purse, history: TokenBucket) -> None:
        self.first_ms = first_ms
        self.purse = purse
        self.history = history


class AuthorBudgets:
    """The budgets of all authors. ``held`` counts the held envelopes of an author. The author ``own`` is exempt."""

    def __init__(self, rates: AuthorRates, held: Callable[[str], int], own: str) -> None:
        self.enabled = rates.limited
        self._rates = rates
        self._held = held
        self._own = own
        self._elders: frozenset[str] = frozenset()
        self._known: BoundedTable[str, _Account] = BoundedTable(limits.AUTHORS_MAX)
        self._newcomers: BoundedTable[str, _Account] = BoundedTable(limits.AUTHORS_MAX)
        self._shared = _Purse(rates.newcomer_envelopes_per_s, rates.newcomer_bytes_per_s)
        self._history = TokenBucket(rates.history_envelopes_per_s)
        self._paused: BoundedTable[str, int] = BoundedTable(limits.AUTHORS_MAX)
        self._watched: BoundedTable[str, int] = BoundedTable(limits.AUTHORS_MAX)
        self._thronged_until_ms = 0

    def __len__(self) -> int:
        tables = (self._elders, self._known, self._newcomers, self._paused, self._watched)
        return sum(len(table) for table in tables)

    def begin(self, heads: Iterable[tuple[str, int]]) -> None:
        """Load (id, head seq) of authors from the last run. Authors with enough envelopes are not newcomers again."""
        old = ((author, seq) for author, seq in heads if seq >= limits.AUTHOR_KNOWN_ENTRIES)
        self._elders = frozenset(author for author, _ in nlargest(limits.AUTHORS_MAX, old, key=lambda head: head[1]))

    def knows(self, author: str) -> bool:
        """True for an author that is not a newcomer."""
        return not self.enabled or author in self._known or author in self._elders or author == self._own

    def pausing(self, now_ms: int) -> bool:
        """False if ``paused`` is false for every author."""
        return bool(self._paused) or now_ms < self._thronged_until_ms

    def paused(self, author: str, now_ms: int) -> bool:
        """True for an author that was over its budget a moment ago.

        Also true for an author of whom nothing is held, while newcomers throng and have used up their budget. This
        charges nothing, so the node may call it before it checks a signature.
        """
        until_ms = self._paused.get(author)
        if until_ms is not None and 0 < until_ms - now_ms <= limits.AUTHOR_PAUSE_MS:
            return True
        return now_ms < self._thronged_until_ms and self._finds_no_room(author, now_ms)

    def _finds_no_room(self, author: str, now_ms: int) -> bool:
        """True if the newcomers' budget cannot pay for the first envelope of an author at the moment."""
        if self._shared.envelopes.room(now_ms) >= limits.AUTHOR_FIRST_COST:
            return False
        if author == self._own or author in self._newcomers or author in self._known or self._held(author):
            return False
        self._thronged_until_ms = now_ms + limits.AUTHOR_THRONG_MS
        return True

    def charge(self, author: str, size: int, now_ms: int, *, requested: bool) -> bool:
        """Charge a verified, new envelope of ``size`` bytes. Returns True if the node may take it at the moment.

        ``requested`` says that this node requested it from a proven neighbour.
        """
        known = self._known.get(author)
        if known is not None and not requested and known.purse.pay(1, size, now_ms):
            self._known.touch(author)
            return True
        if author == self._own:
            return True
        held = self._held(author)
        account = self._account(author, held, now_ms)
        newcomer = self._known.get(author) is None
        if requested and self._trusts_history(author, held, now_ms):
            paid = account.history.room(now_ms) >= 1 and self._history.take(now_ms)
            if paid:
                account.history.tokens -= 1
        elif not newcomer:
            paid = account.purse.pay(1, size, now_ms)
            if not paid:
                self._watched.put(author, now_ms + limits.AUTHOR_WATCH_MS)
        else:
            paid = self._pay_as_newcomer(author, account, 1 if held else limits.AUTHOR_FIRST_COST, size, now_ms)
        if not paid:
            self._paused.put(author, now_ms + limits.AUTHOR_PAUSE_MS)
        elif newcomer:
            self._newcomers.put(author, account)
        return paid

    def _pay_as_newcomer(self, author: str, account: _Account, cost: int, size: int, now_ms: int) -> bool:
        if account.purse.affords(cost, size, now_ms):
            if self._shared.pay(cost, size, now_ms):
                account.purse.spend(cost, size)
                return True
            self._thronged_until_ms = now_ms + limits.AUTHOR_THRONG_MS
        self._watched.put(author, now_ms + limits.AUTHOR_WATCH_MS)
        return False

    def _trusts_history(self, author: str, held: int, now_ms: int) -> bool:
        if now_ms < (self._watched.get(author) or 0):
            return False
        return held >= limits.AUTHOR_KNOWN_ENTRIES or now_ms >= self._thronged_until_ms

    def room(self, author: str, now_ms: int) -> int:
        """How many envelopes of an author are worth requesting at the moment, 0 while it is over its budget."""
        most = limits.SYNC_WANT_ENTRIES_MAX
        if not self.enabled or author == self._own:
            return most
        if self.paused(author, now_ms):
            return 0
        if self._trusts_history(author, self._held(author), now_ms):
            return most
        known = self._known.get(author)
        account = known or self._newcomers.get(author)
        room = float(most) if account is None else account.purse.envelopes.room(now_ms)
        if known is None:
            room = min(room, self._shared.envelopes.room(now_ms))
        return int(max(0, min(room, most)))

    def _account(self, author: str, held: int, now_ms: int) -> _Account:
        """The account of an author, a known one's when its time has come. A newcomer's is not kept before it pays."""
        account = self._known.get(author)
        if account is not None:
            self._known.touch(author)
            return account
        account = self._newcomers.get(author)
        rates = self._rates
        of_age = account is not None and now_ms - account.first_ms >= limits.AUTHOR_KNOWN_AFTER_MS
        if account is None:
            purse = _Purse(rates.newcomer_envelopes_per_s / 2, rates.newcomer_bytes_per_s / 2)
            per_s = rates.history_envelopes_per_s
            history = TokenBucket(per_s / limits.AUTHOR_HISTORY_SHARE, max(limits.AUTHOR_HISTORY_BURST, per_s))
            account = _Account(now_ms, purse, history)
        if held >= limits.AUTHOR_KNOWN_ENTRIES and (of_age or author in self._elders):
            account.purse = _Purse(rates.envelopes_per_s, rates.bytes_per_s)
            self._newcomers.pop(author)
            self._known.put(author, account)
        return account
