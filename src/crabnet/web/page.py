"""The files of the web page. They are part of the package, and are read once at the start."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from starlette.responses import Response

from crabnet.web.answers import tagged
from crabnet.web.reads import Answer, answer_of

STATIC: Final = Path(__file__).parent / "static"
_INDEX: Final = "index.html"
_BASE: Final = b"{base}"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOREVER: Final = "public, max-age=31536000, immutable"


class File(NamedTuple):
    """A file as it is served."""

    content: Answer
    media_type: str
    cache_control: str

    def answer(self, if_none_match: str | None) -> Response:
        """The file, or 304 if the client has it already."""
        return tagged(self.content, if_none_match, self.media_type, self.cache_control)


def page_files(directory: Path = STATIC) -> dict[str, File]:
    """The files by their paths. The page itself is at ``/``.

    The path of each other file contains a digest of all of them. So a browser may keep it for as long as it wants, and
    never mixes the files of two versions.
    """
    contents = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }
    digest = blake2b(digest_size=9)
    for name, body in contents.items():
        digest.update(b"%b %d\n%b" % (name.encode(), len(body), body))
    base = f"/static/{digest.hexdigest()}"
    page = answer_of(contents.pop(_INDEX).replace(_BASE, base.encode()))
    files = {
        f"{base}/{name}": File(answer_of(body), _MEDIA_TYPES[Path(name).suffix], _FOREVER)
        for name, body in contents.items()
    }
    return {"/": File(page, _MEDIA_TYPES[".html"], "no-cache"), **files}
