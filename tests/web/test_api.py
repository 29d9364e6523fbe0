"""The HTTP API of a real node: the table of operations, rights, refusals, and what each answer carries."""

from __future__ import annotations

import re
import stat
from typing import Any

import msgspec
import pytest

from crabnet.errors import Reason
from crabnet.operations.model import Operation, Scope
from crabnet.operations.openapi import openapi
from crabnet.operations.problems import STATUS, Problem
from crabnet.operations.table import OPERATIONS
from tests.support.nodes import Json, Nodes, wait_for
from tests.web.support import Web, start, web_words

EACH = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
PLAIN = [each for each in OPERATIONS if each.route.method == "GET" and not each.streams and "{" not in each.route.path]


def path_of(operation: Operation[Any, Any], value: str = "nothing") -> str:
    return "/api/v1" + re.sub(r"{\w+}", value, operation.route.path)


# --- the table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", PLAIN, ids=lambda each: each.name)
def test_an_operation_answers_the_same_over_http_and_the_control_socket(
    web: Web, operation: Operation[Any, Any]
) -> None:
    over_http = web.ask("GET", path_of(operation))
    assert over_http.status == 200
    assert over_http.headers["content-type"] == "application/json"
    ours = msgspec.json.decode(over_http.body, type=operation.response)
    theirs = msgspec.convert(web.node.ask(operation.name), type=operation.response)
    assert type(ours) is type(theirs)
    assert msgspec.to_builtins(ours).keys() == msgspec.to_builtins(theirs).keys()


@EACH
def test_every_door_offers_each_operation_with_the_same_types(web: Web, operation: Operation[Any, Any]) -> None:
    described = openapi()["paths"]["/api/v1" + operation.route.path][operation.route.method.lower()]
    assert described["operationId"] == operation.name
    assert described["x-crabnet-scope"] == operation.scope.value
    schemas = openapi()["components"]["schemas"]
    if operation.streams:
        assert described["x-crabnet-item"] == {"$ref": f"#/components/schemas/{operation.response.__name__}"}
    else:
        content = described["responses"]["200"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{operation.response.__name__}"}
    assert set(schemas[operation.response.__name__]["properties"]) == set(operation.response.__struct_encode_fields__)
    named = {each["name"] for each in described["parameters"] if each["in"] != "header"}
    if "requestBody" in described:
        named |= set(described["requestBody"]["content"]["application/json"]["schema"]["properties"])
    assert named == set(operation.request.__struct_encode_fields__)
    statuses = {STATUS[reason] for reason in operation.all_reasons}
    assert statuses <= {int(status) for status in described["responses"]}
    # The path exists, with this method, for those who may use it.
    other = web.ask("OPTIONS", path_of(operation))
    assert other.status == 204
    assert operation.route.method in other.headers["allow"]


@EACH
@pytest.mark.parametrize("scope", [None, *Scope], ids=lambda each: "none" if each is None else each.value)
def test_nobody_does_what_needs_another_right(web: Web, operation: Operation[Any, Any], scope: Scope | None) -> None:
    if operation.proves_itself or (scope is not None and scope.includes(operation.scope)):
        return
    answer = web.ask(operation.route.method, path_of(operation), scope=scope)
    expected = (401, "unauthenticated") if scope is None else (403, "forbidden")
    assert (answer.status, answer.reason) == expected
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_the_document_is_served(web: Web) -> None:
    answer = web.ask("GET", "/api/v1/openapi.json", scope=Scope.READ)
    assert answer.json == msgspec.json.decode(msgspec.json.encode(openapi()))
    assert web.ask("GET", "/api/v1/openapi.json", scope=None).status == 401


@pytest.mark.parametrize("path", ["overview", "events?limit=2&kind=node_started&source=node", "seeds", "openapi.json"])
def test_paths_of_the_baseline_are_aliases(web: Web, path: str) -> None:
    new, old = web.ask("GET", f"/api/v1/{path}"), web.ask("GET", f"/api/{path}")
    assert old.status == 200
    assert old.json.keys() == new.json.keys()


# --- who may come in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_health_is_public_and_says_little(web: Web, path: str) -> None:
    answer = web.ask("GET", path, scope=None)
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["content-type"].startswith("text/plain")


def test_with_no_token_configured_all_of_the_api_is_closed(nodes: Nodes) -> None:
    web = start(nodes)
    for path in (
        "/api/overview",
        "/api/v1/seeds",
        "/api/v1/nothing",
        "/api/v1/openapi.json",
        "/metrics",
        "/api/events",
    ):
        assert web.ask("GET", path, scope=None).reason == "unauthenticated"
        assert web.ask("GET", path, scope=None, Authorization="Bearer wrong").reason == "unauthenticated"


def test_the_token_of_the_environment_reads(nodes: Nodes) -> None:
    from tests.support.nodes import environment

    web = start(nodes, env=environment(CRABNET_WEB_API_TOKEN="let-me-in-please-I-am-the-monitor"))
    secret = "let-me-in-please-I-am-the-monitor"
    assert web.ask("GET", "/api/overview", scope=None, Authorization=f"Bearer {secret}").status == 200
    assert web.ask("GET", "/api/overview", scope=None, X_Api_Token=secret).status == 200
    assert web.ask("POST", "/api/seeds", {}, scope=None, X_Api_Token=secret).reason == "forbidden"


def test_without_required_tokens_everybody_reads_and_nobody_writes(nodes: Nodes) -> None:
    web = start(nodes, "n", "--no-web-api-auth-required")
    assert web.ask("GET", "/api/overview", scope=None).status == 200
    assert web.ask("POST", "/api/seeds", {}, scope=None).reason == "forbidden"
    assert "WARNING" in web.node.errors()


def test_the_unix_socket_needs_no_token_and_is_for_this_user_only(web: Web) -> None:
    assert stat.S_IMODE((web.node.data_dir / "web.sock").stat().st_mode) == 0o600
    assert web.local("GET", "/api/v1/tokens").status == 200
    assert web.local("POST", "/api/v1/seeds", {"title": "t", "command": "true"}).status == 200


def test_failed_attempts_are_slowed_down_and_are_events(nodes: Nodes) -> None:
    web = start(nodes)
    answers = [web.ask("GET", "/api/overview", scope=None, Authorization=f"Bearer guess{n}") for n in range(12)]
    assert answers[0].status == 401
    assert answers[-1].reason == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert web.ask("GET", "/api/overview").status == 200, "a real token is let in all the same"
    web.node.await_event("web_auth_failed", address="127.0.0.1")


def test_too_many_requests_are_told_when_to_come_again(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-requests-per-sec", "1")
    answers = [web.ask("GET", "/api/overview", scope=Scope.READ) for _ in range(15)]
    assert {answer.status for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.reason == "rate_limited"
    assert int(refused.headers["retry-after"]) >= 1
    assert web.ask("GET", "/api/overview", scope=Scope.ADMIN).status == 200, "each token has its own budget"


def test_a_revoked_token_opens_nothing(web: Web) -> None:
    secret = web.token(Scope.OPERATE)
    del web.secrets[Scope.OPERATE]
    assert web.ask("GET", "/api/overview", scope=None, Authorization=f"Bearer {secret}").status == 200
    assert web.ask("POST", "/api/v1/tokens/test-operate/revocation").status == 200
    assert web.ask("GET", "/api/overview", scope=None, Authorization=f"Bearer {secret}").status == 401


def test_a_link_logs_in_once(web: Web) -> None:
    from crabnet.access.secret import digest_of, make_secret

    code, secret = make_secret(), make_secret()
    link = web.node.ask("web.link", code_sha256=digest_of(code))
    assert link["url"] == f"http://127.0.0.1:{web.port}"
    login: Json = {"code": code, "secret_sha256": digest_of(secret)}
    assert web.ask("POST", "/api/v1/web/logins", login, scope=None).status == 200
    assert web.ask("GET", "/api/overview", scope=None, Authorization=f"Bearer {secret}").status == 200
    again: Json = {"code": code, "secret_sha256": digest_of(make_secret())}
    assert web.ask("POST", "/api/v1/web/logins", again, scope=None).reason == "unauthenticated"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:3000", "1.2.3.4", "a@b", ""])
def test_names_that_this_server_does_not_have_are_refused(web: Web, host: str) -> None:
    answer = web.ask("GET", "/health", scope=None, Host=host)
    assert (answer.status, answer.reason) == (421, "host_refused")


def test_names_that_are_allowed(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-allowed-hosts", "node.example")
    for host in ("node.example", "NODE.example:80", "localhost", f"127.0.0.1:{web.port}", "127.0.0.1"):
        assert web.ask("GET", "/health", scope=None, Host=host).status == 200


def test_pages_of_other_servers_are_refused_and_no_answer_lets_them_read(web: Web) -> None:
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{web.port}", f"http://127.0.0.1:{web.port}.x"):
        answer = web.ask("GET", "/api/overview", Origin=origin)
        assert (answer.status, answer.reason) == (403, "origin_refused")
    own = web.ask("GET", "/api/overview", Origin=f"http://127.0.0.1:{web.port}")
    assert own.status == 200
    assert not [name for name in own.headers if name.startswith("access-control") or name == "set-cookie"]


@pytest.mark.parametrize("path", ["/health", "/api/overview", "/nothing", "/api/v1/seeds?x=1"])
def test_every_answer_has_the_security_headers(web: Web, path: str) -> None:
    headers = web.ask("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "server" not in headers
    assert "no-" in headers["cache-control"]


# --- refusals ----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, str, Any, dict[str, str], int, str]] = [
    ("GET", "/nothing", None, {}, 404, "not_found"),
    ("GET", "/api/v1/nothing", None, {}, 404, "not_found"),
    ("GET", "/api", None, {}, 404, "not_found"),
    ("DELETE", "/api/v1/seeds", None, {}, 405, "method_not_allowed"),
    ("PUT", "/health", None, {}, 405, "method_not_allowed"),
    ("TRACE", "/api/v1/seeds", None, {}, 405, "method_not_allowed"),
    ("GET", "/api/v1/seeds?limit=x", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?limit=0", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?limit=1.5", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/feeds?behind=null", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?biddable=NULL", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?limit=1&limit=2", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?status=open", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?biddable=perhaps", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?biddable=null", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?unknown=1", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds?limit", None, {}, 400, "malformed"),
    ("GET", "/api/v1/seeds?after=%ff", None, {}, 400, "malformed"),
    ("GET", "/api/v1/seeds?" + "&".join(f"a{n}=1" for n in range(100)), None, {}, 400, "malformed"),
    ("GET", "/api/v1/events?after=-1", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/events?kind=nothing", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/events?since=yesterday", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/events?limit=100000000", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/events/stream?after=x", None, {}, 400, "invalid_argument"),
    ("GET", "/api/v1/events/stream", None, {"Last-Event-ID": "x"}, 400, "invalid_argument"),
    ("GET", "/api/v1/seeds/nothing", None, {}, 404, "unknown_seed"),
    ("GET", "/api/v1/seeds/nothing/watch", None, {}, 404, "unknown_seed"),
    ("GET", "/api/v1/seeds/x?seed_id=y", None, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", b"", {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", {}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "true", "more": 1}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", {"title": 1, "command": "true"}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "echo '"}, {}, 409, "unworkable"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "true", "timeout_ms": 0}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds?title=t", {"command": "true"}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", b"{", {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b"[]", {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b'{"a":1,"a":2}', {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b'{"a":1.5}', {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b"\xff", {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b'{"a":' * 5000, {"Content-Type": "application/json"}, 400, "malformed"),
    ("POST", "/api/v1/seeds", b"title=t", {"Content-Type": "application/x-www-form-urlencoded"}, 415,
     "unsupported_media_type"),
    ("POST", "/api/v1/seeds", b"{}", {}, 415, "unsupported_media_type"),
    ("POST", "/api/v1/seeds", b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415,
     "unsupported_media_type"),
    ("POST", "/api/v1/seeds", b" " * 2_100_000, {"Content-Type": "application/json"}, 413, "too_large"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "true"}, {"Idempotency-Key": "a b"}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "true", "request_id": "a"}, {"Idempotency-Key": "b"}, 409,
     "request_conflict"),
    ("POST", "/api/v1/seeds", {"title": "t", "command": "true", "request_id": {}}, {"Idempotency-Key": "b"}, 409,
     "request_conflict"),
    ("POST", "/api/v1/seeds/x/bids", {"price": 1, "seed_id": "y"}, {}, 400, "invalid_argument"),
    ("POST", "/api/v1/seeds/x/bids", {"price": 1}, {}, 404, "unknown_seed"),
    ("POST", "/api/v1/state/import", {"envelopes": ["?"]}, {}, 400, "invalid_argument"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "reason"), BAD)
def test_every_refusal_is_a_problem_document(
    web: Web, method: str, path: str, body: Any, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = web.ask(method, path, body, scope=Scope.ADMIN, **headers)
    assert (answer.status, answer.reason) == (status, reason)
    problem = msgspec.json.decode(answer.body, type=Problem)
    assert problem.detail
    assert answer.headers["cache-control"] == "no-store"
    if status == 405:
        assert answer.headers["allow"]


def test_each_reason_has_one_status() -> None:
    assert set(STATUS) == set(Reason)


def test_a_node_that_is_away_is_a_problem_and_the_web_process_goes_on(nodes: Nodes) -> None:
    node = nodes.start("n", [])
    web = nodes.make("n")  # the same data dir: the web process by hand
    import subprocess

    from tests.support.nodes import CRABNET, environment

    process = subprocess.Popen(
        [*CRABNET, "web", "--data-dir", str(node.data_dir), "--web-addr", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"web started on http://127\.0\.0\.1:(\d+)\n", line)
        assert match is not None, line
        client = Web(node)
        client.host, client.port = "127.0.0.1", int(match[1])
        assert client.ask("GET", "/api/overview").status == 200
        node.kill()
        for path in ("/api/overview", "/livez", "/readyz", "/health"):
            refused = wait_for("it is noticed", lambda path=path: _refused(client, path))  # type: ignore[misc]
            assert refused == "node_unreachable"
        node.start()
        wait_for("it works again", lambda: client.ask("GET", "/readyz", scope=None).status == 200)
        assert client.ask("GET", "/api/overview").status == 200
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode == 0
    assert web.process is None


def _refused(client: Web, path: str) -> str:
    answer = client.ask("GET", path)
    return answer.reason if answer.status == 503 and answer.headers["retry-after"] else ""


# --- writing -----------------------------------------------------------------------------------------------------


def test_a_key_makes_a_request_once_through_every_door(web: Web) -> None:
    body: Json = {"title": "once", "command": "true", "announce": False}
    first = web.ask("POST", "/api/v1/seeds", body, scope=Scope.OPERATE, Idempotency_Key="key-1")
    quoted = web.ask("POST", "/api/seeds", body, scope=Scope.OPERATE, Idempotency_Key='"key-1"')
    over_socket = web.local("POST", "/api/v1/seeds", {**body, "request_id": "key-1"})
    control = web.node.ask("seed.publish", **body, request_id="key-1")
    assert first.status == quoted.status == over_socket.status == 200
    assert first.json == quoted.json == over_socket.json == control
    other = web.ask("POST", "/api/v1/seeds", {**body, "title": "twice"}, Idempotency_Key="key-1")
    assert (other.status, other.reason) == (409, "request_conflict")


def test_whole_numbers_may_have_a_fraction_of_zero(web: Web) -> None:
    body = b'{"title":"t","command":"true","reward":5.0}'
    answer = web.ask("POST", "/api/v1/seeds", body, Content_Type="application/json")
    assert answer.status == 200


def test_a_whole_job_over_http(nodes: Nodes) -> None:
    publisher, worker = start(nodes, "publisher"), nodes.make("worker")
    worker.peers = (publisher.node.listen,)
    worker.words = tuple(web_words(worker.data_dir))
    worker.start()
    there = Web(worker).await_it()
    published = publisher.ask("POST", "/api/v1/seeds", {"title": "t", "command": "echo hi"}, scope=Scope.OPERATE)
    seed: Any = published.json["seed"]
    path = f"/api/v1/seeds/{seed['id']}"
    wait_for("the task comes", lambda: there.ask("GET", path).status == 200)
    assert there.ask("POST", f"{path}/bids", {"price": 3}, scope=Scope.OPERATE).status == 200
    bids: Any = wait_for("the bid comes", lambda: publisher.ask("GET", path).json["bids"])
    assert publisher.ask("POST", f"{path}/claims", {"bid_id": bids[0]["id"]}, scope=Scope.OPERATE).status == 200
    wait_for("the claim comes", lambda: worker.status(seed["id"]) == "Claimed")
    run: Any = there.ask("POST", f"{path}/runs", {}, scope=Scope.OPERATE).json["result"]
    assert run["stdout"] == "hi\n"
    wait_for("the result comes", lambda: publisher.node.status(seed["id"]) == "Done")
    done: Any = publisher.ask("POST", f"{path}/settlements", {"outcome": "Accepted"}, scope=Scope.OPERATE).json["seed"]
    assert done["status"] == "Accepted"


# --- what helps clients ------------------------------------------------------------------------------------------


def test_an_answer_that_has_not_changed_is_not_sent_again(web: Web) -> None:
    first = web.ask("GET", "/api/v1/identity")
    again = web.ask("GET", "/api/v1/identity", If_None_Match=f'"other", {first.headers["etag"]}')
    assert (again.status, again.body) == (304, b"")
    assert web.ask("GET", "/api/v1/identity", If_None_Match='"other"').body == first.body


@pytest.mark.parametrize("path", ["/health", "/api/v1/identity", "/api/v1/openapi.json", "/api/v1/events/stream", "/x"])
def test_head_is_get_without_a_body(web: Web, path: str) -> None:
    head = web.ask("HEAD", path)
    assert head.body == b""
    if "stream" not in path:
        get = web.ask("GET", path)
        assert head.status == get.status
        assert head.headers.keys() == get.headers.keys()


def test_reads_at_the_same_time_see_all_earlier_writes(web: Web) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def publish_and_look(number: int) -> bool:
        made: Any = web.local("POST", "/api/v1/seeds", {"title": str(number), "command": "true"}).json["seed"]
        listed: Any = web.ask("GET", "/api/v1/seeds?limit=1000").json["seeds"]
        return made["id"] in {each["id"] for each in listed}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(publish_and_look, range(40)))


def test_metrics_have_a_scope_and_may_have_an_address(nodes: Nodes) -> None:
    web = start(nodes, "n")
    assert web.ask("GET", "/metrics", scope=None).status == 401
    shown = web.ask("GET", "/metrics", scope=Scope.METRICS)
    assert shown.status == 200
    assert b"crabnet_api_request_seconds" in shown.body
    assert web.ask("GET", "/api/v1/overview", scope=Scope.METRICS).status == 403
    apart = start(nodes, "m", "--metrics-addr", "127.0.0.1:0")
    assert apart.ask("GET", "/metrics", scope=Scope.METRICS).reason == "not_found"
    child: Any = apart.child()
    apart.port = int(child["addresses"][1].rpartition(":")[2])
    assert apart.ask("GET", "/metrics", scope=Scope.METRICS).status == 200
    assert apart.ask("GET", "/api/v1/overview").reason == "not_found"
    assert apart.ask("GET", "/health", scope=None).status == 200
    alone = start(nodes, "o", "--web-addr", "off", "--metrics-addr", "127.0.0.1:0")
    assert alone.ask("GET", "/metrics", scope=Scope.METRICS).status == 200
    assert alone.ask("GET", "/api/v1/overview").reason == "not_found"
