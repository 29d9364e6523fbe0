"""The files of the page as they are served, and what they must not contain."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from crabnet.web.page import STATIC, page_files
from tests.web.support import Web

FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|createContextualFragment"
    r"|srcdoc|setHTML|localStorage|document\.cookie|https?://(?!www\.w3\.org/2000/svg)"
)
IMPORT = re.compile(r'^import .*? from "([^"]+)";$', re.MULTILINE)


def test_the_page_is_public_and_holds_nothing_of_the_node(web: Web) -> None:
    answer = web.ask("GET", "/", scope=None)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "set-cookie" not in answer.headers
    assert web.node.node_id.encode() not in answer.body
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy["script-src"], policy["style-src"], policy["connect-src"], policy["img-src"]} == {"'self'"}
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert policy["frame-ancestors"] == "'none'"


def test_all_files_can_be_kept_for_ever(web: Web) -> None:
    for path in page_files():
        answer = web.ask("GET", path, scope=None)
        assert answer.status == 200, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path != "/":
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = web.ask("GET", path, scope=None, If_None_Match=answer.headers["etag"])
        assert (again.status, again.body) == (304, b""), path
        assert web.ask("HEAD", path, scope=None).headers["content-length"] == str(len(answer.body))
        assert web.ask("POST", path, scope=None).reason == "method_not_allowed"


def test_a_changed_file_changes_the_paths_of_all(tmp_path: Path) -> None:
    before = set(page_files())
    copied = shutil.copytree(STATIC, tmp_path / "static")
    assert set(page_files(copied)) == before
    with (copied / "text.js").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert set(page_files(copied)) & before == {"/"}
    assert page_files(copied)["/"].content.etag != page_files()["/"].content.etag
    assert {path.rsplit(".", 1)[-1] for path in before} == {"/", "css", "js", "svg"}
    assert len({path.split("/")[2] for path in before - {"/"}}) == 1


@pytest.mark.parametrize("path", ["/static/x/main.js", "/static/../app.py", "/static/%2e%2e/app.py", "/index.html"])
def test_nothing_else_is_served(web: Web, path: str) -> None:
    assert web.ask("GET", path, scope=None).reason == "not_found"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STATIC)))
def test_files_are_small_plain_and_need_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert FORBIDDEN.findall(text) == []
    if str(path).endswith(".html"):
        assert re.findall(r"<(style|script)(?![^>]* src=)|\s(on\w+|style)=", text) == []


def test_modules_import_only_modules_that_are_served() -> None:
    modules = {path for path in FILES if path.suffix == ".js"}
    reached, waiting = set(), {STATIC / "main.js"}
    while waiting:
        path = waiting.pop()
        reached.add(path)
        text = path.read_text(encoding="utf-8")
        assert text.count("import(") == text.count('import("')
        waiting |= {(path.parent / name).resolve() for name in IMPORT.findall(text)} - reached
    assert reached == modules


def test_the_session_says_what_a_token_allows(web: Web) -> None:
    for scope in web.secrets:
        assert web.ask("GET", "/api/v1/session", scope=scope).json["scope"] == scope.value
    answer = web.ask("GET", "/api/v1/session")
    assert answer.json["scope"] == "admin"
    assert web.ask("GET", "/api/v1/session", scope=None).reason == "unauthenticated"
    assert web.local("GET", "/api/v1/session").json["name"] == "(unix socket)"
