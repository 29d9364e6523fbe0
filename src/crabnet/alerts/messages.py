"""What a target is told: messages about events, gaps and bundles of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet._version import __version__
from crabnet.monitor.events import Event
from crabnet.monitor.sentences import sentence
from crabnet.operations.events import Gap
from crabnet.plain import plain

FORMAT = "crabnet-alert-1"


class MessageKind(StrEnum):
    """What a message is about."""

    EVENT = "event"
    GAP = "gap"
    """Events that do not exist any more. Alerts among them cannot be told."""
    SUMMARY = "summary"
    """Several events, because there were more than ``alert_messages_per_minute``."""
    TEST = "test"


class Sender(Struct, frozen=True, kw_only=True):
    """The node that a message is about."""

    id: str | None
    alias: str
    namespace: str
    version: str = __version__


class Message(Struct, frozen=True, kw_only=True):
    """The body of a request to a webhook, and the standard input of a command, in JSON."""

    format: str = FORMAT
    id: str
    """The same for each try of a message, so that a receiver can tell repetitions."""
    kind: MessageKind
    text: str
    """For people: one line without control characters."""
    sent_at: int
    """Seconds since 1970."""
    node: Sender
    event: Event | None = None
    """The event; of several the first one."""
    gap: Gap | None = None
    count: int = 1
    """Number of events and gaps that the message is about."""
    kinds: dict[str, int] = {}
    """How many events of each kind the message is about."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to tell: an event, or a gap before the event ``id``."""

    stream: str
    """The name of the stream that it came from."""
    low: int
    """To be told it again, the stream is followed from the event before this one."""
    event: Event | None = None
    gap: Gap | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one message is about. ``lows`` is the lowest ``Entry.low`` of each stream."""

    first: Entry
    count: int
    kinds: Mapping[str, int]
    lows: Mapping[str, int] = field(default_factory=dict)

    @property
    def event_id(self) -> int:
        """The id of the first event."""
        return self.first.low if self.first.event is None else self.first.event.id


def bundle_of(entry: Entry) -> Bundle:
    """A bundle of one entry."""
    kinds = {} if entry.event is None else {entry.event.kind: 1}
    return Bundle(entry, 1, kinds, {entry.stream: entry.low})


def joined(bundles: Iterable[Bundle]) -> Bundle:
    """One bundle of several, which must not be none."""
    parts = list(bundles)
    kinds: Counter[str] = Counter()
    lows: dict[str, int] = {}
    for each in parts:
        kinds.update(each.kinds)
        for stream, low in each.lows.items():
            lows[stream] = min(low, lows.get(stream, low))
    return Bundle(parts[0].first, sum(each.count for each in parts), dict(kinds), lows)


def message_of(bundle: Bundle, node: Sender, now_s: int) -> Message:
    """The message about a bundle."""
    first = bundle.first
    single = MessageKind.EVENT if first.gap is None else MessageKind.GAP
    text = f"{_about(first, node)}{_more(bundle)}"
    return Message(
        id=f"{node.id}:{bundle.event_id}" + (f"+{bundle.count - 1}" if bundle.count > 1 else ""),
        kind=single if bundle.count == 1 else MessageKind.SUMMARY,
        text=text[: limits.ALERT_TEXT_CHARS_MAX],
        sent_at=now_s,
        node=node,
        event=first.event,
        gap=first.gap,
        count=bundle.count,
        kinds=dict(bundle.kinds),
    )


def test_message(node: Sender, now_s: int) -> Message:
    """The message of ``crabnet alerts test``."""
    return Message(
        id=f"test:{now_s}",
        kind=MessageKind.TEST,
        text=f"test of the alerts of {plain(node.alias)}: if you read this, they arrive",
        sent_at=now_s,
        node=node,
        count=0,
    )


def encoded(message: Message) -> bytes:
    """The JSON of a message."""
    return msgspec.json.encode(message)


def title_of(message: Message) -> str:
    """A short title, for services that show one."""
    return f"Crabnet: {plain(message.node.alias)}"


def _about(entry: Entry, node: Sender) -> str:
    name = plain(node.alias)
    if entry.event is not None:
        return f"{entry.event.severity} on {name}: {sentence(entry.event).text}"
    if entry.gap is not None:
        where = f"{entry.gap.first_id} to {entry.gap.last_id}"
        return f"alerts of {name} may be missing: the events {where} do not exist any more"
    raise ValueError("an entry without event and gap")


def _more(bundle: Bundle) -> str:
    """``, and 17 more alerts: …``, with the most frequent kinds."""
    if bundle.count == 1:
        return ""
    kinds = Counter(bundle.kinds)
    if bundle.first.event is not None:
        kinds[bundle.first.event.kind] -= 1
    told = [f"{kind} ×{count}" for kind, count in kinds.most_common(limits.ALERT_KINDS_TOLD_MAX) if count > 0]
    words = ", ".join(told) + (", …" if len(+kinds) > len(told) else "")
    return f", and {bundle.count - 1} more alerts" + (f": {plain(words)}" if words else "")
