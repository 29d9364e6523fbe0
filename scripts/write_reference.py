"""Writes the documents that are generated from the code, or compares them with it (``--check``).

They are docs/CONFIGURATION.md, docs/CLI.md, docs/CONTROL.md, docs/METRICS.md, docs/PROBLEMS.md, docs/openapi.json,
and a table in docs/PYTHON.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from crabnet.cli.document import cli_markdown
from crabnet.operations.document import control_markdown, python_table
from crabnet.operations.openapi import openapi_json
from crabnet.operations.remedies import problems_markdown
from crabnet.settings.document import configuration_markdown
from crabnet.web.metrics_document import metrics_markdown


def with_operations(page: str) -> str:
    """docs/PYTHON.md with the present table of operations between its marks."""
    before, begin, rest = page.partition("<!-- operations -->\n")
    _, end, after = rest.partition("<!-- end of operations -->")
    return before + begin + "\n" + python_table() + "\n" + end + after


def main() -> int:
    """Write or check all of them. This works from any current directory. Returns the exit code."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    documents = {
        "CONFIGURATION.md": configuration_markdown(),
        "CLI.md": cli_markdown(),
        "CONTROL.md": control_markdown(),
        "METRICS.md": metrics_markdown(),
        "PROBLEMS.md": problems_markdown(),
        "openapi.json": openapi_json().decode(),
        "PYTHON.md": with_operations((docs / "PYTHON.md").read_text(encoding="utf-8")),
    }
    if "--check" in sys.argv[1:]:
        stale = [name for name, text in documents.items() if (docs / name).read_text(encoding="utf-8") != text]
        for name in stale:
            print(f"error: docs/{name} is not what the code says; run scripts/write_reference.py", file=sys.stderr)
        return 1 if stale else 0
    for name, text in documents.items():
        (docs / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
