"""Payloads that are not what their kind demands, in envelopes that are soundly signed and chained."""

from __future__ import annotations

from collections.abc import Callable

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, object_id
from tests.hostile.case import Group, Recipe, Row, Sent, Stranger, brief, made, resigned, seed_with

R = Reason
BODIES = {
    Kind.SEED_CREATED: "seed",
    Kind.BID_SUBMITTED: "bid",
    Kind.CLAIM_CREATED: "claim",
    Kind.TASK_STARTED: "run",
    Kind.TASK_RESULT: "result",
    Kind.TASK_SETTLE: "seed",
    Kind.SETTLE_ACKNOWLEDGED: "acknowledgement",
}


def _bad(name: str, recipe: Recipe, reason: Reason = R.MALFORMED) -> Row:
    return Row(name, recipe, reason)


def _said(kind: Kind, payload: JsonObject, how: str) -> Recipe:
    return Recipe(how, lambda stranger: stranger.say(kind, payload, stranger.now_s))


def _foreign_body(kind: Kind, key: str) -> Recipe:
    """The body of another kind, under its own name."""

    def make(stranger: Stranger) -> Sent:
        bodies = {
            "seed": stranger.seed(stranger.now_s),
            "bid": _payload(stranger.bids)["bid"],
            "result": _payload(stranger.returns)["result"],
        }
        stranger.seq, stranger.head = 0, ""
        return stranger.say(kind, {key: bodies[key]}, stranger.now_s)

    return Recipe(f"a {kind} that holds a {key}", make)


def _wrong_body(kind: Kind) -> Recipe:
    """The body of another kind, under the name that the kind demands."""

    def make(stranger: Stranger) -> Sent:
        other = stranger.seed(stranger.now_s) if BODIES[kind] != "seed" else _payload(stranger.bids)["bid"]
        stranger.seq, stranger.head = 0, ""
        return stranger.say(kind, {BODIES[kind]: other}, stranger.now_s)

    return Recipe(f"a {kind} whose `{BODIES[kind]}` is something else", make)


def _payload(make: Callable[[], Envelope]) -> JsonObject:
    return make().payload


def _bid(name: str, reason: Reason = R.MALFORMED, **changes: JsonValue) -> Row:
    return _bad(
        name, Recipe(f"a bid with `{brief(changes)}`", lambda stranger: stranger.bids("open", **changes)), reason
    )


def _result(name: str, reason: Reason = R.MALFORMED, **changes: JsonValue) -> Row:
    return _bad(
        name,
        Recipe(f"a result with `{brief(changes)}`", lambda stranger: stranger.returns("claimed", **changes)),
        reason,
    )


def _claim(name: str, reason: Reason = R.MALFORMED, **changes: JsonValue) -> Row:
    return _bad(
        name, Recipe(f"a claim with `{brief(changes)}`", lambda stranger: stranger.claims("open", **changes)), reason
    )


def _seed(name: str, reason: Reason = R.MALFORMED, **changes: JsonValue) -> Row:
    return _bad(name, seed_with(**changes), reason)


def _settle(name: str, status: JsonValue, **changes: JsonValue) -> Row:
    how = f"a settlement of the finished seed with status `{status}` and `{brief(changes)}`"
    return _bad(name, Recipe(how, lambda stranger: stranger.settles("done", status, **changes)))


def _id_of_seq(seq: int) -> Recipe:
    def make(stranger: Stranger) -> Sent:
        return stranger.small_seed(id=object_id("default", stranger.id, seq))

    return Recipe(f"its first seed has the id of its number {seq}", make)


@made("its seed has its id in upper case")
def _id_upper(stranger: Stranger) -> Sent:
    return stranger.small_seed(id=stranger.next_object_id().upper())


@made("its bid has the id of a bid that is there")
def _id_taken(stranger: Stranger) -> Sent:
    return stranger.bids(id=stranger.targets.part("open", "bids")["id"])


@made("its seed has the id of the same place in another namespace")
def _id_elsewhere(stranger: Stranger) -> Sent:
    return stranger.small_seed(id=object_id("elsewhere", stranger.id, 1))


@made("a bid dated a second before its envelope")
def _other_time(stranger: Stranger) -> Sent:
    return stranger.bids(created_at=stranger.now_s - 1)


RESTS_ON: dict[str, JsonValue] = {
    "null": None,
    "a number": 1,
    "63 digits": "0" * 63,
    "65 digits": "0" * 65,
    "capitals": "A" * 64,
    "a line break": "0" * 64 + "\n",
}
KINDS = [Kind.SEED_CREATED, Kind.BID_SUBMITTED, Kind.CLAIM_CREATED, Kind.TASK_STARTED, Kind.TASK_RESULT]
PAYLOADS = Group(
    "Payloads",
    "Soundly signed and chained, with a payload that says nothing. They keep their place in their author's feed.",
    [
        *(_bad(f"{kind} of nothing", _said(kind, {}, f"a {kind} with an empty payload")) for kind in BODIES),
        *(
            _bad(f"{kind} of null", _said(kind, {BODIES[kind]: None}, f"a {kind} whose `{BODIES[kind]}` is null"))
            for kind in BODIES
        ),
        *(_bad(f"{kind} of a list", _said(kind, {BODIES[kind]: []}, f"a {kind} of a list")) for kind in KINDS),
        *(_bad(f"{kind} of another body", _wrong_body(kind)) for kind in BODIES),
        _bad("a bid in a SeedCreated", _foreign_body(Kind.SEED_CREATED, "bid")),
        _bad("a seed in a BidSubmitted", _foreign_body(Kind.BID_SUBMITTED, "seed")),
        _bad("a result in a TaskSettle", _foreign_body(Kind.TASK_SETTLE, "result")),
        _bad("a bid in a TaskResult", _foreign_body(Kind.TASK_RESULT, "bid")),
        _bad("a seed in a TaskSettle", _foreign_body(Kind.TASK_SETTLE, "seed")),
        _bid("price below 0", price=-1),
        _bid("price as text", price="5"),
        _bid("price true", price=True),
        _bid("price null", price=None),
        _bid("notes too long", notes="x" * 4_097),
        _bid("notes a list", notes=[]),
        _bid("seed_id empty", seed_id=""),
        _bid("seed_id of 129 characters", seed_id="s" * 129),
        _bid("seed_id a number", seed_id=1),
        _bid("bidder empty", bidder=""),
        _bid("bidder null", bidder=None),
        *(_bid(f"bid on {name}", rests_on=value) for name, value in RESTS_ON.items()),
        *(_claim(f"claim of {name}", rests_on=value) for name, value in RESTS_ON.items()),
        *(_result(f"result of {name}", rests_on=value) for name, value in RESTS_ON.items()),
        *(_settle(f"settlement of {name}", "Accepted", rests_on=value) for name, value in RESTS_ON.items()),
        _bad("bid at another time", _other_time),
        _bad("bid under a taken id", _id_taken, R.WRONG_ID),
        _seed("command empty", command=""),
        _seed("command missing", command=None),
        _seed("command a list", command=["echo", "hi"]),
        _seed("command too long", command="x" * 65_537),
        _seed("title missing", title=None),
        _seed("title of 513 characters", title="t" * 513),
        _seed("description too long", description="d" * 65_537),
        _seed("rules too long", rules="r" * 65_537),
        _seed("timeout below 0", timeout_ms=-1),
        _seed("max_bids below 0", max_bids=-1),
        _seed("reward as text", reward="10"),
        _seed("deadline false", bid_deadline_ts=False),
        _seed("created at another time", created_at=0),
        _seed("created by a stranger's stranger", R.UNAUTHORISED, created_by="12D3KooWsomebodyelse"),
        _seed("created by a number", created_by=1),
        _seed("id chosen", R.WRONG_ID, id="my-seed"),
        _seed("id of 129 characters", id="i" * 129),
        _bad("id of the next place", _id_of_seq(2), R.WRONG_ID),
        _bad("id of place 0", _id_of_seq(0), R.WRONG_ID),
        _bad("id of another namespace", _id_elsewhere, R.WRONG_ID),
        _bad("id in upper case", _id_upper, R.WRONG_ID),
        _claim("attempt 0", attempt=0),
        _claim("attempt 101", attempt=101),
        _claim("attempt as text", attempt="1"),
        _claim("bid_id empty", bid_id=""),
        _result("exit code 2^31", exit_code=2**31),
        _result("exit code as text", exit_code="0"),
        _result("timed out 0", timed_out=0),
        _result("output too long", stdout="x" * 131_073),
        _result("hash too long", output_hash="0" * 129),
        _result("duration below 0", duration_ms=-1),
        _result("no claim", claim_id=None),
        _result("an end without a cause", termination={}),
        _result("an end of a number", termination={"cause": 1}),
        _settle("status unknown", "Perfect"),
        _settle("status null", None),
        _settle("status a number", 1),
        _settle("settled attempt 0", "Accepted", attempt=0),
        _settle("note too long", "Accepted", note="n" * 65_537),
        *(_settle(f"settled as {status}", status) for status in ("Open", "Claimed", "Running", "Done", "accepted")),
        Row(
            "a kind of a later version",
            resigned(kind="SeedPraised"),
            R.UNKNOWN_KIND,
            Outcome.IGNORED,
        ),
    ],
    keeps_place=True,
)
