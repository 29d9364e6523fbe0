"""Token buckets: they limit a rate to ``per_s`` in the long run, with bursts of at most ``burst``."""

from __future__ import annotations


class TokenBucket:
    """A token bucket that is full at first. ``per_s`` 0 turns it off: it then allows everything.

    A clock that goes back adds no tokens. ``tokens`` are those at the time of the last call. After a call of ``room`` a
    caller may take from ``tokens`` directly.
    """

    __slots__ = ("_at_ms", "burst", "per_s", "tokens")

    def __init__(self, per_s: float, burst: float | None = None) -> None:
        self.per_s = per_s
        self.burst = float(per_s if burst is None else burst)
        self.tokens = self.burst
        self._at_ms: int | None = None

    def room(self, now_ms: int) -> float:
        """The number of tokens at ``now_ms``, infinite if the bucket is off."""
        if not self.per_s:
            return float("inf")
        at_ms = self._at_ms
        if at_ms != now_ms:
            if at_ms is not None and at_ms < now_ms:
                tokens = self.tokens + (now_ms - at_ms) * self.per_s / 1000
                self.tokens = tokens if tokens < self.burst else self.burst
            self._at_ms = now_ms
        return self.tokens

    def take(self, now_ms: int, amount: float = 1) -> bool:
        """Take tokens if there are enough. An amount above ``burst`` counts as ``burst``, or it could never succeed."""
        if not self.per_s:
            return True
        amount = min(amount, self.burst)
        tokens = self.tokens if now_ms == self._at_ms else self.room(now_ms)
        if tokens < amount:
            return False
        self.tokens = tokens - amount
        return True

    def wait_ms(self, now_ms: int, amount: float = 1) -> int:
        """Milliseconds until ``amount`` can be taken: 0 if it can be taken at once, else at least 1."""
        lacking = min(amount, self.burst) - self.room(now_ms) if self.per_s else 0
        return 0 if lacking <= 0 else max(1, -int(-lacking * 1000 // self.per_s))
