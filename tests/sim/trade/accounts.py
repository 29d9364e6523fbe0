"""The accounts of authors: nodes that hold the same derive the same, and what workers earn is what buyers spend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from crabnet.domain.model import Bid, Claim, SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.market.history import Account
from tests.sim.checks import ViolationError
from tests.sim.trade.rules import dealings_of
from tests.sim.world import SimNode


def compare_accounts(nodes: Sequence[SimNode]) -> None:
    """Compare the accounts of nodes that hold the same, and those with the facts. Raises ViolationError."""
    now_s = nodes[0].world.now_ms // 1000
    first = _accounts(nodes[0], now_s)
    for node in nodes[1:]:
        if (other := _accounts(node, now_s)) != first:
            differ = [author for author in {*first, *other} if first.get(author) != other.get(author)]
            raise ViolationError(f"{node.name} has other accounts than {nodes[0].name}: {differ}")
    records = nodes[0].running.replica.state.records
    sums = _sums(records)
    for author in {*first, *sums}:
        said, found = first.get(author), sums.get(author, Counter())
        if said is None or _shown(said) != {name: found[name] for name in _shown(said)}:
            raise ViolationError(f"the account of {author} is {said}, the facts say {found}")
        due, in_time = dealings_of(records, author, now_s)
        share = in_time / due if due else None
        if share != said.settled_share:
            raise ViolationError(f"{author} has settled {said.settled_share} in time, the facts say {in_time}/{due}")
    earned, spent = (sum(_shown(each)[name] for each in first.values()) for name in ("earned", "spent"))
    if earned != spent:
        raise ViolationError(f"all workers have earned {earned}, all buyers have spent {spent}")


def _accounts(node: SimNode, now_s: int) -> dict[str, Account]:
    histories = node.running.trading.histories
    while histories.changed:
        histories.fold_some(1_000, now_s)
    return {author: histories.account(author, now_s) for author in histories.authors()}


def _shown(account: Account) -> dict[str, int]:
    """What ``_sums`` works out, too."""
    buys, works = account.publisher, account.worker
    return {
        "published": buys.published,
        "awarded": buys.awarded,
        "accepted": buys.accepted,
        "rejected": buys.rejected,
        "spent": buys.spent,
        "won": works.won,
        "earned": works.earned,
        "owed": works.owed,
    }


def _sums(records: Mapping[str, Record]) -> dict[str, Counter[str]]:
    """The same numbers from the facts, seed by seed."""
    sums: dict[str, Counter[str]] = {}

    def add(author: str, what: str, amount: int = 1) -> None:
        sums.setdefault(author, Counter())[what] += amount

    for record in records.values():
        seed, status = record.definition, record.progress.status
        if seed is None or status is SeedStatus.DISPUTED:
            continue
        add(seed.created_by, "published")
        claims = [fact.body for fact in record.others if isinstance(fact.body, Claim)]
        for claim in claims:
            add(seed.created_by, "awarded")
            add(claim.worker, "won")
        last = max(claims, key=lambda claim: claim.attempt, default=None)
        result = None if record.result is None else record.result.body
        if last is None or not isinstance(result, TaskResult) or result.worker_failed:
            continue
        price = next(fact.body.price for fact in record.bids if isinstance(fact.body, Bid) and fact.key == last.bid_id)
        if status in {SeedStatus.ACCEPTED, SeedStatus.REJECTED}:
            add(seed.created_by, status.value.lower())
        if status is SeedStatus.ACCEPTED:
            add(seed.created_by, "spent", price)
            add(last.worker, "earned", price)
        elif status is SeedStatus.DONE:
            add(last.worker, "owed", price)
    return sums
