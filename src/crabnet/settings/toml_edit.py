"""Changes one value in the text of a TOML file. Everything else in it stays as it is: comments, order, spaces.

Pure. The changed text is read again: if it does not mean what it should, the change is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Final, NamedTuple

from crabnet.errors import Reason, UsageError

Value = bool | int | float | str | Sequence[str]
"""A value that a setting may have in the file."""

_HEADER: Final = re.compile(r"\s*\[")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class _Statement(NamedTuple):
    """One assignment: its table ("" for none), its key, whether its key names the table, and its lines."""

    table: str
    key: str
    dotted: bool
    first: int
    end: int


class _Shape(NamedTuple):
    """The statements of a file, and the line of each table's head."""

    statements: list[_Statement]
    heads: dict[str, int]


def literal(value: Value) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(literal, value))}]"


def has_key(text: str, table: str, key: str) -> bool:
    """Whether the file sets a key of a table ("" for none). Raises tomllib.TOMLDecodeError."""
    return key in _table(tomllib.loads(text), table)


def with_value(text: str, table: str, key: str, value: Value) -> str:
    """The text with a key of a table ("" for none) set to a value.

    A new key comes after the line that mentions it in a comment, as ``config init`` writes them, else at the end of its
    table. Raises tomllib.TOMLDecodeError for a text that is no TOML, and UsageError if that cannot be done by lines.
    """
    before = tomllib.loads(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    shape = _shape(lines)
    line = f"{key} = {literal(value)}"
    found = next((each for each in shape.statements if (each.table, each.key) == (table, key)), None)
    if found is not None:
        name = f"{table}." if found.dotted else ""
        lines[found.first : found.end] = [f"{name}{line}{_comment(lines[found.first : found.end])}{newline}"]
    elif table and table not in shape.heads:
        lines += [
            "" if not lines or lines[-1].endswith("\n") else newline,
            newline if lines else "",
            f"[{table}]{newline}",
        ]
        lines.append(line + newline)
    else:
        _insert(lines, shape, table, key, line + newline, newline)
    changed = "".join(lines)
    _demand_meaning(changed, _expected(before, table, key, value), key)
    return changed


def _insert(lines: list[str], shape: _Shape, table: str, key: str, line: str, newline: str) -> None:
    begin = shape.heads[table] + 1 if table else 0
    end = min((at for at in shape.heads.values() if at >= begin), default=len(lines))
    inside = {at for each in shape.statements for at in range(each.first, each.end)}
    mentioned = re.compile(rf"\s*#\s*{re.escape(key)}\s*=")
    at = next((at + 1 for at in range(begin, end) if at not in inside and mentioned.match(lines[at])), None)
    if at is None:
        at = max((each.end for each in shape.statements if begin <= each.first < end), default=begin)
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += newline
    lines.insert(at, line)


def _shape(lines: Sequence[str]) -> _Shape:
    statements: list[_Statement] = []
    heads: dict[str, int] = {}
    table, at = "", 0
    while at < len(lines):
        text = lines[at].strip()
        if not text or text.startswith("#"):
            at += 1
        elif _HEADER.match(lines[at]):
            names = list(_nested(tomllib.loads(lines[at])))
            table = ".".join(names)
            heads.setdefault(table, at)
            at += 1
        else:
            end, parsed = _statement(lines, at)
            statements += _assigned(table, parsed, at, end)
            at = end
    return _Shape(statements, heads)


def _statement(lines: Sequence[str], first: int) -> tuple[int, dict[str, object]]:
    """The end of the assignment that begins in a line, and what it means. Values may take several lines."""
    text = ""
    for at in range(first, len(lines)):
        text += lines[at]
        try:
            return at + 1, tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
    raise UsageError("the file cannot be changed line by line; edit it by hand", Reason.INVALID_CONFIG)


def _assigned(table: str, parsed: Mapping[str, object], first: int, end: int) -> Iterator[_Statement]:
    for key, value in parsed.items():
        if not table and isinstance(value, dict) and len(value) == 1:
            yield _Statement(key, next(iter(value)), True, first, end)
        else:
            yield _Statement(table, key, False, first, end)


def _nested(document: Mapping[str, object]) -> Iterator[str]:
    while document:
        name, inner = next(iter(document.items()))
        yield name
        document = inner if isinstance(inner, dict) else {}


def _comment(lines: Sequence[str]) -> str:
    """The comment at the end of an assignment, with two spaces before it."""
    text = "".join(lines).rstrip()
    whole = tomllib.loads(text)
    last = text.rfind("\n") + 1
    for at in range(last, len(text)):
        if text[at] != "#":
            continue
        try:
            if tomllib.loads(text[:at]) == whole:
                return f"  {text[at:]}"
        except tomllib.TOMLDecodeError:
            continue
    return ""


def _table(document: Mapping[str, object], table: str) -> Mapping[str, object]:
    inner = document.get(table) if table else document
    return inner if isinstance(inner, dict) else {}


def _expected(before: Mapping[str, object], table: str, key: str, value: Value) -> dict[str, object]:
    expected = deepcopy(dict(before))
    kept: object = list(value) if isinstance(value, list | tuple) else value
    if not table:
        return {**expected, key: kept}
    return {**expected, table: {**_table(expected, table), key: kept}}


def _demand_meaning(text: str, expected: Mapping[str, object], key: str) -> None:
    try:
        if tomllib.loads(text) == expected:
            return
    except tomllib.TOMLDecodeError:
        pass
    raise UsageError(f"{key} cannot be changed line by line in this file; edit it by hand", Reason.INVALID_CONFIG)
