"""The requests of callers that this node has answered, so that a repeated request is done once (ADR 32)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.replica.records import NO_ANSWER, RequestRecord


class Requests:
    """Requests by the id that their caller chose, last put last, bounded by age and number.

    Answers have a bound of their own. A request whose answer is not kept can be answered again from what it stated.
    """

    def __init__(self, *, ttl_s: int, capacity: int) -> None:
        self._ttl_s = ttl_s
        self._requests: BoundedTable[str, RequestRecord] = BoundedTable(capacity)
        self._answers: BoundedTable[str, bytes] = BoundedTable(limits.REQUEST_ANSWERS_BYTES_MAX)

    def __len__(self) -> int:
        return len(self._requests)

    def get(self, request_id: str, now_s: int) -> RequestRecord | None:
        """A request with its answer, if it has one; None for an unknown id."""
        found = self._requests.get(request_id)
        if found is None or found.at_s < now_s - self._ttl_s:
            return None
        answer = self._answers.get(request_id)
        return found if answer is None else msgspec.structs.replace(found, answer=Raw(answer))

    def put(self, record: RequestRecord) -> None:
        """Add a request, or its answer."""
        answer = bytes(record.answer)
        bare = msgspec.structs.replace(record, answer=NO_ANSWER)
        for evicted, _ in self._requests.put(record.request_id, bare):
            self._answers.pop(evicted)
        self._answers.pop(record.request_id)  # an id may be used again after its time
        if answer != bytes(NO_ANSWER):
            self._answers.put(record.request_id, answer, max(1, len(answer)))

    def prune(self, now_s: int) -> None:
        """Forget the requests that are older than the time to live."""
        while (oldest := self._requests.first()) is not None and oldest[1].at_s < now_s - self._ttl_s:
            self._requests.pop_first()
            self._answers.pop(oldest[0])

    def entries(self) -> Iterator[RequestRecord]:
        """All requests with their answers, last put last, for the checkpoint."""
        for request_id, record in self._requests.items():
            answer = self._answers.get(request_id)
            yield record if answer is None else msgspec.structs.replace(record, answer=Raw(answer))
