"""Writes the documents that are generated from the code: docs/CONFIGURATION.md and docs/CLI.md."""

from __future__ import annotations

from pathlib import Path

from crabnet.cli.document import cli_markdown
from crabnet.settings.document import configuration_markdown


def main() -> None:
    """Write both documents. This works from any current directory."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    for name, text in (("CONFIGURATION.md", configuration_markdown()), ("CLI.md", cli_markdown())):
        (docs / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
