"""Answers as YAML 1.2, in ASCII. Strings are quoted, because JSON's quoted strings are YAML's, too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from crabnet.control.client import JsonValue

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that readers of YAML 1.1 take for something else than text."""


def yaml_document(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """A document with its ``---``, so that several may follow one another."""
    return "---\n" + "".join(f"{line}\n" for line in _lines(value))


def _lines(value: JsonValue | Mapping[str, JsonValue]) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, member in value.items():
            yield from _under(f"{_key(key)}:", member)
    elif isinstance(value, list) and value:
        for item in value:
            inner = list(_lines(item))
            yield f"- {inner[0]}"
            yield from (f"  {line}" for line in inner[1:])
    else:
        yield _scalar(value)


def _under(name: str, member: JsonValue) -> Iterator[str]:
    if isinstance(member, dict | list) and member:
        yield name
        yield from (f"  {line}" for line in _lines(member))
    else:
        yield f"{name} {_scalar(member)}"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS else _scalar(key)


def _scalar(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """A number, word, string, or an empty list or object. Characters above U+FFFF get the escape of YAML."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isascii() and char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
