"""Tables at every width: what is kept, what is cut, and that no line is wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crabnet.cli.seed_list import status_cell
from crabnet.cli.tables import Cell, Column, Style, cut_to, render, short_id, width_of
from crabnet.cli.yaml_text import yaml_document
from crabnet.control.client import JsonValue

COLUMNS = (
    Column("ID", 0),
    Column("STATUS", 1),
    Column("TITLE", 2, least=10),
    Column("PRICE", 3, right=True),
    Column("CREATOR", 6),
)
ROWS = [
    [Cell("4c00978b"), Cell("Open", Style.WAITS), Cell("Say hello"), Cell("10"), Cell("…L1ixWbt")],
    [Cell("95c91fec"), Cell("to settle"), Cell("日本語のとても長い題名です 🎉🎉"), Cell("7"), Cell("you")],
    [Cell("e3479c56"), Cell("Closed"), Cell("a\x1b[31mb\u202ec\nd\u200be"), Cell(""), Cell("…XD28D4ab")],
    [Cell("00000000"), Cell("Done"), Cell("e\u0301te\u0301 ✔️ ok"), Cell("1000000"), Cell("…aaaaaaaa")],
]
GOLDEN = {
    40: """\
ID        STATUS     TITLE         PRICE
4c00978b  Open       Say hello        10
95c91fec  to settle  日本語の…         7
e3479c56  Closed     a\\x1b[31m…
00000000  Done       e\u0301te\u0301 ✔ ok    1000000
""",
    80: """\
ID        STATUS     TITLE                              PRICE  CREATOR
4c00978b  Open       Say hello                             10  …L1ixWbt
95c91fec  to settle  日本語のとても長い題名です 🎉🎉        7  you
e3479c56  Closed     a\\x1b[31mb\\u202ec\\nd\\u200be               …XD28D4ab
00000000  Done       e\u0301te\u0301 ✔ ok                         1000000  …aaaaaaaa
""",
}
GOLDEN[200] = GOLDEN[80]


@pytest.mark.parametrize("width", GOLDEN)
def test_a_table_fits_the_terminal(width: int) -> None:
    table = render(COLUMNS, ROWS, width=width, colour=False)
    assert table == GOLDEN[width]
    assert all(width_of(line) <= width for line in table.splitlines())


@given(st.lists(st.lists(st.text(max_size=40), min_size=5, max_size=5), max_size=4), st.integers(1, 120))
def test_no_line_is_wider_than_the_terminal_or_steers_it(texts: list[list[str]], width: int) -> None:
    rows = [[Cell(text, Style.BAD) for text in row] for row in texts]
    lines = render(COLUMNS, rows, width=width, colour=False).split("\n")
    assert len(lines) == len(rows) + 2
    assert all(width_of(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)
    coloured = render(COLUMNS, rows, width=width, colour=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in plain.split("\n")] == [line.rstrip() for line in lines]


@given(st.text(max_size=30), st.integers(0, 20))
def test_a_cut_text_fits_and_a_short_one_stays(text: str, columns: int) -> None:
    cut = cut_to(text, columns)
    assert width_of(cut) <= columns
    assert cut == text or (width_of(text) > columns and (not cut or cut[-1] == "…"))


def test_short_ids_of_tasks_are_their_beginnings_and_those_of_nodes_their_ends() -> None:
    assert short_id("4c00978b-cd09-5cf7-8515-2b692cfde7c5") == "4c00978b"
    assert short_id("12D3KooWHShkV1meAbSYDs6WMPGFh53iXKECgqctyhqaUL1ixWbt") == "…UL1ixWbt"


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ({"status": "Open", "biddable": True}, "Open"),
        ({"status": "Open", "biddable": False}, "Closed"),
        ({"status": "Open", "biddable": False, "needs_me": True}, "to claim"),
        ({"status": "Claimed", "needs_me": True}, "to run"),
        ({"status": "Done"}, "Done"),
        ({"status": "Done", "needs_me": True}, "to settle"),
        ({"status": "Done", "needs_me": True, "overdue": True}, "overdue"),
        ({"status": "Done", "failed": "worker"}, "failed"),
        ({"status": "Done", "failed": "task"}, "Done"),
        ({"status": "Expired"}, "Expired"),
    ],
)
def test_status_words_say_whose_turn_it_is(task: Mapping[str, JsonValue], shown: str) -> None:
    assert status_cell(task).text == shown


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_as_yaml_is_read_as_the_same(value: JsonValue) -> None:
    text = yaml_document(value)
    assert text.isascii()
    assert yaml.safe_load(text) == value


def test_documents_of_yaml_may_follow_one_another() -> None:
    values: list[JsonValue] = [{"a": [{"b": 1, "no": "yes"}, []]}, "x\ny", {}]
    assert list(yaml.safe_load_all("".join(map(yaml_document, values)))) == values
