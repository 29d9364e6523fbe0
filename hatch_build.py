"""Makes what a wheel installs besides the package: manual pages and shell completions, from the command line itself."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPLETIONS = {
    "bash": "share/bash-completion/completions/crabnet",
    "zsh": "share/zsh/site-functions/_crabnet",
    "fish": "share/fish/vendor_completions.d/crabnet.fish",
}


class CommandLineFiles(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is the configuration, unused here
    """Adds the files to wheels. An editable installation has none, because they would not follow the source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files and name them in ``build_data``. They are needed until ``finalize``."""
        if version == "editable":
            return
        self._made = Path(tempfile.mkdtemp(prefix="crabnet-build-"))
        for place, text in command_line_files(Path(self.root) / "src").items():
            made = self._made / place
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(made)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the files."""
        if version != "editable":
            shutil.rmtree(self._made)


def command_line_files(source: Path) -> dict[str, str]:
    """Return the text of each file, by its place beneath the prefix of the installation."""
    sys.path.insert(0, str(source))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        from crabnet.cli.completion import script  # noqa: PLC0415 - found only now
        from crabnet.cli.manual import pages  # noqa: PLC0415 - found only now

        completions = {place: script(shell) for shell, place in COMPLETIONS.items()}
        return completions | {f"share/man/man1/{name}": text for name, text in pages().items()}
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(source))
