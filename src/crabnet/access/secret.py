"""The secrets of tokens: how they are made and recognised, and the digest that is stored in their place."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable
from typing import Final

from crabnet import limits
from crabnet.errors import Reason, UsageError

PREFIX: Final = "crab_"
"""With this, people and secret scanners recognise a secret of Crabnet."""
SECRET_BYTES: Final = 32
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_CHARS: Final = 43
"""Digits in base 62 that hold 256 bits."""
_CHECK_CHARS: Final = 6
"""Digits in base 62 that hold a CRC-32."""
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


def make_secret(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A new secret: ``crab_``, 256 random bits and check digits, in letters and digits."""
    body = _base62(int.from_bytes(random_bytes(SECRET_BYTES)), _BODY_CHARS)
    return PREFIX + body + _check_digits(body)


def digest_of(secret: str) -> str:
    """The SHA-256 of a secret, in hex. It is stored and sent in place of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def is_mistyped(secret: str) -> bool:
    """Whether a text looks like a secret of Crabnet, but has a wrong length or wrong check digits."""
    if not secret.startswith(PREFIX):
        return False
    body, check = secret[len(PREFIX) : -_CHECK_CHARS], secret[-_CHECK_CHARS:]
    return len(body) != _BODY_CHARS or _check_digits(body) != check


def demand_secret(secret: str) -> str:
    """A secret that a person made, if it may be one. Raises UsageError; the message does not contain the secret."""
    if not limits.SECRET_CHARS_MIN <= len(secret) <= limits.SECRET_CHARS_MAX:
        raise UsageError(
            f"the secret has {len(secret)} characters; it must have {limits.SECRET_CHARS_MIN} to"
            f" {limits.SECRET_CHARS_MAX}",
            Reason.INVALID_ARGUMENT,
        )
    if not _VISIBLE.fullmatch(secret):
        raise UsageError("the secret has characters other than visible ASCII", Reason.INVALID_ARGUMENT)
    if is_mistyped(secret):
        raise UsageError(
            "the secret begins with crab_, but its check digits are wrong; copy it again", Reason.INVALID_ARGUMENT
        )
    return secret


def _check_digits(body: str) -> str:
    return _base62(zlib.crc32(body.encode("utf-8", "surrogatepass")), _CHECK_CHARS)


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
