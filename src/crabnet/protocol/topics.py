"""The topics of the libp2p network: ``crabnet/v2/<namespace>/<channel>`` (docs/PROTOCOL.md, section 14)."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from crabnet.protocol.envelope import FEED_KINDS, VERSION, Kind

BASELINE_TOPIC: Final = "crabnet-mvp-v1"
"""The one topic of baseline peers."""
BASELINE: Final = "baseline"
"""The name of that topic in settings."""
_TOPIC: Final = re.compile(r"crabnet/v(\d{1,4})/([^/]{1,64})/([a-z]{1,16})\Z", re.ASCII)
_ITEM: Final = re.compile(r"(?:v(\d{1,4})/)?([a-z]{1,16})\Z", re.ASCII)


class Channel(StrEnum):
    """What a topic is for."""

    TASKS = "tasks"
    """Tasks and their settlements: what everybody wants to know."""
    WORK = "work"
    """Bids, claims, starts, results: what the parties of a task say to each other."""
    TALK = "talk"
    """What belongs to no feed."""


_TASKS: Final = frozenset({Kind.SEED_CREATED, Kind.TASK_SETTLE})
CHANNELS: Final = tuple(channel.value for channel in Channel)


def channel_of(kind: str) -> Channel:
    """The channel for envelopes of a kind. An unknown kind is one of a later version, which has a place in a feed."""
    if kind in _TASKS:
        return Channel.TASKS
    return Channel.WORK if kind in FEED_KINDS or kind not in set(Kind) else Channel.TALK


def topic_of(item: str, namespace: str) -> str:
    """The topic that an item of a setting stands for: a channel, ``v1/<channel>``, or ``baseline``.

    Raises ValueError.
    """
    if item == BASELINE:
        return BASELINE_TOPIC
    match = _ITEM.match(item)
    if match is None or match[2] not in CHANNELS:
        raise ValueError(f"{item!r} is no channel")
    return f"crabnet/v{match[1] or VERSION}/{namespace}/{match[2]}"


def item_of(topic: str, namespace: str) -> str:
    """How settings name a topic: a channel, ``v1/<channel>``, or ``baseline``. Another namespace's is as it is."""
    if topic == BASELINE_TOPIC:
        return BASELINE
    match = _TOPIC.match(topic)
    if match is None or match[2] != namespace:
        return topic
    return match[3] if int(match[1]) == VERSION else f"v{match[1]}/{match[3]}"


def channel_in(topic: str) -> str:
    """The channel of a topic; "" for that of the baseline, which has all."""
    match = _TOPIC.match(topic)
    return "" if match is None else match[3]
