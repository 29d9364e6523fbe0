"""Compares what a page shows with what a command printed, where ids, keys, times and ports differ each time.

A word in brackets that begins with an ellipsis stands for anything: for the rest of a line, or, alone, for any lines.
"""

from __future__ import annotations

import re

_ANYTHING = re.compile(r"\[…[^\]]*\]$")
_CHANGING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # object ids
    r"|\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b"  # hashes, key ids
    r"|\b12D3KooW\w{44}\b"  # node ids
    r"|(?<=public_key: )[\w-]{43}"
    r"|\d{4}-\d\d-\d\dT[\d:.]+Z"
    r"|^\d+(?= \d{4}-\d\d-\d\dT)"  # event ids
    r"|(?<=127\.0\.0\.1:)\d+|(?<=/tcp/)\d+"
    r"|12D3…\w{4}"  # node ids in sentences
    r"|\b[0-9a-f]{8}\b"  # the beginnings of object ids
    r"|(?<=heard )\d+(?= s ago)"
)
_VARYING = re.compile(
    r"\b\d\d:\d\d:\d\d\b"  # local times
    r"|\b\d{4}-\d\d-\d\d\b(?!T)"
    r"|\b\d+(?:\.\d)? m?s\b"  # durations
    r"|(?<=place )\d+(?= of its feed)"
)
"""Words that differ even within a run."""
_UUID_CHARS = 36
_SHORT = 8
_EITHER = re.compile(f"(?P<changing>{_CHANGING.pattern})|{_VARYING.pattern}", re.MULTILINE)


class Session:
    """Remembers which word of the page stands for which word of this run."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = dict(known)

    def real(self, text: str) -> str:
        """What the page shows, with the words of this run where they are known."""
        return _CHANGING.sub(lambda match: self.known.get(match[0], match[0]), text)

    def difference(self, shown: list[str], printed: list[str]) -> str:
        """Empty if ``printed`` is what the page shows; then its words are remembered."""
        learned = dict(self.known)
        at = 0
        skipping = False
        for line in shown:
            if _ANYTHING.match(line):
                skipping = True
                continue
            while skipping and at < len(printed) and not _alike(line, printed[at], dict(learned)):
                at += 1
            if at >= len(printed) or not _alike(line, printed[at], learned):
                return f"the page shows {line!r}, printed was {printed[at : at + 1]}"
            skipping = False
            at += 1
        if at < len(printed) and not skipping:
            return f"the page does not show {printed[at]!r}"
        short = {name[:_SHORT]: real[:_SHORT] for name, real in learned.items() if len(name) == _UUID_CHARS}
        self.known = short | learned
        return ""


def _alike(shown: str, printed: str, known: dict[str, str]) -> bool:
    """True if the lines differ in changing words only, each always by the same one."""
    pattern = ""
    names: list[str] = []
    body = _ANYTHING.sub("", shown)
    end = 0
    for match in _EITHER.finditer(body):
        pattern += re.escape(body[end : match.start()]) + (
            r"([\w:.…-]+?)" if match["changing"] else r"[\d:.-]+(?: m?s)?"
        )
        names += [match[0]] if match["changing"] else []
        end = match.end()
    pattern += re.escape(body[end:]) + (".*" if body != shown else "")
    found = re.fullmatch(pattern, printed)
    return found is not None and all(
        known.setdefault(name, real) == real for name, real in zip(names, found.groups(), strict=True)
    )
