"""One value of a TOML file changes, and nothing else."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import UsageError
from crabnet.settings.toml_edit import Value, has_key, with_value

FILE = """\
# my node
alias = "a"   # the name
#listen_addr = "0.0.0.0:9012"

bootstrap_peers = [
    "a:1",  # the first
    "b:2",
]
text = '''
alias = "not this one"
[work]
'''

# for others
[work]
# price = 0
allow = ["echo"] # few
"""


@pytest.mark.parametrize(
    ("table", "key", "value", "before", "after"),
    [
        ("", "alias", "b", 'alias = "a"   # the name', 'alias = "b"  # the name'),
        ("", "alias", 'a "#" b', 'alias = "a"   # the name', 'alias = "a \\"#\\" b"  # the name'),
        (
            "", "bootstrap_peers", ["c:3"], 'bootstrap_peers = [\n    "a:1",  # the first\n    "b:2",\n]',
            'bootstrap_peers = ["c:3"]',
        ),
        (
            "", "listen_addr", "h:1", '#listen_addr = "0.0.0.0:9012"\n',
            '#listen_addr = "0.0.0.0:9012"\nlisten_addr = "h:1"\n',
        ),
        ("work", "price", 5, "# price = 0\n", "# price = 0\nprice = 5\n"),
        ("work", "allow", ["a", "b"], 'allow = ["echo"] # few', 'allow = ["a", "b"]  # few'),
        ("work", "min_settled", 0.9, '# few\n', '# few\nmin_settled = 0.9\n'),
        ("", "log_level", "debug", "[work]\n'''\n", "[work]\n'''\nlog_level = \"debug\"\n"),
        ("other", "x", True, '# few\n', '# few\n\n[other]\nx = true\n'),
    ],
)  # fmt: skip
def test_one_value_changes(table: str, key: str, value: Value, before: str, after: str) -> None:
    changed = with_value(FILE, table, key, value)
    assert FILE.count(before) == 1
    assert changed == FILE.replace(before, after)
    assert has_key(changed, table, key)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", 'alias = "x"\n'),
        ("# nothing", '# nothing\nalias = "x"\n'),
        ("a = 1", 'a = 1\nalias = "x"\n'),
        ("a = 1\r\n", 'a = 1\r\nalias = "x"\r\n'),
        ("[work]\nprice = 1\n", 'alias = "x"\n[work]\nprice = 1\n'),
        ('"alias" = "y"\n', 'alias = "x"\n'),
        ("alias = 'y'", 'alias = "x"\n'),
    ],
)
def test_short_files(text: str, after: str) -> None:
    changed = with_value(text, "", "alias", "x")
    assert tomllib.loads(changed)["alias"] == "x"
    if not text.startswith("# nothing") and "[work]" not in text:
        assert changed == after


@pytest.mark.parametrize(
    ("text", "table", "key"),
    [("work = {price = 1, allow = []}\n", "work", "price"), ("[[work]]\nprice = 1\n", "work", "price")],
)
def test_what_cannot_be_changed_line_by_line_is_left_to_the_operator(text: str, table: str, key: str) -> None:
    with pytest.raises(UsageError, match="by hand"):
        with_value(text, table, key, 5)


def test_dotted_keys_stay_dotted() -> None:
    assert with_value("work.price = 1\n", "work", "price", 2) == "work.price = 2\n"


@given(
    st.lists(st.sampled_from(FILE.splitlines(keepends=True)), max_size=12),
    st.sampled_from(["", "work"]),
    st.sampled_from(["alias", "price", "allow", "log_level"]),
    st.text(max_size=10) | st.integers(-9, 9) | st.booleans() | st.lists(st.text(max_size=4), max_size=3),
)
def test_every_other_value_stays(lines: list[str], table: str, key: str, value: Value) -> None:
    text = "".join(lines)
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    try:
        after = tomllib.loads(with_value(text, table, key, value))
    except UsageError:
        return
    inner = after[table] if table else after
    assert inner.pop(key) == value
    had = before.setdefault(table, {}) if table else before
    had.pop(key, None)
    assert after == before
