"""The operations on accounts: what the facts say about authors."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.market.history import Publishing, Working
from crabnet.operations.model import Alone, Kind, Operation, Request, Route, Scope


class AccountRequest(Request, frozen=True, kw_only=True):
    """An author."""

    author: str | None = None
    """The id of a node. Null: this node."""


class AccountListRequest(Request, frozen=True, kw_only=True):
    """A page of authors."""

    limit: Annotated[int, Meta(ge=1, le=limits.ACCOUNT_LIST_MAX)] = 100
    after: str | None = None
    """The ``next`` of the page before."""


class AccountRow(Struct, frozen=True, kw_only=True):
    """What the facts of all tasks say about an author. Nodes with equal state show equal numbers."""

    author: str
    publisher: Publishing
    worker: Working
    forked: bool
    """It is proved to have signed two envelopes for one place of its feed."""


class ShownAccount(AccountRow, frozen=True, kw_only=True):
    """The account of one author."""

    complete: bool
    """False while a node that has just started still counts its archive."""


class AccountPage(Struct, frozen=True, kw_only=True):
    """A page of accounts, by author."""

    accounts: list[AccountRow]
    next: str | None
    """The value of ``after`` for the next page. Null on the last page."""
    complete: bool
    """False while a node that has just started still counts its archive."""


SHOW: Final = Operation(
    name="account.show",
    route=Route("GET", "/account"),
    request=AccountRequest,
    response=ShownAccount,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Show the account of an author: its work, its settlements, and what it earned, owes and spent.",
    description=(
        "Everything follows from the facts of all tasks that this node knows, archived ones included. An author of whom"
        " nothing is known has an account of zeros."
    ),
)
LIST: Final = Operation(
    name="account.list",
    route=Route("GET", "/accounts"),
    request=AccountListRequest,
    response=AccountPage,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List the accounts of all authors, by their ids.",
    description="Every author is listed that has published a task or whose bid was claimed.",
)
