"""What callers of the HTTP door may do, by the file of tokens, the settings and their failed attempts."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.access.gate import ANYBODY, STATIC, Gate, Rules, Verdict, presented_secret
from crabnet.access.secret import digest_of, make_secret
from crabnet.access.tokens import Token, Tokens
from crabnet.errors import DataDirDamagedError, Reason
from crabnet.operations.model import Scope

NOW_S = 1_800_000_000
SECRET, OTHER, WEAK = make_secret(), make_secret(), "weak"
HERE = "192.0.2.1"
TOKEN = Token(name="t", scope=Scope.OPERATE, sha256=digest_of(SECRET), created_at=NOW_S)


class File:
    """The tokens as they are now."""

    def __init__(self, *tokens: Token) -> None:
        self.content: Tokens | DataDirDamagedError = tokens

    def read(self) -> Tokens:
        if isinstance(self.content, DataDirDamagedError):
            raise self.content
        return self.content


def check(gate: Gate, presented: str | None, now_ms: int = 0, address: str = HERE) -> Verdict:
    return gate.check(presented, address, "default", NOW_S, now_ms)


def test_without_any_token_everything_is_closed() -> None:
    gate = Gate(File().read, Rules())
    assert check(gate, None) == Verdict(None)
    assert check(gate, SECRET) == Verdict(None, Reason.UNKNOWN_TOKEN)
    assert check(gate, "") == Verdict(None, Reason.MALFORMED)


def test_tokens_of_the_file_and_of_the_settings() -> None:
    gate = Gate(File(TOKEN).read, Rules(static_token=WEAK))
    found = check(gate, SECRET)
    assert found.grant is not None
    assert (found.grant.name, found.grant.scope, found.failure) == ("t", Scope.OPERATE, None)
    assert check(gate, WEAK) == Verdict(STATIC)
    assert STATIC.scope is Scope.READ
    assert check(gate, "weal").grant is None
    assert check(gate, None) == Verdict(None)


def test_without_required_authentication_everybody_reads_and_tokens_still_count() -> None:
    gate = Gate(File(TOKEN).read, Rules(static_token=WEAK, auth_required=False))
    assert ANYBODY.scope is Scope.READ
    assert check(gate, None) == Verdict(ANYBODY)
    assert check(gate, OTHER) == Verdict(ANYBODY, Reason.UNKNOWN_TOKEN)
    found = check(gate, SECRET)
    assert found.grant is not None
    assert found.grant.scope is Scope.OPERATE


@pytest.mark.parametrize("presented", [SECRET, WEAK, OTHER], ids=["token", "setting", "unknown"])
def test_a_damaged_file_closes_everything(presented: str) -> None:
    file = File(TOKEN)
    gate = Gate(file.read, Rules(static_token=WEAK))
    file.content = DataDirDamagedError("damaged")
    assert check(gate, presented) == Verdict(None, Reason.DATA_DIR_DAMAGED)


def test_who_guesses_must_wait_and_others_need_not() -> None:
    gate = Gate(File(TOKEN).read, Rules(static_token=WEAK))
    for _ in range(limits.ATTEMPTS_FREE + 1):
        assert check(gate, OTHER) == Verdict(None, Reason.UNKNOWN_TOKEN)
    blocked = Verdict(None, Reason.RATE_LIMITED, limits.ATTEMPTS_BLOCK_MS)
    assert check(gate, OTHER) == blocked
    assert check(gate, WEAK) == blocked, "a guess is not judged while the address is blocked"
    assert check(gate, SECRET).grant is not None, "256 bits cannot be guessed"
    assert check(gate, None) == Verdict(None), "without a secret nothing was guessed"
    assert check(gate, WEAK, address="192.0.2.2") == Verdict(STATIC)
    assert check(gate, WEAK, limits.ATTEMPTS_BLOCK_MS) == Verdict(STATIC)


def test_a_wrong_code_counts_like_a_wrong_secret() -> None:
    gate = Gate(File().read, Rules(static_token=WEAK))
    for _ in range(limits.ATTEMPTS_FREE + 1):
        gate.failed(HERE, 0)
    assert gate.blocked_ms(HERE, 0) == limits.ATTEMPTS_BLOCK_MS
    assert check(gate, WEAK).failure is Reason.RATE_LIMITED


def test_a_grant_holds_until_its_token_is_over() -> None:
    file = File(TOKEN)
    gate = Gate(file.read, Rules(static_token=WEAK))
    grant = check(gate, SECRET).grant
    assert grant is not None
    assert gate.holds(grant, NOW_S)
    file.content = (Token(name="t", scope=Scope.ADMIN, sha256=digest_of(OTHER), created_at=NOW_S),)
    assert not gate.holds(grant, NOW_S), "another token of the same name"
    file.content = (Token(name="t", scope=Scope.READ, sha256=digest_of(SECRET), created_at=0, expires_at=NOW_S + 5),)
    assert gate.holds(grant, NOW_S + 4)
    assert not gate.holds(grant, NOW_S + 5)
    file.content = DataDirDamagedError("damaged")
    assert not gate.holds(grant, NOW_S)
    assert gate.holds(STATIC, NOW_S)


@pytest.mark.parametrize(
    ("authorization", "x_api_token", "expected"),
    [
        (None, None, None),
        ("Bearer abc", None, "abc"),
        ("bearer  abc ", None, "abc"),
        ("BEARER abc", "xyz", "abc"),
        (None, " xyz ", "xyz"),
        ("Basic abc", "xyz", "xyz"),
        ("Basic abc", None, None),
        ("Bearer", None, ""),
        ("Bearerabc", None, None),
        ("", "", ""),
    ],
)
def test_where_a_secret_is_given(authorization: str | None, x_api_token: str | None, expected: str | None) -> None:
    assert presented_secret(authorization, x_api_token) == expected
