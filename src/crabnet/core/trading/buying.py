"""The steps of a publisher that its policies take: claim a bid, settle a result, try again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crabnet import limits
from crabnet.core.commands import ChangeTerms, Checked, CreateClaim, Operation, Publish, Settle
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda
from crabnet.core.effects import CheckOrder, FieldValue, Notice
from crabnet.core.mending import Part
from crabnet.core.moves import Move
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import FINAL, Bid, Claim, Seed, SeedStatus, TaskResult
from crabnet.domain.record import EMPTY, Record
from crabnet.errors import Reason
from crabnet.market.award import History, award, has_failed, tries
from crabnet.market.policies import (
    Accepting,
    AwardRule,
    CheckOutcome,
    Declined,
    Terms,
    Wait,
    note_of,
    reason_in,
)
from crabnet.market.verdict import needs_check, settles, verdict

_TO_CLAIM: Final = frozenset({SeedStatus.OPEN, SeedStatus.FORFEITED})


class Buyer:
    """The open purchases of ``node_id``. It only proposes steps, and ``Core`` does them.

    It remembers something about own seeds that are not final, and about no others.
    Seeds with ``Terms`` are its purchases. Other seeds of the node follow the settings ``auto_award``, ``auto_settle``
    and ``auto_reclaim``. It claims no bid of an author for which ``denies`` is true.
    """

    def __init__(
        self,
        config: CoreConfig,
        node_id: str,
        replica: Replica,
        denies: Callable[[str], bool],
        history: History,
        said: Callable[[str, Record], str],
    ) -> None:
        """``said`` tells what workers say about why they do not bid, "" if nothing."""
        self._config = config
        self._node_id = node_id
        self._replica = replica
        self._denies = denies
        self._history = history
        self._said = said
        self._due = Agenda()
        self._collects_from_ms: dict[str, int] = {}
        """Since when bids for an open seed of this node are collected."""
        self._followers: dict[str, str] = {}
        """Seed -> the seed of this node that follows it."""
        self._told: dict[str, tuple[str, Reason]] = {}
        """The last thing that was told about a seed for which nothing can be done: result id or "", and why."""
        self._checks: dict[str, tuple[str, CheckOutcome | None]] = {}
        """Seed -> the result that is checked, and the outcome once it is known."""
        self._begun_ms = 0

    def begin(self, now_ms: int) -> None:
        """Call this once after ``watch`` of every seed.

        For one execution grace it gives up none of the seeds that are older, because bids and results may still arrive
        from peers.
        """
        self._begun_ms = now_ms
        for seed_id in self._replica.purchases.terms:
            self._due.add(now_ms, seed_id)

    def follower(self, seed_id: str) -> str | None:
        """The seed of this node that takes up ``seed_id`` again, if it is in memory."""
        return self._followers.get(seed_id)

    def leaves(self, seed_id: str, record: Record) -> bool:
        """True if it is up to the operator what becomes of the result of an own seed."""
        terms = self.terms_of(seed_id, record)
        if terms is None or terms.accept is Accepting.NEVER:
            return True
        told = self._told.get(seed_id)
        return told is not None and told[0] != "" and told[0] == record.progress.result_id

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Look at a seed that has changed, soon."""
        seed = record.definition
        if seed is None or seed.created_by != self._node_id:
            return
        if record.progress.status is SeedStatus.OPEN:
            # After a restart nobody knows when within its second it was published.
            self._collects_from_ms.setdefault(seed_id, min(now_ms, seed.created_at * 1000 + 999))
        else:
            self._collects_from_ms.pop(seed_id, None)
        if record.progress.status in FINAL:
            self._told.pop(seed_id, None)
            self._checks.pop(seed_id, None)
        if seed.follows is not None and seed.follows not in self._followers:
            self._followers[seed.follows] = seed_id
            self._due.add(now_ms, seed.follows)
        if self.terms_of(seed_id, record) is not None:
            self._due.add(now_ms, seed_id)

    def next_ms(self) -> int | None:
        """When the next step may be due, in milliseconds since the epoch. None if nothing is."""
        return self._due.next_ms()

    def moves(self, now_ms: int) -> list[Move]:
        """The steps that are due, at most ``TURN_MOVES_MAX``."""
        moves: list[Move] = []
        for seed_id in self._due.due(now_ms, limits.TURN_MOVES_MAX):
            record = self._replica.state.records.get(seed_id, EMPTY)
            move = self._move(seed_id, record, now_ms)
            if move is not None:
                moves.append(move)
        return moves

    def again(self, move: Move, now_ms: int) -> None:
        """A step was refused. Look at its seed again after SWEEP_RETRY_MS."""
        self._due.add(now_ms + limits.SWEEP_RETRY_MS, move.seed_id)

    def checked(self, given: Checked, now_ms: int) -> None:
        """Take the outcome of a check that this part has asked for."""
        self._checks[given.seed_id] = given.result_id, given.outcome
        self._due.add(now_ms, given.seed_id)

    # --- one seed --------------------------------------------------------------------------------------

    def terms_of(self, seed_id: str, record: Record) -> Terms | None:
        """The terms of a purchase, or those that the settings make for another seed. None if there are none."""
        terms = self._replica.purchases.get(seed_id)
        if terms is not None:
            return terms
        seed, config = record.definition, self._config
        if seed is None or seed.created_by != self._node_id:
            return None
        rule = config.auto_award
        if rule is None and config.auto_reclaim and record.progress.status is SeedStatus.FORFEITED:
            rule = AwardRule.CHEAPEST
        if rule is None and config.auto_settle is None:
            return None
        return Terms(
            award=rule,
            price_max=seed.reward or None if config.auto_award is not None else None,
            tries_max=min(config.reclaim_attempts_max, limits.ATTEMPTS_MAX),
            accept=config.auto_settle or Accepting.NEVER,
        )

    def _move(self, seed_id: str, record: Record, now_ms: int) -> Move | None:
        terms, seed, status = self.terms_of(seed_id, record), record.definition, record.progress.status
        follower = self._followers.get(seed_id)
        if follower is not None and status is SeedStatus.FORFEITED:
            note = f"{follower} takes it up again"
            return Move(Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note=note), Part.BUYER)
        if terms is None:
            return None
        if seed is None or seed.created_by != self._node_id:
            return self._end(seed_id, record, Reason.UNKNOWN_SEED)
        if status in FINAL:
            return self._after(seed_id, record, seed, terms)
        if status in _TO_CLAIM:
            return self._claim(seed_id, record, seed, terms, now_ms)
        if status is SeedStatus.DONE and not record.worker_failed:
            return self._settle(seed_id, record, seed, terms)
        return None

    def _claim(self, seed_id: str, record: Record, seed: Seed, terms: Terms, now_ms: int) -> Move | None:
        if terms.award is None:
            return None
        since_ms = self._collects_from_ms.get(seed_id)
        chosen = award(record, terms, self._history, now_ms, denies=self._denies, published_ms=since_ms)
        if isinstance(chosen, Bid):
            return _move(CreateClaim(seed_id=seed_id, bid_id=chosen.id), _awarded(record, chosen, terms.award))
        if isinstance(chosen, Wait):
            if chosen.until_ms is not None:
                self._due.add(chosen.until_ms, seed_id)
            return self._tell(seed_id, "", chosen.reason, {"next_try_ms": chosen.until_ms})
        if self._replica.purchases.get(seed_id) is None:
            return self._tell(seed_id, "", chosen.reason, {"detail": chosen.detail[: limits.EVENT_DETAIL_CHARS]})
        gives_up_from_ms = self._begun_ms + self._config.execution_grace_ms
        if seed.created_at * 1000 < self._begun_ms - 999 and now_ms < gives_up_from_ms:
            self._due.add(gives_up_from_ms, seed_id)
            return None
        return self._give_up(seed_id, record, seed, terms, chosen)

    def _give_up(self, seed_id: str, record: Record, seed: Seed, terms: Terms, why: Declined) -> Move:
        """No further bid of this seed will be claimed. A new seed has new bids, if one of this seed's was tried."""
        tried = record.progress.status is SeedStatus.FORFEITED
        if tried and why.reason in {Reason.NO_BIDS, Reason.NO_BID_FITS, Reason.DEADLINE_PASSED}:
            return self._try_again(seed_id, record, seed, terms, why.reason)
        said = self._said(seed_id, record)
        return self._close(seed_id, why.reason, f"{why.detail}: {said}" if said else why.detail)

    def _settle(self, seed_id: str, record: Record, seed: Seed, terms: Terms) -> Move | None:
        result = None if record.result is None else record.result.body
        if not isinstance(result, TaskResult) or terms.accept is Accepting.NEVER:
            return None
        outcome: CheckOutcome | None = None
        check = None if seed.acceptance is None else seed.acceptance.check
        if check is not None and needs_check(result, seed.acceptance):
            result_id, outcome = self._checks.get(seed_id) or ("", None)
            if result_id != result.id:
                self._checks[seed_id] = result.id, None
                return Move(None, Part.BUYER, check=CheckOrder(seed_id, result.id, check))
            if outcome is None:
                return None
        judged = verdict(result, seed.acceptance, outcome)
        status = settles(judged, terms.accept)
        fields: dict[str, FieldValue] = {
            "seed_id": seed_id,
            "result_id": result.id,
            "worker": result.worker,
            "judgement": judged.judgement.value,
            "status": None if status is None else status.value,
            "reason": judged.reason.value,
            "detail": judged.detail[: limits.EVENT_DETAIL_CHARS],
        }
        notice = Notice("result_judged", fields)
        if status is None:
            return self._once(seed_id, result.id, judged.reason, notice)
        note = "" if status is SeedStatus.ACCEPTED else note_of(judged.reason, judged.detail)
        return _move(Settle(seed_id=seed_id, outcome=status, note=note), notice)

    def _after(self, seed_id: str, record: Record, seed: Seed, terms: Terms) -> Move | None:
        """What follows a seed that is final: another try after a failure, else the end of the purchase."""
        if self._replica.purchases.get(seed_id) is None:
            return None
        reason = reason_in(record.progress.note)[0]
        failed = has_failed(record, terms) and seed_id not in self._followers
        if failed and tries(record, terms) < terms.tries_max:
            return self._try_again(seed_id, record, seed, terms, reason or Reason.WRONG_STATE)
        return self._end(seed_id, record, Reason.ATTEMPTS_EXHAUSTED if failed else reason)

    # --- moves -----------------------------------------------------------------------------------------

    def _try_again(self, seed_id: str, record: Record, seed: Seed, terms: Terms, reason: Reason) -> Move:
        """Publish the task once more: a rejected seed is final, and bids of an old one do not come any more."""
        claims = [fact.body for fact in record.others if isinstance(fact.body, Claim)]
        failed = {claim.worker for claim in claims if record.began(claim.id)}
        shunned = tuple(sorted({*terms.shunned, *failed}))[: limits.PURCHASE_ATTEMPTS_MAX]
        changed = Terms(
            award=terms.award,
            bid_wait_ms=terms.bid_wait_ms,
            price_max=terms.price_max,
            worker=terms.worker,
            tries_max=terms.tries_max,
            accept=terms.accept,
            tries_before=tries(record, terms),
            shunned=shunned,
        )
        wish = Publish(
            title=seed.title,
            command=seed.command,
            description=seed.description,
            timeout_ms=seed.timeout_ms,
            bid_window_ms=max(1, seed.bid_deadline_ts - seed.created_at) * 1000,
            claim_window_ms=max(1, seed.claim_deadline_s - seed.bid_deadline_ts) * 1000,
            exec_deadline_ms=seed.exec_deadline_ms,
            min_price=seed.min_price,
            max_bids=seed.max_bids,
            reward=seed.reward,
            rules=seed.rules,
            acceptance=seed.acceptance,
            settle_window_ms=None if seed.settle_window_s is None else seed.settle_window_s * 1000,
            follows=seed_id,
            terms=changed,
        )
        fields: dict[str, FieldValue] = {"seed_id": seed_id, "attempt": changed.tries_before + 1}
        return _move(wish, Notice("purchase_retried", fields | {"reason": reason.value}))

    def _close(self, seed_id: str, reason: Reason, detail: str) -> Move:
        note = note_of(reason, detail)
        return _move(Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note=note), _given_up(seed_id, reason, detail))

    def _end(self, seed_id: str, record: Record, reason: Reason | None) -> Move:
        fields: dict[str, FieldValue] = {"seed_id": seed_id, "status": record.progress.status.value}
        if reason is not None:
            fields["reason"] = reason.value
        return _move(ChangeTerms(seed_id=seed_id, terms=None), Notice("purchase_ended", fields))

    def _tell(self, seed_id: str, result_id: str, reason: Reason, fields: dict[str, FieldValue]) -> Move | None:
        notice = Notice("award_waits", {"seed_id": seed_id, "reason": reason.value} | fields)
        return self._once(seed_id, result_id, reason, notice)

    def _once(self, seed_id: str, result_id: str, reason: Reason, notice: Notice) -> Move | None:
        """Tell something if it is new."""
        if self._told.get(seed_id) == (result_id, reason):
            return None
        self._told[seed_id] = result_id, reason
        return _move(None, notice)


def _move(wish: Operation | None, notice: Notice) -> Move:
    return Move(wish, Part.BUYER, notice)


def _given_up(seed_id: str, reason: Reason, detail: str) -> Notice:
    fields = {"seed_id": seed_id, "reason": reason.value, "detail": detail[: limits.EVENT_DETAIL_CHARS]}
    return Notice("purchase_given_up", fields)


def _awarded(record: Record, bid: Bid, rule: AwardRule) -> Notice:
    """Claims after a forfeit have a kind of their own, as always."""
    again = record.progress.status is SeedStatus.FORFEITED
    fields: dict[str, FieldValue] = {
        "seed_id": bid.seed_id,
        "worker": bid.bidder,
        "attempt": record.progress.attempt + again,
    }
    if again:
        return Notice("seed_reclaimed", fields)
    return Notice("bid_awarded", fields | {"bid_id": bid.id, "price": bid.price, "rule": rule.value})
