"""What is not theirs to say: sound envelopes of strangers about the seeds of others."""

from __future__ import annotations

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from tests.hostile.case import Group, Recipe, Row, Sent, Stranger, made

R = Reason
SEEDS = ("open", "full", "claimed", "done", "accepted", "expired")
SETTLED = ("open", "claimed", "done", "accepted", "expired")


def _refused(name: str, recipe: Recipe, reason: Reason = R.UNAUTHORISED) -> Row:
    return Row(name, recipe, reason)


def _settling(seed: str, status: str) -> Row:
    how = f"a stranger says that the {seed} seed is {status}"
    named = {
        "Accepted": {"done", "accepted"},
        "Rejected": {"done", "accepted"},
        "Forfeited": {"claimed", "done", "accepted"},
    }
    there = seed in named.get(status, SEEDS)
    recipe = Recipe(how, lambda stranger: stranger.settles(seed, status))
    return _refused(f"settles {seed} as {status}", recipe, R.UNAUTHORISED if there else R.WRONG_PARENT)


def _creating_again(seed: str) -> Row:
    def make(stranger: Stranger) -> Sent:
        there = stranger.targets.seed(seed)
        return stranger.small_seed(**{key: there[key] for key in ("id", "title", "command", "created_by")})

    return _refused(f"creates {seed} again", Recipe(f"the {seed} seed as the stranger's first, creator and all", make))


def _creating_as_own(seed: str) -> Row:
    def make(stranger: Stranger) -> Sent:
        return stranger.small_seed(id=stranger.targets.seed(seed)["id"], command="echo other")

    how = f"a seed of the stranger under the id of the {seed} seed, with another command"
    return _refused(f"creates {seed} as its own", Recipe(how, make), R.WRONG_ID)


@made("a claim of another's seed for its bidder")
def _claims(stranger: Stranger) -> Sent:
    return stranger.claims("open")


@made("a claim of another's seed for the stranger")
def _claims_for_itself(stranger: Stranger) -> Sent:
    return stranger.claims("open", worker=stranger.id)


@made("a claim of a claimed seed")
def _claims_claimed(stranger: Stranger) -> Sent:
    return stranger.claims("claimed")


@made("a claim of a settled seed, as its second attempt")
def _claims_settled(stranger: Stranger) -> Sent:
    return stranger.claims("accepted", attempt=2)


@made("a claim of an expired seed with the bid of another")
def _claims_expired(stranger: Stranger) -> Sent:
    return stranger.claims("open", seed_id=stranger.targets.seed("expired")["id"])


@made("the start of another's run")
def _starts(stranger: Stranger) -> Sent:
    return stranger.starts("claimed")


@made("the start of another's run in the name of its worker")
def _starts_as_worker(stranger: Stranger) -> Sent:
    return stranger.starts("claimed", worker=stranger.targets.creator)


@made("the start of a run that is settled")
def _starts_settled(stranger: Stranger) -> Sent:
    return stranger.starts("accepted")


@made("a result for another's claim")
def _returns(stranger: Stranger) -> Sent:
    return stranger.returns("claimed")


@made("a result in the name of the worker")
def _returns_as_worker(stranger: Stranger) -> Sent:
    return stranger.returns("claimed", worker=stranger.targets.creator)


@made("a second result of a finished run")
def _returns_again(stranger: Stranger) -> Sent:
    return stranger.returns("done")


@made("a result of a settled run")
def _returns_late(stranger: Stranger) -> Sent:
    return stranger.returns("accepted")


@made("a result that rests on an envelope that nobody has seen")
def _returns_for_unknown(stranger: Stranger) -> Sent:
    return stranger.returns("claimed", rests_on="0" * 64)


@made("a result that rests on the settlement of the seed")
def _returns_for_settlement(stranger: Stranger) -> Sent:
    return stranger.returns("accepted", rests_on=stranger.targets.last_of("accepted", "settlements"))


@made("a claim that rests on the seed")
def _claims_the_seed(stranger: Stranger) -> Sent:
    return stranger.claims("open", rests_on=stranger.targets.last_of("open"))


@made("a claim of the bid of another for the stranger")
def _claims_otherwise(stranger: Stranger) -> Sent:
    return stranger.claims("open", bid_id="another-bid")


@made("a bid that rests on a bid")
def _bids_on_a_bid(stranger: Stranger) -> Sent:
    return stranger.bids("open", rests_on=stranger.targets.last_of("open", "bids"))


@made("a bid that rests on the envelope of another seed")
def _bids_on_another(stranger: Stranger) -> Sent:
    return stranger.bids("open", rests_on=stranger.targets.last_of("claimed"))


@made("a bid that says that its seed is unsigned")
def _bids_on_unsigned(stranger: Stranger) -> Sent:
    return stranger.bids("open", rests_on="")


@made("the word that a settlement of another's work was seen")
def _acknowledges(stranger: Stranger) -> Sent:
    return stranger.acknowledges("accepted")


@made("the same in the name of the worker")
def _acknowledges_as_worker(stranger: Stranger) -> Sent:
    return stranger.acknowledges("accepted", worker=stranger.targets.creator)


@made("the word that the settlement of an open seed was seen")
def _acknowledges_nothing(stranger: Stranger) -> Sent:
    return stranger.acknowledges("open")


@made("a settlement of the finished seed that names a claim and a result of nobody")
def _settles_otherwise(stranger: Stranger) -> Sent:
    return stranger.settles("done", "Accepted", claim_id="no-such-claim", result_id="no-such-result")


@made("a bid in the name of another")
def _bids_for_another(stranger: Stranger) -> Sent:
    return stranger.bids("open", bidder=stranger.targets.creator)


@made("a bid below the lowest price")
def _bids_too_little(stranger: Stranger) -> Sent:
    return stranger.bids("open", price=4)


@made("a bid a second after the deadline")
def _bids_too_late(stranger: Stranger) -> Sent:
    stranger.now_s = int(str(stranger.targets.seed("expired")["bid_deadline_ts"])) + 1
    return stranger.bids("expired")


@made("a second bid for a seed that takes one")
def _bids_too_many(stranger: Stranger) -> Sent:
    stranger.now_s += 2
    return stranger.bids("full")


@made("a bid for a seed that nobody knows")
def _bids_for_nothing(stranger: Stranger) -> Sent:
    return stranger.bids("open", seed_id="no-such-seed")


@made("a claim of a seed that nobody knows")
def _claims_nothing(stranger: Stranger) -> Sent:
    return stranger.claims("open", seed_id="no-such-seed")


@made("a seed in the name of another")
def _offers_for_another(stranger: Stranger) -> Sent:
    return stranger.small_seed(created_by=stranger.targets.creator)


def _waits(name: str, recipe: Recipe, reason: Reason) -> Row:
    return Row(name, recipe, reason, Outcome.IGNORED, "envelope_parked")


AUTHORITY = Group(
    "Authority",
    "Soundly signed and formed, by somebody to whom it does not belong. They keep their place, and change nothing.",
    [
        _refused("claims another's seed", _claims),
        _refused("claims it for itself", _claims_for_itself, R.WRONG_PARENT),
        _refused("claims the seed itself", _claims_the_seed, R.WRONG_PARENT),
        _refused("claims another bid", _claims_otherwise, R.WRONG_PARENT),
        _refused("claims a claimed seed", _claims_claimed),
        _refused("claims a settled seed", _claims_settled),
        _waits("claims an expired seed", _claims_expired, R.UNKNOWN_PARENT),
        _refused("starts another's run", _starts),
        _refused("starts it as the worker", _starts_as_worker),
        _refused("starts a settled run", _starts_settled),
        _refused("returns a result for another", _returns),
        _refused("returns it as the worker", _returns_as_worker),
        _refused("returns another result", _returns_again),
        _refused("returns a late result", _returns_late),
        _waits("returns a result for nothing known", _returns_for_unknown, R.UNKNOWN_PARENT),
        _refused("returns a result for a settlement", _returns_for_settlement, R.WRONG_PARENT),
        _refused("acknowledges another's settlement", _acknowledges),
        _refused("acknowledges it as the worker", _acknowledges_as_worker),
        _refused("acknowledges an open seed", _acknowledges_nothing, R.WRONG_PARENT),
        *(_settling(seed, status) for seed in SETTLED for status in ("Accepted", "Rejected", "Forfeited", "Expired")),
        _refused("settles something else", _settles_otherwise),
        *(_creating_again(seed) for seed in SEEDS),
        *(_creating_as_own(seed) for seed in SEEDS),
        _refused("bids for another", _bids_for_another),
        _refused("bids too little", _bids_too_little, R.PRICE_TOO_LOW),
        _refused("bids too late", _bids_too_late, R.DEADLINE_PASSED),
        Row("bids one too many", _bids_too_many, R.TOO_MANY_BIDS, Outcome.IGNORED),
        _waits("bids for nothing known", _bids_for_nothing, R.UNKNOWN_PARENT),
        _waits("bids on another seed's envelope", _bids_on_another, R.UNKNOWN_PARENT),
        _refused("bids on a bid", _bids_on_a_bid, R.WRONG_PARENT),
        Row("bids on a seed that it calls unsigned", _bids_on_unsigned, R.UNKNOWN_SEED, Outcome.IGNORED),
        _waits("claims nothing known", _claims_nothing, R.UNKNOWN_PARENT),
        _refused("offers for another", _offers_for_another),
    ],
    keeps_place=True,
)
