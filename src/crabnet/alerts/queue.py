"""What waits for one target, and when it is tried. Pure: the caller says what time it is."""

from __future__ import annotations

from collections import deque
from typing import Final

from crabnet import limits
from crabnet.alerts.messages import Bundle, Entry, bundle_of, joined

_MINUTE_MS: Final = 60_000


class TargetQueue:
    """The bundles that wait for one target, oldest first, and the one that is being sent.

    At most ``per_minute`` tries begin in a minute. The last try that is allowed at a moment takes all that waits as one
    message. A bundle is given up ``retry_ms`` after its first failure. ``now_ms`` is the time of any steady clock.
    """

    def __init__(self, per_minute: int, retry_ms: int) -> None:
        self._begun_ms: deque[int] = deque()  # the tries of the last minute
        self._per_minute = per_minute
        self._retry_ms = retry_ms
        self._waiting: deque[Bundle] = deque()
        self._sent: Bundle | None = None
        self._trying = False
        self._failed_first_ms = 0
        self._next_try_ms: int | None = None
        self._failures_in_row = 0
        self.failures = 0
        """Tries of the present bundle that have failed."""

    def add(self, entry: Entry) -> None:
        """Have an entry sent. What is beyond ALERTS_WAITING_MAX joins the last bundle that waits."""
        bundle = bundle_of(entry)
        if len(self._waiting) >= limits.ALERTS_WAITING_MAX:
            bundle = joined((self._waiting.pop(), bundle))
        self._waiting.append(bundle)

    @property
    def count(self) -> int:
        """Entries that wait or are being sent."""
        return sum(each.count for each in self._all())

    def low(self, stream: str) -> int | None:
        """The lowest ``Entry.low`` of a stream among all that is not settled; None if there is none."""
        return min((each.lows[stream] for each in self._all() if stream in each.lows), default=None)

    def wait_ms(self, now_ms: int) -> int | None:
        """Time until the next try may begin; None if there is nothing to try, or a try has begun."""
        if self._trying or (self._sent is None and not self._waiting):
            return None
        pause = 0 if self._next_try_ms is None else max(0, self._next_try_ms - now_ms)
        if self._room(now_ms):
            return pause
        return max(pause, self._begun_ms[0] + _MINUTE_MS - now_ms)

    def begin(self, now_ms: int) -> Bundle:
        """Begin a try. Call it only if ``wait_ms`` is 0. Then call ``settled``, ``failed`` or ``given_up``."""
        if self._sent is None:
            # A message for each bundle, as long as one try is left for all that remains.
            if self._room(now_ms) == 1 and len(self._waiting) > 1:
                self._sent = joined(self._waiting)
                self._waiting.clear()
            else:
                self._sent = self._waiting.popleft()
            self.failures = 0
        self._begun_ms.append(now_ms)
        self._trying = True
        return self._sent

    def settled(self, *, taken: bool) -> None:
        """The target has taken the bundle, or it was given up and that is reported."""
        self._sent, self._trying = None, False
        if taken:
            self._failures_in_row, self._next_try_ms = 0, None

    def failed(self, now_ms: int, random: float, ask_ms: int = 0) -> bool:
        """The try has failed. Returns whether the bundle is given up: then call ``settled``.

        The pause before the next try doubles with each failure in a row. ``random`` is at least 0 and below 1; it takes
        up to a half off the pause. The target may ask for a longer pause of ``ask_ms``.
        """
        if not self.failures:
            self._failed_first_ms = now_ms
        self.failures += 1
        doublings = min(self._failures_in_row, limits.ALERT_DOUBLINGS_MAX)
        self._failures_in_row += 1
        pause = min(limits.ALERT_PAUSE_MS << doublings, limits.ALERT_PAUSE_MS_MAX) * (1 - random / 2)
        pause_ms = max(round(pause), min(ask_ms, limits.ALERT_PAUSE_MS_MAX))
        self._next_try_ms = now_ms + pause_ms
        left_ms = self._failed_first_ms + self._retry_ms - now_ms
        if left_ms <= 0:
            return True  # What waits next is tried after the pause, too.
        self._next_try_ms = now_ms + min(pause_ms, left_ms)
        self._trying = False
        return False

    def _room(self, now_ms: int) -> int:
        """How many tries may begin now."""
        while self._begun_ms and self._begun_ms[0] <= now_ms - _MINUTE_MS:
            self._begun_ms.popleft()
        return self._per_minute - len(self._begun_ms)

    def _all(self) -> list[Bundle]:
        return [*self._waiting] if self._sent is None else [self._sent, *self._waiting]
