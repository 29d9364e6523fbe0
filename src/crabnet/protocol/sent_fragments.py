"""Recently sent fragmented messages, kept to answer requests for lost fragments. Sans-IO, like ``fragments``."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.protocol.fragment_wire import check_message, fragment_count, fragment_datagram, is_whole, parse_request

MESSAGE_OVERHEAD_BYTES: Final = 1_024
"""Bytes counted for the bookkeeping of one message, so that many small messages are counted at their real cost."""
_ASKER_OVERHEAD_BYTES: Final = 256


class SentLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a SentCache."""

    bytes_max: int = limits.SENT_FRAGMENTS_CACHE_BYTES_MAX
    ttl_ms: int = limits.SENT_FRAGMENTS_TTL_MS
    answer_bytes_max: int = limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX
    resends_max: int = limits.SENT_FRAGMENTS_RESENDS_MAX
    sources_per_message_max: int = limits.SENT_FRAGMENTS_SOURCES_PER_MESSAGE_MAX


class _Sent:
    """A recently sent fragmented message, and how often each fragment was sent again, by source."""

    __slots__ = ("bytes_held", "expires_ms", "message", "resent")

    def __init__(self, message: bytes, expires_ms: int) -> None:
        self.message = message
        self.expires_ms = expires_ms
        self.bytes_held = len(message) + MESSAGE_OVERHEAD_BYTES
        self.resent: dict[str, bytearray] = {}


class SentCache:
    """Recently sent fragmented messages, bounded in bytes and time, kept to answer requests for lost fragments.

    One answer has at most ``answer_bytes_max`` bytes. One source gets the same fragment at most ``resends_max`` times,
    and at most twice the fragments of one message in total. So requests with a forged source address achieve little.
    """

    def __init__(self, bounds: SentLimits | None = None) -> None:
        self._bounds = bounds if bounds is not None else SentLimits()
        self._sent: BoundedTable[bytes, _Sent] = BoundedTable(self._bounds.bytes_max)
        """By digest, in the order of sending. The weight is in bytes."""

    @property
    def bytes_held(self) -> int:
        """Bytes of the held messages, with their bookkeeping."""
        return self._sent.weight

    def split(self, message: bytes, now_ms: int) -> list[bytes]:
        """The datagrams of a message that is about to be sent. A message of several fragments is kept.

        Raises the RefusedError of ``fragment_wire.split``.
        """
        check_message(message)
        if is_whole(message):
            return [message]
        digest = hashlib.sha256(message).digest()
        self._expire(now_ms)
        sent = _Sent(message, now_ms + self._bounds.ttl_ms)
        self._sent.put(digest, sent, sent.bytes_held)
        return [fragment_datagram(message, digest, index) for index in range(fragment_count(len(message)))]

    def answer(self, source: str, datagram: bytes, now_ms: int) -> list[bytes]:
        """The fragments to send to ``source`` for its request.

        It returns none if the request is malformed, the message is unknown, or the source is over its budget.
        """
        self._expire(now_ms)
        request = parse_request(datagram)
        sent = None if request is None else self._sent.get(request.digest)
        if request is None or sent is None:
            return []
        count = fragment_count(len(sent.message))
        if request.indexes[-1] >= count:
            return []
        resent = sent.resent.get(source)
        if resent is None:
            if len(sent.resent) >= self._bounds.sources_per_message_max:
                return []
            resent = sent.resent[source] = bytearray(count)
            sent.bytes_held += count + _ASKER_OVERHEAD_BYTES
            self._sent.reweigh(request.digest, sent.bytes_held)
        budget = min(2 * count - sum(resent), self._bounds.answer_bytes_max // limits.DATAGRAM_BYTES_MAX)
        allowed = [index for index in request.indexes if resent[index] < self._bounds.resends_max][: max(budget, 0)]
        for index in allowed:
            resent[index] += 1
        return [fragment_datagram(sent.message, request.digest, index) for index in allowed]

    def _expire(self, now_ms: int) -> None:
        while (oldest := self._sent.first()) is not None and oldest[1].expires_ms <= now_ms:
            self._sent.pop_first()
