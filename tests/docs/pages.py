"""The Markdown pages of the repository, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


_PROMPT = re.compile(r"(\w*)\$ (.*)")


class Step(NamedTuple):
    """A command of a console block, and the lines shown under it. ``host`` is the machine that its prompt names."""

    command: str
    shown: list[str]
    host: str = ""


def page(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def pages() -> list[str]:
    """All pages for users and developers."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for name, body in _FENCE.findall(text) if name == language]


def inline(text: str) -> list[str]:
    """All inline code."""
    return _INLINE.findall(_FENCE.sub("", text))


def steps(text: str) -> list[Step]:
    """What the console blocks type and show, in order."""
    found: list[Step] = []
    for block in blocks(text, "console"):
        for line in block.splitlines():
            prompt = _PROMPT.fullmatch(line)
            if prompt is not None:
                found.append(Step(prompt[2], [], prompt[1]))
            else:
                found[-1].shown.append(line)
    return found
