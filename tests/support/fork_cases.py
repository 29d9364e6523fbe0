"""Small histories with forks, each with where its seed stands then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from crabnet.protocol.envelope import Envelope
from tests.support.teller import Pen, Said, Teller

SCRIPTS = {
    "settled": ("seed", "bid", "claim", "start", "result", "settle", "ack"),
    "unstarted": ("seed", "bid", "claim", "result", "settle", "ack"),
    "forfeited": ("seed", "bid", "claim", "start", "forfeit"),
    "withdrawn": ("seed", "bid", "claim", "start", "result", "close"),
    "closed": ("seed", "bid", "close"),
}


class Case(NamedTuple):
    """A small history and where its seed stands then; ``status`` is None if there is no seed."""

    name: str
    envelopes: list[Envelope]
    seed_id: str
    status: str | None


class Lane(Teller):
    """One seed of ``creator``, a bid by ``worker``, and what follows, with an entry between that means nothing."""

    def __init__(self, script: tuple[str, ...], *, fillers: bool = True) -> None:
        super().__init__()
        self.creator, self.worker = Pen("creator"), Pen("worker")
        self.step: dict[str, Said] = {}
        for name in script:
            pen = self.creator if name in {"seed", "claim", "settle", "forfeit", "close"} else self.worker
            if fillers:
                self.filler(pen)
            self.step[name] = self._next(pen, name)

    def _next(self, pen: Pen, name: str) -> Said:
        step = self.step
        if name == "seed":
            return self.seed(pen, exec_deadline_ms=0)
        if name == "forfeit":
            return self.settle(pen, step["claim"], "Forfeited")
        if name == "close":
            return self.settle(pen, step.get("claim", step["seed"]), "Expired")
        says: dict[str, tuple[Callable[[Pen, Said], Said], str]] = {
            "bid": (self.bid, "seed"),
            "claim": (self.claim, "bid"),
            "start": (self.start, "claim"),
            "result": (self.result, "start" if "start" in step else "claim"),
            "settle": (self.settle, "result"),
            "ack": (self.acknowledge, "settle"),
        }
        say, parent = says[name]
        return say(pen, step[parent])

    def seq(self, name: str) -> int:
        """The place of a step."""
        return self.step[name].envelope.meta.seq


def status_by_table(lane: Lane, steps: tuple[str, ...], creator_end: int, worker_end: int) -> str | None:
    """Where the seed stands after these steps, by the table of pins, when the feeds end there."""

    def front(name: str, end: int) -> bool:
        return name in steps and lane.seq(name) < end

    ack = front("ack", worker_end)
    settle = front("settle", creator_end) or ("settle" in steps and ack)
    result = front("result", worker_end) or ("result" in steps and settle)
    start = front("start", worker_end) or ("start" in steps and result)
    claim = front("claim", creator_end) or ("claim" in steps and (start or result))
    bid = front("bid", worker_end) or ("bid" in steps and claim)
    seed = front("seed", creator_end) or ("seed" in steps and bid)
    if not seed:
        return None
    if front("close", creator_end):
        return "Expired"
    if front("forfeit", creator_end):
        return "Forfeited"
    reached = (("Accepted", settle), ("Done", result), ("Running", start), ("Claimed", claim))
    return next((status for status, holds in reached if holds), "Open")


def small_cases() -> Iterator[Case]:
    """Each script, told up to each step, with the creator, the worker, both or none forking at each of its places."""
    for script, steps in SCRIPTS.items():
        lane = Lane(steps)
        told = list(lane.envelopes)
        forks = {
            (pen, place): _second(lane, pen, place)
            for pen in (lane.creator, lane.worker)
            for place in range(1, pen.seq + 1)
        }
        for length in range(1, len(steps) + 1):
            so_far = told[: 2 * length]
            seqs = {pen: sum(each.meta.from_ == pen.id for each in so_far) for pen in (lane.creator, lane.worker)}
            places = (range(1, seqs[pen] + 2) for pen in (lane.creator, lane.worker))
            for ends in product(*places):
                extra = [
                    forks[pen, end]
                    for pen, end in zip((lane.creator, lane.worker), ends, strict=True)
                    if end <= seqs[pen]
                ]
                name = f"{script} up to {steps[length - 1]}, ends {ends}"
                status = status_by_table(lane, steps[:length], *ends)
                yield Case(name, so_far + extra, lane.step["seed"].id, status)


def _second(lane: Lane, pen: Pen, place: int) -> Envelope:
    """Another envelope for a place, as another copy of the author would write it."""
    lane.filler(pen.copy_before(place))
    return lane.envelopes[-1]


TO_BID = ("seed", "bid")
TO_CLAIM = (*TO_BID, "claim")
TO_START = (*TO_CLAIM, "start")
TO_RESULT = (*TO_START, "result")
TO_ACK = (*TO_RESULT, "settle", "ack")


class Yard(Lane):
    """A lane whose creator and worker fork before a named step; ``rival`` is another worker."""

    def __init__(self, script: tuple[str, ...]) -> None:
        super().__init__(script)
        self.rival = Pen("rival")

    def fork(self, name: str) -> Pen:
        """Another copy of the one who said this step, of which one entry is at its place already."""
        author = self.step[name].author
        pen = self.creator if author == self.creator.id else self.worker
        other = pen.copy_before(self.seq(name))
        self.filler(other)
        return other

    def case(self, name: str, status: str | None) -> Case:
        return Case(name, self.envelopes, self.step["seed"].id, status)

    def rivals_claim(self, attempt: int, *, other: Pen | None = None) -> tuple[Pen, Said]:
        """The creator forks before its claim, claims the rival's bid there, and the rival starts."""
        bid = self.bid(self.rival, self.step["seed"])
        creator = other or self.fork("claim")
        start = self.start(self.rival, self.claim(creator, bid, attempt))
        return creator, start


def hard_cases() -> list[Case]:
    """Forks of which the outcome hangs on a single rule."""
    return [*_seeds(), *_claims(), *_settlements(), *_results(), *_failures()]


def _seeds() -> list[Case]:
    two = Yard(TO_BID)
    copy = two.creator.copy_before(two.seq("seed"))
    second = two.seed(copy)
    two.bid(two.rival, second)
    one = Yard(TO_BID)
    one.seed(one.creator.copy_before(one.seq("seed")))
    own = Yard(("seed",))
    own.bid(own.creator, own.step["seed"])
    own.fork("seed")
    left = Yard(TO_BID)
    left.bid(left.rival, left.seed(left.creator.copy_before(left.seq("seed"))))
    left.filler(left.rival.copy_before(1))
    poor = Yard(("seed",))
    poor.bid(poor.rival, poor.step["seed"], 0)
    poor.fork("seed")
    return [
        two.case("two seeds with bids", "Disputed"),
        one.case("two seeds, a bid on one", "Open"),
        own.case("a bid by the creator pins nothing", None),
        left.case("two seeds with bids, one of which was taken back", "Open"),
        poor.case("a bid below the least price pins nothing", None),
    ]


def _claims() -> list[Case]:
    same = Yard(TO_START)
    same.rivals_claim(1)
    higher = Yard(TO_START)
    higher.rivals_claim(2)
    idle = Yard(TO_START)
    idle.claim(idle.fork("claim"), idle.bid(idle.rival, idle.step["seed"]), 2)
    place = Yard(TO_START)
    place.rivals_claim(2, other=place.creator.copy_before(place.seq("claim")))
    settled = Yard(TO_ACK)
    settled.rivals_claim(2)
    back = Yard(TO_START)
    back.rivals_claim(1)
    back.filler(back.rival.copy_before(back.rival.seq))
    kept = Yard(TO_RESULT)
    later = kept.creator.copy_before(kept.creator.seq + 1)
    kept.filler(kept.creator)
    kept.filler(later)
    kept.rivals_claim(1, other=later)
    final = Yard((*TO_RESULT, "settle"))
    after = final.creator.copy_before(final.creator.seq + 1)
    final.filler(final.creator)
    final.rivals_claim(2, other=after)
    return [
        same.case("two claims of one attempt that were both started", "Disputed"),
        higher.case("the claim of a later attempt counts", "Running"),
        place.case("two claims for one place that were both started", "Disputed"),
        idle.case("a later claim that nobody started", "Running"),
        settled.case("a settlement of another claim than the last", "Disputed"),
        back.case("a dispute ends when one worker's start is taken back", "Running"),
        kept.case("a claim before the end goes before one of the same attempt behind it", "Done"),
        final.case("a settlement before the end is final", "Accepted"),
    ]


def _settlements() -> list[Case]:
    two = Yard(TO_ACK)
    two.acknowledge(two.worker, two.settle(two.fork("settle"), two.step["result"], "Rejected"))
    one = Yard(TO_ACK)
    one.settle(one.fork("settle"), one.step["result"], "Rejected")
    changed = Yard((*TO_RESULT, "settle"))
    other = changed.settle(changed.fork("settle"), changed.step["result"], "Rejected")
    changed.acknowledge(changed.worker, other)
    stranger = Yard((*TO_RESULT, "settle"))
    stranger.acknowledge(stranger.rival, stranger.step["settle"])
    stranger.fork("settle")
    ended = Yard((*TO_START, "forfeit"))
    ended.acknowledge(ended.worker, ended.step["forfeit"])
    ended.fork("forfeit")
    return [
        two.case("two settlements that were acknowledged", "Disputed"),
        one.case("two settlements, one acknowledged", "Accepted"),
        changed.case("the settlement that was acknowledged counts", "Rejected"),
        stranger.case("a stranger's acknowledgement", "Done"),
        ended.case("an acknowledged forfeit is taken back", "Running"),
    ]


def _results() -> list[Case]:
    late = Yard(TO_RESULT)
    copy = late.worker.copy_before(late.worker.seq + 1)
    late.filler(late.worker)
    second = late.result(copy, late.step["start"])
    late.settle(late.creator, second)
    same_place = Yard((*TO_RESULT, "settle"))
    same_place.result(same_place.worker.copy_before(same_place.seq("result")), same_place.step["start"])
    first = Yard(TO_RESULT)
    other = first.result(first.worker.copy_before(first.seq("result")), first.step["start"])
    first.settle(first.creator, first.step["result"])
    first.settle(first.creator, other, "Rejected")
    wrong = Yard(TO_RESULT)
    branch = wrong.worker.copy_before(wrong.seq("result"))
    wrong.settle(wrong.creator, wrong.result(branch, wrong.step["claim"]))
    again = Yard(TO_START)
    copy = again.worker.copy_before(again.seq("start"))
    again.settle(again.creator, again.result(copy, again.start(copy, again.step["claim"])))
    unstarted = Yard(TO_START)
    copy = unstarted.worker.copy_before(unstarted.seq("start"))
    unstarted.settle(unstarted.creator, unstarted.result(copy, unstarted.step["claim"]), "Rejected")
    mistaken = Yard(TO_RESULT)
    mistaken.fork("result")
    mistaken.mistake = lambda stated: stated.update(attempt=2)
    mistaken.settle(mistaken.creator, mistaken.step["result"])
    same_id = Yard(TO_START)
    copy = same_id.worker.copy_before(same_id.seq("start"))
    same_id.settle(same_id.creator, same_id.result(copy, same_id.step["start"]), "Rejected")
    gone = Yard((*TO_START, "forfeit"))
    gone.result(gone.worker, gone.step["start"])
    return [
        late.case("a settlement names a result behind while one before the end counts", "Done"),
        same_place.case("two results with the same object id, one settled", "Accepted"),
        first.case("the first of two settlements of results behind counts", "Accepted"),
        wrong.case("a settled result behind that passes over a start that counts", "Running"),
        again.case("a settled result lets the start count that it names", "Accepted"),
        unstarted.case("a settled result behind that rests on the claim", "Rejected"),
        mistaken.case("a settlement that is void lets no result behind count", "Running"),
        same_id.case("a start and a settled result of it for one place, and so with one object id", "Rejected"),
        gone.case("a result after a forfeit", "Forfeited"),
    ]


def _failures() -> list[Case]:
    """Forfeits that rest on what the worker says of itself (ADR 31)."""
    plain = Yard(TO_START)
    plain.settle(plain.creator, plain.result(plain.worker, plain.step["start"], "worker"), "Forfeited")
    unstarted = Yard(TO_CLAIM)
    unstarted.settle(
        unstarted.creator, unstarted.result(unstarted.worker, unstarted.step["claim"], "worker"), "Forfeited"
    )
    of_task = Yard(TO_START)
    of_task.settle(of_task.creator, of_task.result(of_task.worker, of_task.step["start"], "task"), "Forfeited")
    settled = Yard(TO_START)
    settled.settle(settled.creator, settled.result(settled.worker, settled.step["start"], "worker"), "Rejected")
    pinned = Yard(TO_START)
    failed = pinned.result(pinned.worker, pinned.step["start"], "worker")
    pinned.settle(pinned.creator, failed, "Forfeited")
    pinned.claim(pinned.creator, pinned.bid(pinned.rival, pinned.step["seed"]), 2)
    pinned.filler(pinned.worker.copy_before(failed.envelope.meta.seq))
    begun = Yard(TO_START)
    failed = begun.result(begun.worker, begun.step["start"], "worker")
    begun.settle(begun.creator, failed, "Forfeited")
    begun.fork("start")
    two = Yard(TO_START)
    branch = two.worker.copy_before(two.seq("start") + 1)
    good = two.result(two.worker, two.step["start"])
    two.settle(two.creator, two.result(branch, two.step["start"], "worker"), "Forfeited")
    two.settle(two.creator, good)
    back = Yard(TO_START)
    forfeit = back.settle(back.creator, back.result(back.worker, back.step["start"], "worker"), "Forfeited")
    back.filler(back.creator.copy_before(forfeit.envelope.meta.seq))
    stranger = Yard(TO_START)
    stranger.settle(stranger.rival, stranger.result(stranger.worker, stranger.step["start"], "worker"), "Forfeited")
    return [
        plain.case("a forfeit that rests on a failure", "Forfeited"),
        unstarted.case("a forfeit that rests on a failure before the start", "Forfeited"),
        of_task.case("a forfeit that rests on a failure of the task", "Done"),
        settled.case("a failure of the worker that was settled", "Done"),
        pinned.case("a forfeit pins the failure, and the next attempt stands", "Claimed"),
        begun.case("a forfeit pins the start, too", "Forfeited"),
        two.case("a forfeit says which of two results counts", "Forfeited"),
        back.case("a forfeit behind the end is taken back", "Done"),
        stranger.case("a stranger's forfeit", "Done"),
    ]
