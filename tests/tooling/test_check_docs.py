"""The check of the Markdown files: which links it follows, and what it reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_docs import check

OTHER = "# A `code` title: and more\n\n## Twice\n\n## Twice\n"


@pytest.mark.parametrize(
    "text",
    [
        "[a](other.md) [b](other.md#a-code-title-and-more) [c](other.md#twice-1) [d](#here)\n# Here\n",
        "[a](https://example.invalid/x.md) [b](mailto:a@example.invalid)\n",
        "`[a](missing.md)`\n```\n[b](missing.md)\n```\n",
    ],
)
def test_good_links_pass(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.md").write_text(OTHER, encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert check(tmp_path / "page.md", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](missing.md)", "page.md: link target does not exist: missing.md"),
        ("![a](missing.png)", "page.md: link target does not exist: missing.png"),
        ("[a](other.md#twice-2)", "page.md: no such heading: other.md#twice-2"),
        ("```\n# Here\n```\n[a](#here)", "page.md: no such heading: #here"),
        ("[a](../elsewhere.md)", "page.md: link leaves the repository: ../elsewhere.md"),
        ("```python\nx = 1\n", "page.md: a code fence is not closed"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "other.md").write_text(OTHER, encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert check(tmp_path / "page.md", tmp_path) == [fault]
