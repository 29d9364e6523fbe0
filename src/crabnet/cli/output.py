"""Output to stdout: escapes text from strangers, prints JSON in one stable form, and checks answers of the node."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.plain import plain

VALUE_CHARS_MAX: Final = 2_000
"""Characters of one value that is shown to people."""
STRUCTURED: Final = frozenset({"json", "yaml"})
"""The forms of output that are for programs."""


class AmbiguousError(UsageError):
    """What a person gave as an id fits several. ``candidates`` are lines about them."""

    def __init__(self, told: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{told} {', '.join(candidates)}", Reason.AMBIGUOUS)
        self.told, self.candidates = told, candidates


def plain_block(text: str) -> str:
    """Like ``plain``, but line feeds and tabs stay."""
    return "\n".join("\t".join(plain(cell) for cell in line.split("\t")) for line in text.split("\n"))


def json_line(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """One line of JSON in ASCII, with its newline: harmless in every terminal and encoding."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"


def write(text: str) -> None:
    """Write to stdout at once. Raises BrokenPipeError if nobody reads it, CrabnetError if it cannot be written."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from None


def write_raw(data: bytes) -> None:
    """Write bytes to stdout as they are. Raises as ``write`` does."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from None


def unwritable(error: OSError) -> CrabnetError:
    """The error for output that stdout does not accept."""
    return CrabnetError(f"standard output cannot be written: {error.strerror}")


def pause(seconds: float) -> None:
    """Wait before the next look at what is followed. Raises BrokenPipeError as soon as nobody reads stdout any more."""
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or a test's own
        time.sleep(seconds)
        return
    reader = select.poll()
    reader.register(fd, 0)
    if reader.poll(seconds * 1000):
        raise BrokenPipeError


def note(text: str) -> None:
    """A message for people, on stderr."""
    note_line(text + "\n")


def note_at_once(line: str) -> bool:
    """Write a line to stderr unless that would have to wait for a reader. False if it was not written.

    A pipe that is ready takes ``limits.LOG_LINE_BYTES_MAX`` bytes at once.
    """
    if sys.stderr is None:
        return True
    try:
        sys.stderr.flush()
        fd = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # a test's own
        note_line(line)
        return True
    try:
        if not select.select([], [fd], [], 0)[1]:
            return False
        os.write(fd, line.encode(sys.stderr.encoding or "utf-8", "backslashreplace"))
    except (OSError, ValueError):
        return False
    return True


def note_line(line: str) -> None:
    """Write a line to stderr that normally goes to stdout, because stdout carries something else."""
    if sys.stderr is not None:
        sys.stderr.write(line)
        sys.stderr.flush()


def _foreign(what: str) -> CrabnetError:
    return CrabnetError(f"the node's answer has no {what}; check that the node runs the same version")


def as_object(value: JsonValue, key: str | None = None) -> dict[str, JsonValue]:
    """``value``, or its member ``key``, as an object. Raises CrabnetError if it is not an object."""
    if key is not None:
        value = as_object(value).get(key)
    if not isinstance(value, dict):
        raise _foreign(f"object {key or ''}".strip())
    return value


def as_list(value: JsonValue, key: str) -> Sequence[JsonValue]:
    """The member ``key`` as a list. Raises CrabnetError if it is not a list."""
    member = as_object(value).get(key)
    if not isinstance(member, list):
        raise _foreign(f"list {key}")
    return member


def as_text(value: JsonValue, key: str) -> str:
    """The member ``key`` as escaped one-line text: strings as they are, other values as JSON. Raises CrabnetError."""
    members = as_object(value)
    if key not in members:
        raise _foreign(key)
    member = members[key]
    return plain(member) if isinstance(member, str) else json.dumps(member)


def cut(text: str, chars_max: int) -> str:
    """``text``, or its beginning and its length. This is for people; ``--json`` prints the whole text."""
    return text if len(text) <= chars_max else f"{text[:chars_max]}… ({len(text)} characters)"


def table(value: JsonValue, *, skip: frozenset[str] = frozenset()) -> str:
    """An object as ``key: value`` lines. Inner objects are indented, long texts are cut."""
    return "".join(_rows(as_object(value), skip, ""))


def _rows(members: Mapping[str, JsonValue], skip: frozenset[str], indent: str) -> list[str]:
    rows: list[str] = []
    for key, member in members.items():
        name = indent + plain(key)
        if key in skip or member is None or member == "":
            continue
        if isinstance(member, dict):
            rows.append(f"{name}:\n" if member else f"{name}: none\n")
            rows += _rows(member, frozenset(), indent + "  ")
        elif isinstance(member, list) and member and all(isinstance(item, dict) for item in member):
            rows.append(f"{name}:\n")
            rows += [f"{indent}  - {_on_one_line(as_object(item))}\n" for item in member]
        elif isinstance(member, str) and "\n" in member:
            rows.append(f"{name}:\n")
            shown = plain_block(cut(member.removesuffix("\n"), VALUE_CHARS_MAX))
            rows += [f"{indent}  | {line}\n" for line in shown.split("\n")]
        else:
            text = cut(member, VALUE_CHARS_MAX) if isinstance(member, str) else json.dumps(member)
            rows.append(f"{name}: {plain(text)}\n")
    return rows


def _on_one_line(members: dict[str, JsonValue]) -> str:
    return ", ".join(f"{plain(key)}: {as_text(members, key)}" for key in members)


def structured(arguments: list[str]) -> bool:
    """Whether the words of a command line ask for an object for programs, so that an error is one, too."""
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for at, word in enumerate(words):
        form = word.removeprefix("--output=").removeprefix("-o") if word.startswith(("--output=", "-o")) else ""
        if word in {"-o", "--output"}:
            form = words[at + 1] if at + 1 < len(words) else ""
        if word == "--json" or form in STRUCTURED:
            return True
    return False
