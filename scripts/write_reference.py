"""Writes the documents that are generated from the code: docs/CONFIGURATION.md, docs/CLI.md,
docs/CONTROL.md, docs/METRICS.md, and a table in docs/PYTHON.md.
"""

from __future__ import annotations

from pathlib import Path

from crabnet.cli.document import cli_markdown
from crabnet.operations.document import control_markdown, python_table
from crabnet.settings.document import configuration_markdown
from crabnet.web.metrics_document import metrics_markdown


def with_operations(page: str) -> str:
    """docs/PYTHON.md with the present table of operations between its marks."""
    before, begin, rest = page.partition("<!-- operations -->\n")
    _, end, after = rest.partition("<!-- end of operations -->")
    return before + begin + "\n" + python_table() + "\n" + end + after


def main() -> None:
    """Write all of them. This works from any current directory."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    documents = {
        "CONFIGURATION.md": configuration_markdown(),
        "CLI.md": cli_markdown(),
        "CONTROL.md": control_markdown(),
        "METRICS.md": metrics_markdown(),
        "PYTHON.md": with_operations((docs / "PYTHON.md").read_text(encoding="utf-8")),
    }
    for name, text in documents.items():
        (docs / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
