"""Checks the Markdown files: the targets of relative links and anchors exist, and code fences are closed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^()\s]+)\)|!\[[^\]\n]*\]\(([^()\s]+)\)")
INLINE_CODE = re.compile(r"`[^`\n]*`")


def prose(text: str) -> tuple[str, bool]:
    """Return ``text`` without its fenced blocks, and whether every fence is closed."""
    kept: list[str] = []
    fence = ""
    for line in text.splitlines():
        match = FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and line.strip() == match[1]:
                fence = ""
        elif match:
            fence = match[1]
        else:
            kept.append(line)
    return "\n".join(kept), not fence


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of ``text``."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)[0]):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        anchor, number = slug, 0
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found


def check(path: Path, root: Path) -> list[str]:
    """Return one sentence for each fault of the Markdown file ``path`` in the repository ``root``."""
    text = path.read_text(encoding="utf-8")
    outside, closed = prose(text)
    faults = [] if closed else ["a code fence is not closed"]
    for groups in LINK.findall(INLINE_CODE.sub("", outside)):
        link = groups[0] or groups[1]
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / unquote(name)).resolve() if name else path
        if not target.is_relative_to(root):
            faults.append(f"link leaves the repository: {link}")
        elif not target.exists():
            faults.append(f"link target does not exist: {link}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            faults.append(f"no such heading: {link}")
    return [f"{path.relative_to(root)}: {fault}" for fault in faults]


def markdown_files(root: Path) -> list[Path]:
    """Return the Markdown files of the repository, including those that are not committed yet."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        return sorted(path for name in listing.stdout.split("\0") if name and (path := root / name).is_file())
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def main() -> int:
    """Run the command line. Returns the exit code."""
    files = markdown_files(ROOT)
    faults = [fault for path in files for fault in check(path, ROOT)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(f"docs: {len(files)} files, every link has a target")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
