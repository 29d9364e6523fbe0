"""Performs the operations on accounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import trio

from crabnet.core.core import Core
from crabnet.core.replica.rows import decode_seed_row, record_of_row
from crabnet.domain.record import Record
from crabnet.market.history import Account, Tally, account, total_of
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads
from crabnet.operations import accounts
from crabnet.storage.archive.scan import ArchiveScan


@reads(accounts.SHOW)
async def show(node: Node, given: accounts.AccountRequest) -> accounts.ShownAccount:
    """The account of an author."""
    await _count(node)
    histories = node.core.trading.histories
    found = histories.account(node.node_id if given.author is None else given.author, node.clock_ms() // 1000)
    shown = shown_account(found, complete=histories.complete)
    await node.durable()
    return shown


@reads(accounts.LIST)
async def list_(node: Node, given: accounts.AccountListRequest) -> accounts.AccountPage:
    """A page of accounts."""
    await _count(node)
    histories, now_s = node.core.trading.histories, node.clock_ms() // 1000
    page = account_page(
        histories.authors(), lambda author: histories.account(author, now_s), given, complete=histories.complete
    )
    await node.durable()
    return page


async def _count(node: Node) -> None:
    """Have all changes counted, in slices."""
    while node.core.trading.histories.changed:
        node.core.fold_histories(node.clock_ms())
        await trio.lowlevel.checkpoint()


def shown_account(found: Account, *, complete: bool) -> accounts.ShownAccount:
    """An account."""
    return accounts.ShownAccount(
        author=found.author, publisher=found.publisher, worker=found.worker, forked=found.forked, complete=complete
    )


def account_page(
    authors: Iterable[str], of: Callable[[str], Account], given: accounts.AccountListRequest, *, complete: bool
) -> accounts.AccountPage:
    """A page of the accounts of ``authors``, which are sorted."""
    rest = [author for author in authors if given.after is None or author > given.after]
    page = [of(author) for author in rest[: given.limit]]
    return accounts.AccountPage(
        accounts=[
            accounts.AccountRow(
                author=found.author, publisher=found.publisher, worker=found.worker, forked=found.forked
            )
            for found in page
        ],
        next=page[-1].author if len(rest) > given.limit else None,
        complete=complete,
    )


class StoredAccounts:
    """The accounts that follow from the files of a data dir. Reads all of the archive."""

    def __init__(self, core: Core, archive: ArchiveScan) -> None:
        self._core = core
        self._totals: Mapping[str, Tally] = total_of(self._records(archive))

    def _records(self, archive: ArchiveScan) -> Iterator[Record]:
        state = self._core.replica.state
        yield from state.records.values()
        for row in archive.page(limit=sum(each.rows for each in self._core.replica.archived.segments)):
            if row.key not in state.records and row.key not in state.erased:
                yield record_of_row(decode_seed_row(row.data))

    def authors(self) -> list[str]:
        """All authors with an account, sorted."""
        return sorted(self._totals)

    def account(self, author: str, now_s: int) -> Account:
        """The account of an author."""
        forked = self._core.replica.feeds.is_equivocator(author)
        return account(author, self._totals.get(author, Counter()), now_s, forked=forked)
