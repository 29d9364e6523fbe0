"""What workers say, in words."""

from __future__ import annotations

import pytest

from crabnet.domain.model import Seed
from crabnet.market.heard import HeardDecline, count, summary

SEED = Seed(
    id="s",
    title="t",
    command="python3 -c 1",
    timeout_ms=1,
    bid_deadline_ts=1,
    exec_deadline_ms=1,
    reward=5,
    created_by="p",
    created_at=0,
)


def said(*words: str | tuple[str, int]) -> list[HeardDecline]:
    pairs = [(each, None) if isinstance(each, str) else each for each in words]
    return [HeardDecline(f"worker {number}", reason, price, 0) for number, (reason, price) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("declines", "bids", "text"),
    [
        ([], 0, ""),
        ([], 3, ""),
        (
            said(*["not_allowed"] * 4, ("price", 9), ("price", 7), "busy"),
            0,
            "7 workers saw it: 4 do not allow python3, 2 want more than 5 (7 would do for one of them), 1 is busy",
        ),
        (said("not_allowed"), 0, "1 worker saw it: 1 does not allow python3"),
        (said(("price", 6)), 0, "1 worker saw it: 1 wants more than 5 (6 would do)"),
        (said("price", "price"), 0, "2 workers saw it: 2 want more than 5"),
        (
            said("schedule", "trust", "resources"),
            0,
            (
                "3 workers saw it: 1 does not work at this time, 1 does not work for this publisher,"
                " 1 cannot give it the time, memory or power that it wants"
            ),
        ),
        (
            said("schedule", "schedule", "trust", "trust", "busy", "busy"),
            0,
            "6 workers saw it: 2 are busy, 2 do not work at this time, 2 do not work for this publisher",
        ),
        (said("moon_phase", "other", "weather"), 0, "3 workers saw it: 3 have other reasons"),
        (said("moon_phase"), 0, "1 worker saw it: 1 has another reason"),
        (said("busy"), 2, "3 workers saw it: 2 bid, 1 is busy"),
        (said("busy"), 1, "2 workers saw it: 1 bids, 1 is busy"),
    ],
)
def test_what_workers_say_is_counted(declines: list[HeardDecline], bids: int, text: str) -> None:
    assert summary(declines, SEED, bids) == text
    assert sum(each.workers for each in count(declines)) == len(declines)
