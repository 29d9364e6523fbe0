"""The operations on tokens, login links and reports: each change once, links good once and for a minute."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import pytest

import crabnet
from crabnet import limits
from crabnet.access.file import TOKENS_FILE, TokenFile
from crabnet.access.secret import digest_of, make_secret
from crabnet.access.tokens import Grant, authenticate
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError, StorageFailedError, UsageError
from crabnet.monitor.reader import read_events
from crabnet.node.node import Node
from crabnet.operations.access import ClientEvent, ClientReport
from crabnet.operations.model import Scope
from crabnet.protocol.canonical import JsonObject
from crabnet.storage.files import Files, RealFiles
from tests.faults.seam import Fault, FaultyFiles, KilledError
from tests.support.asking import asked

SECRET, CODE, SESSION = make_secret(), make_secret(), make_secret()
NEW: JsonObject = {"name": "ci", "scope": "operate", "secret_sha256": digest_of(SECRET), "ttl_s": 100}
START_MS = 1_900_000_000_000


class Clock:
    """A made-up clock."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


def opened(data_dir: Path, clock: Clock | None = None, files: Files | None = None) -> Node:
    settings = crabnet.Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=(), web_session_s=600)
    return Node(settings, listen=False, files=files, clock_ms=clock or Clock())


def granted(data_dir: Path, secret: str, now_s: int = START_MS // 1000) -> Scope | Reason:
    found = authenticate(TokenFile(RealFiles(), data_dir).read(), secret, now_s, "default")
    return found.scope if isinstance(found, Grant) else found


def token_in(answer: JsonObject) -> JsonObject:
    return cast(JsonObject, answer["token"])


async def refused(node: Node, method: str, params: JsonObject) -> Reason:
    with pytest.raises(CrabnetError) as caught:
        await asked(node, method, params)
    return caught.value.reason


async def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        made = token_in(await asked(node, "token.new", NEW))
        assert made == {
            "name": "ci",
            "scope": "operate",
            "state": "valid",
            "created_at": START_MS // 1000,
            "expires_at": START_MS // 1000 + 100,
            "revoked_at": None,
            "namespaces": [],
        }
        assert await asked(node, "token.list", {}) == {"tokens": [made]}
        assert granted(tmp_path, SECRET) is Scope.OPERATE
        assert token_in(await asked(node, "token.revoke", {"name": "ci"}))["state"] == "revoked"
        assert granted(tmp_path, SECRET) is Reason.REVOKED
        assert await refused(node, "token.revoke", {"name": "other"}) is Reason.UNKNOWN_TOKEN
    found = read_events(tmp_path, kinds=("token_created", "token_revoked")).events
    assert [(event.kind, event.payload["token_name"]) for event in found] == [
        ("token_created", "ci"),
        ("token_revoked", "ci"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "browser-1"},
        {"name": "a b"},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "ci\n"},
        {"scope": "root"},
        {"secret_sha256": "a" * 63},
        {"secret_sha256": SECRET},
        {"ttl_s": 0},
        {"ttl_s": limits.TOKEN_TTL_S_MAX + 1},
        {"namespaces": ["x"] * 17},
        {"namespaces": [""]},
        {"secret": SECRET},
    ],
)
async def test_what_no_token_may_be(tmp_path: Path, changes: JsonObject) -> None:
    async with opened(tmp_path) as node:
        assert await refused(node, "token.new", {**NEW, **changes}) is Reason.INVALID_ARGUMENT
        assert await asked(node, "token.list", {}) == {"tokens": []}


async def test_repeated_requests_change_nothing_also_after_a_restart(tmp_path: Path) -> None:
    new: JsonObject = {**NEW, "request_id": "new"}
    revoke: JsonObject = {"name": "ci", "request_id": "revoke"}
    async with opened(tmp_path) as node:
        made = await asked(node, "token.new", new)
        revoked = await asked(node, "token.revoke", revoke)
    async with opened(tmp_path) as node:
        assert await asked(node, "token.new", new) == made
        assert await asked(node, "token.revoke", revoke) == revoked
        assert granted(tmp_path, SECRET) is Reason.REVOKED
        assert await refused(node, "token.new", {**new, "scope": "admin"}) is Reason.REQUEST_CONFLICT
        assert await refused(node, "token.new", NEW) is Reason.TOKEN_EXISTS


@pytest.mark.parametrize("method", ["token.new", "token.revoke"])
@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.HALF_THEN_KILL, Fault.ENOSPC])
@pytest.mark.parametrize("call", ["pwrite", "rename", "fsync_dir"])
async def test_a_change_that_a_crash_interrupts_is_done_by_the_repetition(
    tmp_path: Path, method: str, fault: Fault, call: str
) -> None:
    if fault is Fault.HALF_THEN_KILL and call != "pwrite":
        fault = Fault.KILL_AFTER
    params: JsonObject = NEW if method == "token.new" else {"name": "ci"}
    if method == "token.revoke":
        async with opened(tmp_path) as node:
            await asked(node, "token.new", NEW)
    before = granted(tmp_path, SECRET)
    after = Scope.OPERATE if method == "token.new" else Reason.REVOKED
    files = FaultyFiles()
    try:
        async with opened(tmp_path, files=files) as node:
            files.arm_when(lambda name, path: name == call and _is_of_tokens(name, path, tmp_path), fault)
            with pytest.raises((KilledError, StorageFailedError)):
                await asked(node, method, {**params, "request_id": "r"})
    except (KilledError, BaseExceptionGroup):
        assert files.dead
    files.abandon()
    assert files.injected == 1
    assert granted(tmp_path, SECRET) in (before, after)
    async with opened(tmp_path) as node:
        first = await asked(node, method, {**params, "request_id": "r"})
        assert granted(tmp_path, SECRET) is after
        assert await asked(node, method, {**params, "request_id": "r"}) == first


def _is_of_tokens(name: str, path: Path, data_dir: Path) -> bool:
    return path == data_dir if name == "fsync_dir" else path.name.startswith(TOKENS_FILE)


async def test_a_damaged_file_is_neither_used_nor_replaced_and_the_node_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        await asked(node, "token.new", NEW)
        await asked(node, "web.link", {"code_sha256": digest_of(CODE)})
        path = tmp_path / TOKENS_FILE
        path.write_bytes(path.read_bytes()[:-5])
        damaged = path.read_bytes()
        for method, params in (
            ("token.new", {**NEW, "name": "other", "secret_sha256": "a" * 64}),
            ("token.revoke", {"name": "ci"}),
            ("token.list", {}),
            ("web.redeem", {"code": CODE, "secret_sha256": digest_of(SESSION)}),
        ):
            assert await refused(node, method, cast(JsonObject, params)) is Reason.DATA_DIR_DAMAGED
        assert path.read_bytes() == damaged
        assert (await asked(node, "id", {}))["node_id"] == node.node_id
    with pytest.raises(DataDirDamagedError):
        granted(tmp_path, SECRET)


async def link(node: Node, code: str) -> JsonObject:
    return await asked(node, "web.link", {"code_sha256": digest_of(code)})


async def redeem(node: Node, code: str, session: str, **more: str) -> JsonObject:
    return await asked(node, "web.redeem", {"code": code, "secret_sha256": digest_of(session), **more})


async def test_a_link_logs_in_once(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as node:
        answer = await link(node, CODE)
        assert answer["url"] is None, "this node serves no web page"
        assert CODE not in str(answer)
        clock.now_ms += limits.WEB_LINK_MS - 1
        session = token_in(await redeem(node, CODE, SESSION))
        assert session["name"] == answer["token_name"]
        assert (session["scope"], session["state"]) == ("admin", "valid")
        assert session["expires_at"] == clock.now_ms // 1000 + 600
        assert granted(tmp_path, SESSION, clock.now_ms // 1000) is Scope.ADMIN
        assert granted(tmp_path, SESSION, clock.now_ms // 1000 + 600) is Reason.EXPIRED
        with pytest.raises(RefusedError) as caught:
            await redeem(node, CODE, make_secret())
        assert caught.value.reason is Reason.UNAUTHENTICATED
        assert CODE not in caught.value.message
        await asked(node, "token.revoke", {"name": session["name"]})
        assert granted(tmp_path, SESSION, clock.now_ms // 1000) is Reason.REVOKED
        await link(node, CODE)
        assert await refused(node, "web.redeem", {"code": CODE, "secret_sha256": digest_of(SESSION)}) is (
            Reason.TOKEN_EXISTS
        ), "a session that was ended does not come back"


async def test_a_link_is_good_for_a_minute_and_forgotten_at_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as node:
        await link(node, CODE)
        clock.now_ms += limits.WEB_LINK_MS
        late: JsonObject = {"code": CODE, "secret_sha256": digest_of(SESSION)}
        assert await refused(node, "web.redeem", late) is Reason.UNAUTHENTICATED
        clock.now_ms -= limits.WEB_LINK_MS
        assert await refused(node, "web.redeem", late) is Reason.UNAUTHENTICATED, "it was used up by the late attempt"
        assert await refused(node, "web.redeem", {**late, "code": make_secret()}) is Reason.UNAUTHENTICATED
        await link(node, CODE)
    async with opened(tmp_path, clock) as node:
        assert await refused(node, "web.redeem", late) is Reason.UNAUTHENTICATED
        assert await asked(node, "token.list", {}) == {"tokens": []}


async def test_a_repeated_login_gets_the_first_answer_also_after_a_crash(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as node:
        await link(node, CODE)
        first = await redeem(node, CODE, SESSION, request_id="r")
        assert await redeem(node, CODE, SESSION, request_id="r") == first
        assert await redeem(node, CODE, SESSION, request_id="other") == first, "the same session"
    async with opened(tmp_path, clock) as node:
        assert await redeem(node, CODE, SESSION) == first


async def test_reports_become_events_of_fixed_kinds(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        reports = [
            {"kind": "web_auth_failed", "address": "192.0.2.1", "reason": "unknown_token", "count": 3},
            *({"kind": kind.value} for kind in ClientEvent),
        ]
        answer = await asked(node, "client.report", cast(JsonObject, {"reports": reports}))
        assert answer == {"taken": 1 + len(ClientEvent)}
        assert node.reporter.counters["web_auth_failed.unknown_token"] == 3
    events = read_events(tmp_path, kinds=tuple(kind.value for kind in ClientEvent)).events
    assert [event.kind for event in events] == ["web_auth_failed", *(kind.value for kind in ClientEvent)]
    assert events[0].payload == {"address": "192.0.2.1", "reason": "unknown_token", "count": 3}
    assert {event.source for event in events} == {"web", "alerts"}


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [{"kind": "node_stopped"}],
        [{"kind": "envelope_accepted"}],
        [{"kind": "web_auth_failed", "reason": "because I say so"}],
        [{"kind": "web_auth_failed", "address": "x" * 65}],
        [{"kind": "web_auth_failed", "count": 0}],
        [{"kind": "web_auth_failed", "count": limits.REPORT_COUNT_MAX + 1}],
        [{"kind": "web_auth_failed", "title": "text"}],
        [{"kind": "web_auth_failed"}] * (limits.REPORTS_MAX + 1),
    ],
)
async def test_what_cannot_be_reported(tmp_path: Path, reports: list[JsonObject]) -> None:
    async with opened(tmp_path) as node:
        with pytest.raises(UsageError):
            await asked(node, "client.report", cast(JsonObject, {"reports": reports}))
        assert not any(kind.startswith("web_") for kind in node.reporter.counters)


async def test_reports_in_any_number_are_counted_and_sampled(tmp_path: Path) -> None:
    settings = crabnet.Settings(
        data_dir=tmp_path, listen_addr="127.0.0.1:0", announce_addrs=(), events_per_reason_per_sec=5
    )
    async with Node(settings, listen=False, clock_ms=Clock()) as node:
        many: JsonObject = {"reports": [{"kind": "web_auth_failed", "reason": "unknown_token"}] * limits.REPORTS_MAX}
        for _ in range(3):
            await asked(node, "client.report", many)
        assert node.reporter.counters["web_auth_failed.unknown_token"] == 3 * limits.REPORTS_MAX
    assert len(read_events(tmp_path, kinds=("web_auth_failed",)).events) == 5


def test_every_kind_that_a_client_reports_is_a_kind_of_event() -> None:
    from crabnet.monitor.registry import EVENTS, EventKind

    for kind in ClientEvent:
        declared = EVENTS[EventKind(kind.value)].fields
        assert declared <= {field.name for field in msgspec.structs.fields(ClientReport)}
    assert msgspec.json.decode(b'"web_login"') not in set(ClientEvent), "what the node itself says"
