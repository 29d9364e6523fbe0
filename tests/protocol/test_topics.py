"""The topics of the libp2p network and their names in settings."""

from __future__ import annotations

import pytest

from crabnet.protocol.envelope import FEED_KINDS, Kind
from crabnet.protocol.topics import BASELINE, BASELINE_TOPIC, CHANNELS, channel_in, channel_of, item_of, topic_of


@pytest.mark.parametrize("item", [*CHANNELS, *(f"v1/{channel}" for channel in CHANNELS), BASELINE])
def test_settings_name_topics_and_topics_are_shown_as_settings_name_them(item: str) -> None:
    topic = topic_of(item, "default")
    assert item_of(topic, "default") == item
    assert item_of(topic, "other") == (item if topic == BASELINE_TOPIC else topic)
    assert channel_in(topic) == ("" if item == BASELINE else item.rpartition("/")[2])


def test_each_version_has_topics_of_its_own() -> None:
    assert topic_of("tasks", "default") == topic_of("v2/tasks", "default") == "crabnet/v2/default/tasks"
    assert topic_of("v1/tasks", "default") == "crabnet/v1/default/tasks"


@pytest.mark.parametrize("item", ["", "gossip", "v/tasks", "vx/tasks", "v1/", "tasks/v1", "v12345/tasks", "Tasks"])
def test_what_is_no_channel_has_no_topic(item: str) -> None:
    with pytest.raises(ValueError, match="no channel"):
        topic_of(item, "default")


@pytest.mark.parametrize("topic", ["", "crabnet", "crabnet/v2/a/b/tasks", "crabnet/v2//tasks", "\n" * 300])
def test_foreign_topics_have_no_channel(topic: str) -> None:
    assert channel_in(topic) == ""
    assert item_of(topic, "default") == topic


def test_every_kind_of_a_feed_has_a_channel_that_everybody_reads() -> None:
    assert {channel_of(kind) for kind in FEED_KINDS} == {"tasks", "work"}
    assert {channel_of(kind) for kind in set(Kind) - FEED_KINDS} == {"talk"}
    assert channel_of("KindOfALaterVersion") == "work"
