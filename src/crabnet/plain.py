"""Text from strangers, made harmless for terminals and logs. Uses only the standard library."""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls, C1 controls (an 8-bit escape introducer is one)
    "\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, bidirectional overrides
    "\ud800-\udfff\U000e0000-\U000e0fff]"  # half characters, invisible tags
)


def plain(text: str) -> str:
    """``text`` on one line, with every character that could steer a terminal or hide text written as an escape."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(match[0])
    if match[0] in short:
        return short[match[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
