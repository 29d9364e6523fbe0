"""Writes the documents that are generated from the code: docs/CONFIGURATION.md, docs/CLI.md and
docs/CONTROL.md.
"""

from __future__ import annotations

from pathlib import Path

from crabnet.cli.document import cli_markdown
from crabnet.operations.document import control_markdown
from crabnet.settings.document import configuration_markdown


def main() -> None:
    """Write all of them. This works from any current directory."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    documents = {
        "CONFIGURATION.md": configuration_markdown(),
        "CLI.md": cli_markdown(),
        "CONTROL.md": control_markdown(),
    }
    for name, text in documents.items():
        (docs / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
