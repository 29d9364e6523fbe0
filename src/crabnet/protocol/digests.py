"""A tree of digests of a version vector. With it, two nodes find their differences without exchanging all heads.

A *bucket* holds the heads of the authors whose SHA-256, in hexadecimal, begins with its prefix. The root has the empty
prefix. The digest of a bucket depends on these heads alone (docs/PROTOCOL.md, section 12), so equal digests mean equal
heads. Where digests differ, those of the sixteen buckets with a prefix one digit longer narrow the difference down.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import Struct

from crabnet import limits
from crabnet.protocol.feed import Feed, Feeds
from crabnet.protocol.sync import Bucket, Head

DIGITS: Final = "0123456789abcdef"
_DIGEST_BYTES: Final = 16
_EMPTY: Final = bytes(_DIGEST_BYTES)
_LEAF_MAX: Final = limits.SYNC_BUCKET_HEADS_MAX
_DEPTH_MAX: Final = limits.SYNC_BUCKET_DIGITS_MAX


class _Node(Struct):
    """Either ``members`` (author by hash) of a small bucket, or sixteen ``children``. An empty ``digest`` is stale."""

    members: dict[str, str]
    children: list[_Node] | None = None
    digest: bytes = b""


class DigestTree:
    """The digests over all feeds. A query costs a few hashes for each head that changed since the last query."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self._root = _Node({})
        self._hashes: dict[str, str] = {}
        self._changed: set[str] = set(feeds.authors())
        self.changed = self._changed.add

    def root(self) -> str:
        """The digest of all heads, 32 hexadecimal digits. "" when no head is held."""
        return self.digest("")

    def digest(self, prefix: str) -> str:
        """The digest of a bucket, "" for an empty one."""
        self._refresh()
        found = self._find(prefix)
        digest = self._leaf(found) if isinstance(found, dict) else self._digest(found)
        return "" if digest == _EMPTY else digest.hex()

    def bucket(self, prefix: str) -> Bucket:
        """The digests of a bucket's sixteen children, or no digests if the bucket has few heads."""
        self._refresh()
        found = self._find(prefix)
        if isinstance(found, dict) or found.children is None:
            return Bucket(prefix, [])
        digests = [self._digest(child) for child in found.children]
        return Bucket(prefix, ["" if digest == _EMPTY else digest.hex() for digest in digests])

    def heads(self, prefix: str) -> list[Head]:
        """The heads of a bucket that has few, sorted by author."""
        self._refresh()
        found = self._find(prefix)
        members = found if isinstance(found, dict) else found.members
        return [
            Head(feed.author, feed.head_seq, feed.head_id, feed.end)
            for feed in map(self._feeds.get, sorted(members.values()))
        ]

    def _refresh(self) -> None:
        changed = self._changed
        while changed:
            author = changed.pop()
            feed = self._feeds.get(author)
            if feed.head_seq or feed.end or author in self._hashes:
                self._touch(author)

    def _touch(self, author: str) -> None:
        """Invalidate the digests that cover the author's head. Insert the author if it is new."""
        path = self._hashes.get(author)
        known = path is not None
        if path is None:
            path = self._hashes[author] = hashlib.sha256(author.encode()).hexdigest()
        node = self._root
        depth = 0
        node.digest = b""
        while node.children is not None:
            node = node.children[int(path[depth], 16)]
            node.digest = b""
            depth += 1
        if known:
            return
        node.members[path] = author
        while len(node.members) > _LEAF_MAX and depth < _DEPTH_MAX:
            children = node.children = [_Node({}) for _ in DIGITS]
            for each, member in node.members.items():
                children[int(each[depth], 16)].members[each] = member
            node.members = {}
            node = children[int(path[depth], 16)]
            depth += 1

    def _find(self, prefix: str) -> _Node | dict[str, str]:
        """The node of a bucket, or the members of a bucket below a leaf."""
        node = self._root
        for digit in prefix:
            if node.children is None:
                return {path: author for path, author in node.members.items() if path.startswith(prefix)}
            node = node.children[int(digit, 16)]
        return node

    def _digest(self, node: _Node) -> bytes:
        if not node.digest:
            if node.children is None:
                node.digest = self._leaf(node.members)
            else:
                joined = b"".join([self._digest(child) for child in node.children])
                node.digest = hashlib.sha256(b"crabnet-bucket\0" + joined).digest()[:_DIGEST_BYTES]
        return node.digest

    def _leaf(self, members: dict[str, str]) -> bytes:
        if not members:
            return _EMPTY
        feeds = [self._feeds.get(author) for author in sorted(members.values())]
        lines = "".join([_line(feed) for feed in feeds])
        return hashlib.sha256(b"crabnet-heads\0" + lines.encode()).digest()[:_DIGEST_BYTES]


def _line(feed: Feed) -> str:
    return f"{feed.author} {feed.head_seq} {feed.head_id}{f' {feed.end}' if feed.end else ''}\n"
