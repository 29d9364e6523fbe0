"""What a presented secret may do, and how the list of tokens changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.access.secret import digest_of, make_secret
from crabnet.access.tokens import (
    Grant,
    Token,
    Tokens,
    authenticate,
    pruned,
    with_session,
    with_token,
    without_token,
)
from crabnet.errors import Reason, RefusedError
from crabnet.operations.access import TokenState
from crabnet.operations.model import Scope

NOW_S = 1_800_000_000


def _secret(number: int) -> str:
    return make_secret(lambda size: bytes([number]) * size)


SECRETS = [_secret(number) for number in range(12)]


def token(number: int, **changes: object) -> Token:
    made = Token(name=f"t{number}", scope=Scope.READ, sha256=digest_of(SECRETS[number]), created_at=NOW_S - 100)
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "namespace", "expected"),
    [
        ({}, "default", Scope.READ),
        ({"scope": Scope.ADMIN}, "default", Scope.ADMIN),
        ({"expires_at": NOW_S + 1}, "default", Scope.READ),
        ({"expires_at": NOW_S}, "default", Reason.EXPIRED),
        ({"revoked_at": NOW_S}, "default", Reason.REVOKED),
        ({"revoked_at": NOW_S + 5}, "default", Reason.REVOKED),
        ({"revoked_at": NOW_S - 9, "expires_at": NOW_S - 5}, "default", Reason.REVOKED),
        ({"namespaces": ("default",)}, "default", Scope.READ),
        ({"namespaces": ("a", "default")}, "default", Scope.READ),
        ({"namespaces": ("a",)}, "default", Reason.WRONG_NAMESPACE),
        ({"namespaces": ("default",)}, None, Reason.WRONG_NAMESPACE),
        ({}, None, Scope.READ),
    ],
)
def test_who_is_granted_what(changes: dict[str, object], namespace: str | None, expected: Scope | Reason) -> None:
    tokens = (token(1), token(0, **changes), token(2))
    found = authenticate(tokens, SECRETS[0], NOW_S, namespace)
    if isinstance(expected, Reason):
        assert found is expected
    else:
        assert isinstance(found, Grant)
        assert (found.name, found.scope) == ("t0", expected)


@pytest.mark.parametrize(
    ("presented", "cause"),
    [
        ("", Reason.MALFORMED),
        ("x" * (limits.SECRET_CHARS_MAX + 1), Reason.MALFORMED),
        (SECRETS[0][:-1], Reason.MALFORMED),
        (SECRETS[0] + " ", Reason.MALFORMED),
        (SECRETS[0].lower(), Reason.MALFORMED),
        (SECRETS[3], Reason.UNKNOWN_TOKEN),
        (digest_of(SECRETS[0]), Reason.UNKNOWN_TOKEN),
        ("t0", Reason.UNKNOWN_TOKEN),
        ("\ud800", Reason.UNKNOWN_TOKEN),
    ],
)
def test_what_is_no_secret(presented: str, cause: Reason) -> None:
    assert authenticate((token(0),), presented, NOW_S, "default") is cause
    assert authenticate((), presented, NOW_S, "default") is cause


_NAMESPACES = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2).map(tuple)
_TIMES = st.none() | st.integers(NOW_S - 2, NOW_S + 2)


@st.composite
def _lists(draw: st.DrawFn) -> Tokens:
    numbers = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    return tuple(
        token(
            number,
            scope=draw(st.sampled_from(list(Scope))),
            expires_at=draw(_TIMES),
            revoked_at=draw(_TIMES),
            namespaces=draw(_NAMESPACES),
        )
        for number in numbers
    )


@st.composite
def _presented(draw: st.DrawFn) -> str:
    secret = draw(st.sampled_from(SECRETS))
    return draw(
        st.just(secret)
        | st.integers(0, len(secret)).map(lambda end: secret[:end])
        | st.text(max_size=3).map(lambda more: secret + more)
        | st.text(max_size=60)
    )


@given(_lists(), _presented(), st.sampled_from(["a", "b", "c", None]))
def test_only_the_whole_secret_of_a_valid_token_of_this_namespace_is_granted(
    tokens: Tokens, presented: str, namespace: str | None
) -> None:
    allowed = {
        SECRETS[int(each.name[1:])]: each
        for each in tokens
        if each.revoked_at is None
        and (each.expires_at is None or each.expires_at > NOW_S)
        and (not each.namespaces or namespace in each.namespaces)
    }
    found = authenticate(tokens, presented, NOW_S, namespace)
    if presented in allowed:
        wanted = allowed[presented]
        assert isinstance(found, Grant)
        assert (found.name, found.scope, found.expires_at) == (wanted.name, wanted.scope, wanted.expires_at)
    else:
        assert isinstance(found, Reason)


def test_a_token_is_added_once() -> None:
    tokens = with_token((), token(0), NOW_S)
    assert tokens == (token(0),)
    later = token(0, created_at=NOW_S, expires_at=NOW_S + 50)
    assert with_token(tokens, later, NOW_S) == tokens, "the same again changes nothing"


@pytest.mark.parametrize(
    "new",
    [
        token(0, sha256=digest_of(SECRETS[1])),
        token(0, name="other"),
        token(0, scope=Scope.ADMIN),
        token(0, namespaces=("a",)),
    ],
    ids=["another secret", "another name", "another scope", "another namespace"],
)
def test_names_and_secrets_are_used_once(new: Token) -> None:
    with pytest.raises(RefusedError) as caught:
        with_token((token(0),), new, NOW_S)
    assert caught.value.reason is Reason.TOKEN_EXISTS


def test_a_revoked_secret_never_comes_back_but_its_name_may() -> None:
    tokens = without_token((token(0), token(1)), "t0", NOW_S)
    assert [each.state(NOW_S) for each in tokens] == [TokenState.REVOKED, TokenState.VALID]
    assert without_token(tokens, "t0", NOW_S + 9) == tokens, "revoked once"
    with pytest.raises(RefusedError) as caught:
        with_token(tokens, token(0), NOW_S)
    assert caught.value.reason is Reason.TOKEN_EXISTS
    anew = token(0, sha256=digest_of(SECRETS[5]))
    tokens = with_token(tokens, anew, NOW_S)
    assert isinstance(authenticate(tokens, SECRETS[5], NOW_S, "default"), Grant)
    assert isinstance(authenticate(tokens, SECRETS[0], NOW_S, "default"), Reason)


def test_an_unknown_name_cannot_be_revoked() -> None:
    with pytest.raises(RefusedError) as caught:
        without_token((token(0),), "t", NOW_S)
    assert caught.value.reason is Reason.UNKNOWN_TOKEN


def numbered(number: int, **changes: object) -> Token:
    return token(0, **{"name": f"n{number}", "sha256": f"{number:064x}", **changes})


def test_the_number_of_tokens_is_bounded() -> None:
    valid = tuple(numbered(number) for number in range(limits.TOKENS_MAX))
    with pytest.raises(RefusedError) as caught:
        with_token(valid, token(0), NOW_S)
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    one_over = without_token(valid, "n7", NOW_S)
    assert with_token(one_over, token(0), NOW_S)[-1] == token(0)


def test_what_is_over_is_kept_for_a_while_and_in_a_bounded_number() -> None:
    many = tuple(numbered(number, revoked_at=NOW_S + number) for number in range(limits.TOKENS_OVER_MAX + 5))
    now_s = NOW_S + len(many)
    kept = pruned((*many, token(0)), now_s)
    assert [each.name for each in kept] == [*(f"n{number}" for number in range(5, len(many))), "t0"]
    later_s = NOW_S + 10 + limits.TOKENS_OVER_S
    assert [each.name for each in pruned(kept, later_s)] == [*(f"n{number}" for number in range(11, len(many))), "t0"]
    expired = token(1, expires_at=NOW_S)
    assert pruned((expired,), NOW_S + limits.TOKENS_OVER_S - 1) == (expired,)
    assert pruned((expired,), NOW_S + limits.TOKENS_OVER_S) == ()


def test_logins_beyond_the_limit_end_the_oldest_login_and_no_token() -> None:
    tokens: Tokens = (token(0),)
    for number in range(limits.WEB_SESSIONS_MAX + 2):
        tokens = with_session(tokens, numbered(number, name=f"browser-{number}"), NOW_S)
    states = {each.name: each.state(NOW_S) for each in tokens}
    assert [name for name, state in states.items() if state is TokenState.REVOKED] == ["browser-0", "browser-1"]
    assert states["t0"] is TokenState.VALID
