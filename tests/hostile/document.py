"""Writes README.md of this directory: ``python -m tests.hostile.document > tests/hostile/README.md``."""

from __future__ import annotations

from tests.hostile.corpus import CORPUS

HEAD = """# The corpus of hostile datagrams

Written by `python -m tests.hostile.document`. A test compares it with the corpus.

Each of the {rows} rows is sent to a real node over UDP, by an author with a new key, from a loopback address of its
own (`tests/e2e/test_hostile.py`). It must be answered by exactly one monitor event with exactly this Reason. Where a
group *keeps its place*, the envelopes are soundly signed: they stand in their author's feed, have no effect on any
seed, and a node that learns them later comes to the same state. All others leave the state hash as it was.

To add one: a row in the module of its group, then write this page anew.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page() -> str:
    """The whole page."""
    parts = [HEAD.format(rows=sum(len(group.rows) for group in CORPUS))]
    for group in CORPUS:
        place = " *They keep their place.*" if group.keeps_place else ""
        lines = [f"## {group.title}", "", f"{group.text}{place}", ""]
        lines += ["| name | how it is made | outcome | Reason | event |", "|---|---|---|---|---|"]
        for row in group.rows:
            reason = "" if row.reason is None else f"`{row.reason.value}`"
            cells = (_cell(row.name), _cell(row.recipe.how), row.outcome.value, reason, f"`{row.event_kind}`")
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
