"""Performs the operations on tokens, login links and the reports of clients."""

from __future__ import annotations

from typing import Final

from crabnet.access.file import TokenFile
from crabnet.access.secret import digest_of
from crabnet.access.tokens import SESSION_PREFIX, Token, Tokens, named, with_session, with_token, without_token
from crabnet.core.effects import FieldValue
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.monitor.registry import EVENTS, EventKind
from crabnet.node.clock import wall_ms
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads, writes
from crabnet.node.operations.requests import Ticket
from crabnet.node.web import web_url
from crabnet.operations import access
from crabnet.operations.model import Empty, Scope
from crabnet.settings import Settings
from crabnet.storage.files import Files

_SESSION_NAME_CHARS: Final = 16


@writes(access.TOKEN_NEW)
async def token_new(node: Node, given: access.NewTokenRequest, _: Ticket) -> access.TokenAnswer:
    """Add a token."""
    if given.name.startswith(SESSION_PREFIX):
        raise UsageError(f"names that begin with {SESSION_PREFIX} belong to logins; choose another name")
    now_s = node.clock_ms() // 1000
    new = Token(
        name=given.name,
        scope=given.scope,
        sha256=given.secret_sha256,
        created_at=now_s,
        expires_at=None if given.ttl_s is None else now_s + given.ttl_s,
        namespaces=given.namespaces,
    )
    tokens = await node.tokens.change(lambda before: with_token(before, new, now_s))
    made = named(tokens, new.name)
    fields = {"token_name": made.name, "scope": made.scope.value, "expires_at": made.expires_at}
    node.reporter.notify("token_created", fields)
    return _answer(tokens, new.name, now_s)


@reads(access.TOKEN_LIST)
async def token_list(node: Node, _: Empty) -> access.TokenList:
    """The tokens."""
    return _list(await node.tokens.read(), node.clock_ms() // 1000)


def stored_tokens(settings: Settings, files: Files) -> access.TokenList:
    """The tokens in a data dir on which no node runs. Raises as ``TokenFile.read``."""
    return _list(TokenFile(files, settings.data_dir).read(), wall_ms() // 1000)


@writes(access.TOKEN_REVOKE)
async def token_revoke(node: Node, given: access.RevokeRequest, _: Ticket) -> access.TokenAnswer:
    """Revoke a token."""
    now_s = node.clock_ms() // 1000
    tokens = await node.tokens.change(lambda before: without_token(before, given.name, now_s))
    node.reporter.notify("token_revoked", {"token_name": given.name})
    return _answer(tokens, given.name, now_s)


@writes(access.WEB_LINK)
async def web_link(node: Node, given: access.LinkRequest, _: Ticket) -> access.Link:
    """Allow one login."""
    until_ms = node.tokens.links.add(given.code_sha256, node.clock_ms())
    node.reporter.notify("web_link_made", {"token_name": _session_name(given.code_sha256)})
    return access.Link(
        url=web_url(node.settings, node.children.health()),
        token_name=_session_name(given.code_sha256),
        expires_at=until_ms // 1000,
    )


@writes(access.WEB_REDEEM)
async def web_redeem(node: Node, given: access.RedeemRequest, _: Ticket) -> access.TokenAnswer:
    """Log in."""
    now_ms = node.clock_ms()
    now_s, name = now_ms // 1000, _session_name(digest_of(given.code))
    if not node.tokens.links.use(given.code, now_ms):
        before = await node.tokens.read()
        if any((each.name, each.sha256) == (name, given.secret_sha256) for each in before):
            return _answer(before, name, now_s)  # a repetition after a crash
        raise RefusedError(
            "the login link is unknown, used or older than a minute; make another one with `crabnet web open`",
            Reason.UNAUTHENTICATED,
        )
    new = Token(
        name=name,
        scope=Scope.ADMIN,
        sha256=given.secret_sha256,
        created_at=now_s,
        expires_at=now_s + node.settings.web_session_s,
    )
    tokens = await node.tokens.change(lambda before: with_session(before, new, now_s))
    node.reporter.notify("web_login", {"token_name": name, "scope": new.scope.value, "expires_at": new.expires_at})
    return _answer(tokens, name, now_s)


@writes(access.REPORT)
async def report(node: Node, given: access.ReportRequest, _: Ticket) -> access.Reported:
    """Make events of what a client reports."""
    for each in given.reports:
        fields: dict[str, FieldValue] = {
            "address": each.address,
            "reason": None if each.reason is None else each.reason.value,
            "count": each.count,
            "target": each.target,
            "event_id": each.event_id,
            "detail": each.detail,
            "failures": each.failures,
        }
        declared = EVENTS[EventKind(each.kind.value)].fields
        node.reporter.notify(each.kind.value, {name: fields[name] for name in fields.keys() & declared})
    return access.Reported(taken=len(given.reports))


def _session_name(code_sha256: str) -> str:
    return SESSION_PREFIX + code_sha256[:_SESSION_NAME_CHARS]


def _list(tokens: Tokens, now_s: int) -> access.TokenList:
    return access.TokenList(tokens=[_info(token, now_s) for token in tokens])


def _answer(tokens: Tokens, name: str, now_s: int) -> access.TokenAnswer:
    return access.TokenAnswer(token=_info(named(tokens, name), now_s))


def _info(token: Token, now_s: int) -> access.TokenInfo:
    return access.TokenInfo(
        name=token.name,
        scope=token.scope,
        state=token.state(now_s),
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        namespaces=token.namespaces,
    )
