"""Messages larger than a datagram: reassembly of received fragments. ``sent_fragments`` is the sender's side.

Sans-IO: it takes datagrams and ``now_ms`` (any monotonic clock, in milliseconds) and returns datagrams and outcomes.
``fragment_wire`` describes the format. This module authenticates nobody. It only checks that a completed message
matches the digest that its fragments carried. The message then goes through the verification of envelopes like any
other.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import islice
from operator import attrgetter
from typing import Final

import msgspec

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.errors import Reason
from crabnet.protocol.fragment_wire import (
    CHUNK_BYTES,
    Fragment,
    FragmentRequest,
    Shape,
    classify,
    fragment_count,
    parse_fragment,
    parse_request,
    request_datagram,
    split,
)
from crabnet.protocol.sent_fragments import MESSAGE_OVERHEAD_BYTES, SentCache, SentLimits
from crabnet.source import group_of

__all__ = [
    "CHUNK_BYTES",
    "Complete",
    "Dropped",
    "Fragment",
    "FragmentRequest",
    "Pending",
    "Reassembler",
    "ReassemblyLimits",
    "SentCache",
    "SentLimits",
    "Shape",
    "classify",
    "fragment_count",
    "parse_fragment",
    "parse_request",
    "request_datagram",
    "split",
]

_CHUNK_OVERHEAD_BYTES: Final = 160
_FRAGMENTS_PER_ANSWER: Final = limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX // limits.DATAGRAM_BYTES_MAX


class Complete(msgspec.Struct, frozen=True):
    """The last missing fragment arrived and the SHA-256 is right."""

    message: bytes


class Pending(msgspec.Struct, frozen=True):
    """The fragment was kept. ``held`` of ``count`` fragments are there."""

    digest: bytes
    held: int
    count: int


class Dropped(msgspec.Struct, frozen=True):
    """The fragment was not kept. The Reasons are:

    - MALFORMED_FRAGMENT: it is inconsistent, it contradicts a held fragment, or the whole message has another digest.
    - DUPLICATE: it is held already, or the message was completed a short time ago.
    - LIMIT_EXCEEDED: there is no room for this source.
    """

    reason: Reason


class ReassemblyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a Reassembler. Bytes are those of the held chunks plus bookkeeping."""

    bytes_max: int = limits.REASSEMBLY_BYTES_MAX
    messages_max: int = limits.REASSEMBLY_MESSAGES_MAX
    bytes_per_source_max: int = limits.REASSEMBLY_BYTES_PER_SOURCE_MAX
    messages_per_source_max: int = limits.REASSEMBLY_MESSAGES_PER_SOURCE_MAX
    ttl_ms: int = limits.REASSEMBLY_TTL_MS
    lifetime_ms: int = limits.REASSEMBLY_LIFETIME_MS
    quiet_ms: int = limits.REASSEMBLY_QUIET_MS
    completed_max: int = limits.REASSEMBLY_COMPLETED_MAX
    completed_ttl_ms: int = limits.REASSEMBLY_COMPLETED_TTL_MS


class _Assembly:
    """An incomplete message from one source."""

    __slots__ = (
        "bytes_held", "chunks", "count", "digest", "first_ms", "group", "key", "progress_ms", "request_due_ms",
        "requests_sent", "source",
    )  # fmt: skip

    def __init__(self, source: str, group: str, fragment: Fragment, now_ms: int) -> None:
        self.source = source
        self.group = group
        self.digest = fragment.digest
        self.count = fragment.count
        self.key = (source, fragment.digest, fragment.total_bytes)
        self.chunks: dict[int, bytes] = {}
        self.bytes_held = 0
        self.first_ms = now_ms
        self.progress_ms = now_ms
        self.requests_sent = 0
        self.request_due_ms = now_ms

    def missing(self, number_max: int) -> list[int]:
        return list(islice((index for index in range(self.count) if index not in self.chunks), number_max))


class _Share:
    """The messages of one source or one group of sources.

    The message that has had no new fragment for the longest time comes first.
    """

    __slots__ = ("assemblies", "bytes_held", "messages")

    def __init__(self) -> None:
        self.assemblies: OrderedDict[tuple[str, bytes, int], _Assembly] = OrderedDict()
        self.bytes_held = 0
        self.messages = 0

    def grow(self, assembly: _Assembly, cost: int) -> None:
        self.assemblies[assembly.key] = assembly
        self.assemblies.move_to_end(assembly.key)
        self.bytes_held += cost
        self.messages = len(self.assemblies)

    def remove(self, assembly: _Assembly) -> None:
        del self.assemblies[assembly.key]
        self.bytes_held -= assembly.bytes_held
        self.messages = len(self.assemblies)

    def quietest(self, keep: _Assembly) -> _Assembly | None:
        """The message without a new fragment for the longest time, other than ``keep``."""
        return next((assembly for assembly in self.assemblies.values() if assembly is not keep), None)


_BYTES_OF: Final[Callable[[_Share], int]] = attrgetter("bytes_held")
_MESSAGES_OF: Final[Callable[[_Share], int]] = attrgetter("messages")


class Reassembler:
    """Reassembles messages. Memory is bounded per source and in total, and grows only by bytes received.

    A *quiet* message has had no new fragment for a while. A source at its own bound loses its quietest message if that
    was quiet for ``quiet_ms``. Otherwise the new fragment is dropped. At the total bound, the heaviest group of sources
    (``crabnet.source.group_of``) loses a message, but only to a lighter group. A source never loses a message to one
    that already holds more.
    """

    def __init__(self, bounds: ReassemblyLimits | None = None) -> None:
        self._bounds = bounds if bounds is not None else ReassemblyLimits()
        self._all = _Share()
        self._sources: dict[str, _Share] = {}
        self._groups: dict[str, _Share] = {}
        self._groups_by_messages: Counter[int] = Counter()
        self._completed: BoundedTable[tuple[str, bytes], int] = BoundedTable(self._bounds.completed_max)
        self._evicted = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of incomplete messages, with their bookkeeping."""
        return self._all.bytes_held

    @property
    def messages_held(self) -> int:
        """Number of incomplete messages."""
        return self._all.messages

    @property
    def evicted(self) -> int:
        """Number of incomplete messages evicted for lack of room since the start."""
        return self._evicted

    def add(self, source: str, datagram: bytes, now_ms: int) -> Complete | Pending | Dropped:
        """Take one fragment from ``source``. ``datagram`` may be any bytes."""
        fragment = parse_fragment(datagram)
        if fragment is None:
            return Dropped(Reason.MALFORMED_FRAGMENT)
        if (self._completed.get((source, fragment.digest)) or now_ms) > now_ms:
            return Dropped(Reason.DUPLICATE)
        assembly = self._all.assemblies.get((source, fragment.digest, fragment.total_bytes))
        held = None if assembly is None else assembly.chunks.get(fragment.index)
        if held is not None:
            return Dropped(Reason.DUPLICATE if held == fragment.chunk else Reason.MALFORMED_FRAGMENT)
        if assembly is None:
            assembly = _Assembly(source, group_of(source), fragment, now_ms)
        if not self._store(assembly, fragment, now_ms):
            return Dropped(Reason.LIMIT_EXCEEDED)
        if len(assembly.chunks) < assembly.count:
            return Pending(assembly.digest, len(assembly.chunks), assembly.count)
        return self._finish(assembly, now_ms)

    def requests(self, now_ms: int) -> list[tuple[str, bytes]]:
        """The requests to send, as (source, datagram), for messages that have had no new fragment for a while.

        Each message is requested at most REASSEMBLY_REQUESTS_MAX times without progress, at growing intervals. One
        request names as many fragments as one answer can bring. A message of which few fragments have arrived gets few
        requests.
        """
        due = [assembly for assembly in self._all.assemblies.values() if self._is_due(assembly, now_ms)]
        due.sort(key=lambda assembly: assembly.request_due_ms)
        found: list[tuple[str, bytes]] = []
        for assembly in due:
            room = limits.REASSEMBLY_REQUESTS_PER_CALL_MAX - len(found)
            if room <= 0:
                break
            earned = 1 + len(assembly.chunks) // _FRAGMENTS_PER_ANSWER
            number = min(room, earned, limits.REASSEMBLY_REQUESTS_PER_ROUND_MAX)
            missing = assembly.missing(number * _FRAGMENTS_PER_ANSWER)
            for start in range(0, len(missing), _FRAGMENTS_PER_ANSWER):
                indexes = missing[start : start + _FRAGMENTS_PER_ANSWER]
                found.append((assembly.source, request_datagram(assembly.digest, indexes)))
            assembly.requests_sent += 1
            wait_ms = self._bounds.quiet_ms << assembly.requests_sent
            assembly.request_due_ms = now_ms + min(wait_ms, limits.REASSEMBLY_REQUEST_WAIT_MS_MAX)
        return found

    def expire(self, now_ms: int) -> list[tuple[str, bytes]]:
        """Drop incomplete messages that have timed out. Returns them as (source, digest)."""
        bounds = self._bounds
        expired = [
            assembly
            for assembly in self._all.assemblies.values()
            if now_ms - assembly.progress_ms >= bounds.ttl_ms or now_ms - assembly.first_ms >= bounds.lifetime_ms
        ]
        for assembly in expired:
            self._forget(assembly)
        while (completed := self._completed.first()) is not None and completed[1] <= now_ms:
            self._completed.pop_first()
        return [(assembly.source, assembly.digest) for assembly in expired]

    def _is_due(self, assembly: _Assembly, now_ms: int) -> bool:
        return assembly.request_due_ms <= now_ms and assembly.requests_sent < limits.REASSEMBLY_REQUESTS_MAX

    def _store(self, assembly: _Assembly, fragment: Fragment, now_ms: int) -> bool:
        """Make room, then keep the chunk. Returns False if there is no room for this source."""
        is_new = not assembly.chunks
        cost = len(fragment.chunk) + _CHUNK_OVERHEAD_BYTES + (MESSAGE_OVERHEAD_BYTES if is_new else 0)
        if not self._room_in_source(assembly, cost, is_new, now_ms):
            return False
        if not self._room_in_total(assembly, cost, is_new, now_ms):
            return False
        group = self._groups.setdefault(assembly.group, _Share())
        messages = group.messages
        for share in (self._all, self._sources.setdefault(assembly.source, _Share()), group):
            share.grow(assembly, cost)
        self._count(messages, group.messages)
        assembly.bytes_held += cost
        assembly.chunks[fragment.index] = fragment.chunk
        assembly.progress_ms = now_ms
        assembly.requests_sent = 0
        assembly.request_due_ms = now_ms + self._bounds.quiet_ms
        return True

    def _count(self, before: int, after: int) -> None:
        """Update the count of groups by number of messages. It gives the heaviest group without a search."""
        if before == after:
            return
        self._groups_by_messages[after] += 1
        self._groups_by_messages[before] -= 1
        for number in (before, after):
            if number == 0 or not self._groups_by_messages[number]:
                del self._groups_by_messages[number]

    def _room_in_source(self, newcomer: _Assembly, cost: int, is_new: bool, now_ms: int) -> bool:
        bounds = self._bounds
        if cost > bounds.bytes_per_source_max:
            return False
        while (share := self._sources.get(newcomer.source)) is not None and (
            share.bytes_held + cost > bounds.bytes_per_source_max
            or share.messages + is_new > bounds.messages_per_source_max
        ):
            victim = share.quietest(newcomer)
            if victim is None or now_ms - victim.progress_ms < bounds.quiet_ms:
                return False
            self._evict(victim)
        return True

    def _room_in_total(self, newcomer: _Assembly, cost: int, is_new: bool, now_ms: int) -> bool:
        bounds = self._bounds
        while self._all.bytes_held + cost > bounds.bytes_max:
            if not self._push_out(newcomer, cost, _BYTES_OF, now_ms):
                return False
        while self._all.messages + is_new > bounds.messages_max:
            if not self._push_out(newcomer, 1, _MESSAGES_OF, now_ms):
                return False
        return True

    def _push_out(self, newcomer: _Assembly, extra: int, weigh: Callable[[_Share], int], now_ms: int) -> bool:
        """Evict one message of a heaviest group for the newcomer. Returns False if no message may give way."""
        own = self._groups.get(newcomer.group)
        weight = extra + (weigh(own) if own is not None else 0)
        weights = self._groups_by_messages if weigh is _MESSAGES_OF else map(weigh, self._groups.values())
        heaviest = max(weights, default=0)
        if heaviest >= weight:
            oldest_first = (other for other in self._all.assemblies.values() if other is not newcomer)
            victim = next((other for other in oldest_first if weigh(self._groups[other.group]) == heaviest), None)
        else:
            victim = own.quietest(newcomer) if own is not None else None
        if victim is None or (heaviest <= weight and now_ms - victim.progress_ms < self._bounds.quiet_ms):
            return False
        self._evict(victim)
        return True

    def _finish(self, assembly: _Assembly, now_ms: int) -> Complete | Dropped:
        self._forget(assembly)
        message = b"".join(assembly.chunks[index] for index in range(assembly.count))
        if hashlib.sha256(message).digest() != assembly.digest:
            return Dropped(Reason.MALFORMED_FRAGMENT)
        self._completed.put((assembly.source, assembly.digest), now_ms + self._bounds.completed_ttl_ms)
        return Complete(message)

    def _evict(self, assembly: _Assembly) -> None:
        self._evicted += 1
        self._forget(assembly)

    def _forget(self, assembly: _Assembly) -> None:
        group = self._groups[assembly.group]
        messages = group.messages
        for share in (self._all, self._sources[assembly.source], group):
            share.remove(assembly)
        self._count(messages, group.messages)
        if not self._sources[assembly.source].messages:
            del self._sources[assembly.source]
        if not self._groups[assembly.group].messages:
            del self._groups[assembly.group]
