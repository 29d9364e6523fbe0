"""What a node keeps about its HTTP door: the file of tokens, which only it writes, and the codes of login links."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from crabnet import limits
from crabnet.access.file import TokenFile
from crabnet.access.secret import digest_of
from crabnet.access.tokens import Tokens
from crabnet.bounded import BoundedTable
from crabnet.storage.files import Files


class TokenKeeper:
    """Changes the file of tokens, one change at a time, and remembers login links."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._file = TokenFile(files, data_dir)
        self._changing = trio.Lock()
        self.links = Links()

    async def read(self) -> Tokens:
        """The tokens. Raises as ``TokenFile.read``."""
        return await trio.to_thread.run_sync(self._file.read)

    async def change(self, change: Callable[[Tokens], Tokens]) -> Tokens:
        """Replace the tokens durably by what ``change`` makes of them, and return that.

        Raises what ``change`` raises, and as ``TokenFile.read`` and ``TokenFile.write``. Then the file is unchanged,
        except that a failed write may have taken effect. A damaged file is never replaced.
        """

        def replace() -> Tokens:
            before = self._file.read()
            after = change(before)
            if after != before:
                self._file.write(after)
            return after

        async with self._changing:
            return await trio.to_thread.run_sync(replace)


class Links:
    """The codes of login links, in memory only. The caller gives digests of new codes, so the node knows no code."""

    def __init__(self) -> None:
        self._until_ms: BoundedTable[str, int] = BoundedTable(limits.WEB_LINKS_MAX)

    def add(self, code_sha256: str, now_ms: int) -> int:
        """Make a code good for WEB_LINK_MS. Returns when it ends, in milliseconds since 1970."""
        until_ms = now_ms + limits.WEB_LINK_MS
        self._until_ms.put(code_sha256, until_ms)
        return until_ms

    def use(self, code: str, now_ms: int) -> bool:
        """Whether the code is good. Afterwards it is not."""
        until_ms = self._until_ms.pop(digest_of(code))
        return until_ms is not None and now_ms < until_ms
