"""What every node must come to that holds the same envelopes: docs/adr/0026, once more and as plainly as can be.

Everything is computed from the set of envelopes, from scratch, with nothing of the code that it is compared with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from crabnet.protocol.envelope import Envelope
from tests.support.naive_facts import Entry, Fact, parse
from tests.support.naive_state import DISPUTED, Caps, NaiveSeed, NaiveState

FINAL = frozenset({"Accepted", "Rejected", "Expired", "Disputed"})
HOLDS = frozenset({"Claimed", "Running", "Done"})
STEPS = frozenset({"claim", "settle", "forfeit", "close"})
RENEWALS_MAX = 32

# --- What is held, and what stands (sections 1 to 4) ------------------------------------------------------

_MAY_REST_ON = {
    "bid": ("seed",),
    "claim": ("bid",),
    "start": ("claim",),
    "renewal": ("claim",),
    "result": ("claim", "start", "renewal"),
    "settle": ("result",),
    "forfeit": ("claim", "result"),
    "close": ("claim", "seed"),
    "ack": ("settle",),
}
_TOWARDS_THE_CLAIM = {"settle": ("result",), "result": ("start", "claim"), "start": ("claim",)}


class World:
    """All envelopes, which of them are held, which are the fronts, and which stand."""

    def __init__(
        self, envelopes: Iterable[bytes | Envelope], *, reached: bool = False, caps: Caps | None = None
    ) -> None:
        """``reached``: what is behind an end is held only when the front has come up to that end."""
        self.reached = reached
        raws = (each if isinstance(each, bytes) else each.raw for each in envelopes)
        self.entries = {entry.id: entry for entry in map(parse, raws)}
        self.facts = {entry.id: entry.fact for entry in self.entries.values() if entry.fact is not None}
        self.nothing = {fact.envelope for fact in self.facts.values() if not self._has_right_kind(fact)}
        self.places: dict[str, dict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in self.entries.values():
            self.places[entry.author][entry.seq].append(entry)
        self.ends: dict[str, int] = {}
        for author, places in self.places.items():
            forked = [seq for seq, entries in places.items() if len(entries) > 1]
            if forked:
                self.ends[author] = min(forked)
        self.fronts: dict[str, list[Entry]] = {author: [] for author in self.places}
        self.held: set[str] = set()
        self._hold()
        self.excess = self._beyond(caps or Caps())
        self.standing = {entry.id for front in self.fronts.values() for entry in front}
        self._pin()

    def behind(self, entry: Entry | Fact) -> bool:
        """True at or behind the end of the author's feed."""
        return entry.author in self.ends and entry.seq >= self.ends[entry.author]

    def heads(self) -> dict[str, tuple[int, str, bool]]:
        """The version vector."""
        heads = {}
        for author, front in self.fronts.items():
            ended = self.ends.get(author) == len(front) + 1
            if front or ended:
                heads[author] = (len(front), front[-1].id if front else "", ended)
        return heads

    def _may_come(self, entry: Entry) -> bool:
        """True if what the entry names is held and about the same seed."""
        if entry.fact is None or not entry.fact.rests_on:
            return True
        parent = self.facts.get(entry.fact.rests_on)
        if parent is None or parent.envelope in self.nothing or parent.envelope not in self.held:
            return False
        return parent.seed_id == entry.fact.seed_id

    def _has_right_kind(self, fact: Fact) -> bool:
        """What rests on something of another kind states nothing."""
        parent = self.facts.get(fact.rests_on)
        return parent is None or parent.kind in _MAY_REST_ON.get(fact.kind, ())

    def _hold(self) -> None:
        late = [entry for entry in self.entries.values() if self.behind(entry)]
        before = -1
        while len(self.held) > before:
            before = len(self.held)
            for author in self.fronts:
                self._advance(author)
            self.held |= {entry.id for entry in late if self._is_open(entry.author) and self._may_come(entry)}

    def _is_open(self, author: str) -> bool:
        return not self.reached or self.ends[author] == len(self.fronts[author]) + 1

    def _advance(self, author: str) -> None:
        front = self.fronts[author]
        while True:
            entries = self.places[author].get(len(front) + 1, [])
            prev = front[-1].id if front else ""
            if len(entries) != 1 or entries[0].prev != prev:  # two are the end
                return
            if not self._may_come(entries[0]):
                return
            front.append(entries[0])
            self.held.add(entries[0].id)

    def parent(self, fact: Fact | None, *kinds: str) -> Fact | None:
        """What a fact rests on, if that is of one of these kinds."""
        found = None if fact is None else self.facts.get(fact.rests_on)
        return found if found is not None and found.kind in kinds else None

    def seed_of(self, bid: Fact | None) -> Fact | None:
        """The definition that a bid rests on."""
        return self.parent(bid, "seed")

    def claim_of(self, fact: Fact | None) -> Fact | None:
        """The claim that a start, a result, or its settlement rests on in the end."""
        while fact is not None and fact.kind != "claim":
            fact = self.parent(fact, *_TOWARDS_THE_CLAIM.get(fact.kind, ()))
        return fact

    def _pins(self, fact: Fact, parent: Fact) -> bool:
        """True if ``fact`` lets what it names stand."""
        author, roles = fact.author, (fact.kind, parent.kind)
        if roles == ("bid", "seed"):
            return author != parent.author
        if roles == ("claim", "bid"):
            seed = self.seed_of(parent)
            return seed is not None and author == seed.author
        if roles in {("start", "claim"), ("renewal", "claim"), ("result", "claim")}:
            return bool(author == parent.body["worker"])
        if roles == ("result", "start"):
            return author == parent.author
        claim = self.claim_of(parent)
        if roles in {("settle", "result"), ("forfeit", "result")}:
            seed = self.seed_of(self.parent(claim, "bid"))
            return seed is not None and author == seed.author
        return roles == ("ack", "settle") and claim is not None and author == claim.body["worker"]

    def _pin(self) -> None:
        new = list(self.standing)
        while new:
            fact = self.facts.get(new.pop())
            parent = None if fact is None else self.facts.get(fact.rests_on)
            if fact is None or parent is None or parent.envelope in self.standing:
                continue
            if self._is_sound(fact) and self._pins(fact, parent):
                self.standing.add(parent.envelope)
                new.append(parent.envelope)

    def _is_valid(self, bid: Fact) -> bool:
        named = self.seed_of(bid)
        if named is None:
            return False
        return bool(bid.body["price"] >= named.body.get("min_price", 0) and bid.ts <= named.body["bid_deadline_ts"])

    def _is_sound(self, fact: Fact) -> bool:
        """True if a fact, and all that it rests on, keeps the rules that concern only these (section 4)."""
        if fact.envelope in self.nothing:
            return False
        if fact.kind == "seed":
            return True
        parent = self.facts.get(fact.rests_on)
        if parent is None or fact.envelope in self.excess or not self._is_sound(parent) or not self._fits(fact, parent):
            return False
        root = parent
        while root.kind != "seed":
            root = self.facts[root.rests_on]
        return fact.kind not in STEPS or fact.author == root.author

    def _fits(self, fact: Fact, parent: Fact) -> bool:
        body, named = fact.body, parent.body
        match fact.kind, parent.kind:
            case "bid", "seed":
                return self._is_valid(fact)
            case "claim", "bid":
                return (body["bid_id"], body["worker"]) == (parent.id, parent.author)
            case (("start" | "renewal" | "result"), "claim"):
                return bool(fact.author == named["worker"] and body["claim_id"] == parent.id)
            case "result", "start":
                return bool(fact.author == parent.author and body["claim_id"] == named["claim_id"])
            case ("settle", "result"):
                return not _failed(parent)
            case ("forfeit", "result"):
                return _failed(parent)
            case ("forfeit", "claim") | ("close", "claim") | ("close", "seed") | ("ack", "settle"):
                return True
        return False

    def _beyond(self, caps: Caps) -> set[str]:
        """Facts in the fronts that are beyond a cap (section 6)."""
        beyond = set()
        for front in self.fronts.values():
            seeds: set[str] = set()
            closed: set[str] = set()
            bids: dict[str, int] = defaultdict(int)
            said: dict[tuple[str, str], int] = defaultdict(int)
            for entry in front:
                fact = entry.fact
                if fact is None or fact.envelope in self.nothing:
                    continue
                about = fact.seed_id
                if fact.kind == "seed":
                    if len(seeds - closed) >= caps.open_seeds:
                        beyond.add(fact.envelope)
                    else:
                        seeds.add(about)
                elif fact.kind == "bid":
                    if not self._is_valid(fact):
                        continue
                    bids[about] += 1
                    if bids[about] > caps.bids_per_seed:
                        beyond.add(fact.envelope)
                else:
                    if fact.kind in {"settle", "close"}:
                        closed.add(about)
                    key, most = _cap_of(fact, caps)
                    parent = self.facts.get(fact.rests_on)
                    if parent is not None and self._fits(fact, parent):
                        said[key] += 1
                        if said[key] > most:
                            beyond.add(fact.envelope)
        return beyond


# --- What counts (section 5) ------------------------------------------------------------------------------


def _cap_of(fact: Fact, caps: Caps) -> tuple[tuple[str, str], int]:
    """What counts together towards a cap, and the cap."""
    if fact.kind in STEPS:
        return ("step", fact.seed_id), caps.steps_per_seed
    if fact.kind in {"start", "renewal"}:
        return ("start", fact.rests_on), caps.starts_per_step
    return (fact.kind, fact.rests_on), caps.results_per_step


def _failed(result: Fact) -> bool:
    return bool(result.body.get("failed") == "worker")


class _Walk:
    """The facts about one seed, in the order of section 5."""

    def __init__(self, world: World, definition: Fact, facts: list[Fact]) -> None:
        self.world = world
        self.definition = definition
        self.facts = facts
        self.status, self.attempt, self.renewals = "Open", 1, 0
        self.claim: Fact | None = None
        self.run: Fact | None = None
        self.result: Fact | None = None
        self.settled_at: int | None = None
        self.counted: set[str] = set()
        self.work: set[str] = set()
        self.bids = {fact.envelope: fact for fact in facts if fact.kind == "bid" and self._bid_counts(fact)}

    def _bid_counts(self, bid: Fact) -> bool:
        terms = self.definition.body
        return (
            bid.rests_on == self.definition.envelope
            and bid.body["price"] >= terms.get("min_price", 0)
            and bid.ts <= terms["bid_deadline_ts"]
        )

    def walk(self) -> NaiveSeed:
        steps = [fact for fact in self.facts if fact.kind in STEPS and fact.author == self.definition.author]
        for step in sorted((step for step in steps if not self.world.behind(step)), key=lambda step: step.seq):
            self._step(step)
        if self.status not in FINAL:
            self._behind([step for step in steps if self.world.behind(step)])
        if self.status == "Disputed":
            return DISPUTED
        named = self.claim is not None
        return NaiveSeed(
            self.status,
            self.attempt,
            self.claim.id if self.claim is not None else None,
            self.claim.body["worker"] if self.claim is not None else None,
            self.run.id if named and self.run is not None else None,
            self.result.id if named and self.result is not None else None,
            self.settled_at,
            self.renewals if self.status == "Running" else 0,
            frozenset(self.counted | self.work),
            self.definition.envelope,
        )

    def _step(self, step: Fact) -> None:
        if step.kind == "claim":
            follows = self.attempt + (self.status == "Forfeited")
            in_time = step.ts <= self._claim_deadline()
            if self.status in {"Open", "Forfeited"} and in_time and step.body.get("attempt", 1) == follows:
                self._take_claim(step)
        elif step.kind == "settle":
            self._settle(step)
        elif step.kind == "forfeit":
            self._forfeit(step)
        else:
            self._close(step)

    def _claim_deadline(self) -> int:
        terms = self.definition.body
        first = int(terms.get("claim_deadline_ts", terms["bid_deadline_ts"] + 3_600))
        if self.status != "Forfeited" or self.settled_at is None:
            return first
        return max(first, self.settled_at + max(0, first - int(terms["bid_deadline_ts"])))

    def _take_claim(self, claim: Fact) -> None:
        bid = self.bids.get(claim.rests_on)
        if bid is None or claim.body["bid_id"] != bid.id or claim.body["worker"] != bid.author:
            return
        self.counted |= {claim.envelope, bid.envelope}
        self.work = set()
        self.status, self.attempt, self.claim = "Claimed", claim.body.get("attempt", 1), claim
        self.run = self.result = self.settled_at = None
        self.renewals = 0
        for fact in sorted(self.facts, key=lambda fact: fact.seq):
            if fact.author == claim.body["worker"] and not self.world.behind(fact):
                self._do_work(fact)

    def _do_work(self, fact: Fact) -> None:
        if self.claim is None or fact.body.get("claim_id") != self.claim.id:
            return
        if fact.kind == "start" and self.status == "Claimed" and fact.rests_on == self.claim.envelope:
            self.status, self.run = "Running", fact
        elif fact.kind == "renewal" and self.status == "Running" and self.run is not None:
            fits = fact.rests_on == self.claim.envelope and fact.body["renews"] == self.run.id
            if not fits or self.renewals >= RENEWALS_MAX:
                return
            self.renewals += 1
        elif fact.kind == "result" and self.status in {"Claimed", "Running"}:
            if fact.rests_on != (self.run or self.claim).envelope:
                return
            self.status, self.result = "Done", fact
        else:
            return
        self.work.add(fact.envelope)

    def _names_attempt(self, step: Fact) -> bool:
        return (
            self.status in HOLDS
            and self.claim is not None
            and step.body.get("claim_id") == self.claim.id
            and step.body.get("attempt", 1) == self.attempt
        )

    def _settle(self, step: Fact) -> None:
        result = self.world.parent(step, "result")
        if not self._names_attempt(step) or result is None or step.body.get("result_id") != result.id:
            return
        if _failed(result):
            return
        if self.status == "Done":
            if self.result is None or result.envelope != self.result.envelope:
                return
        elif not self._take_named(result):
            return
        self.counted.add(step.envelope)
        self.status, self.settled_at = step.body["status"], step.ts

    def _take_named(self, result: Fact) -> bool:
        """True if a settlement lets this result count, which stands behind the end of its worker's feed."""
        claim = self.claim
        if claim is None or not self.world.behind(result) or result.envelope not in self.world.standing:
            return False
        if result.author != claim.body["worker"] or result.body["claim_id"] != claim.id:
            return False
        run = self.run
        if run is None:
            run = self.world.parent(result, "start")
            if run is not None:
                if run.author != result.author or run.body["claim_id"] != claim.id or run.rests_on != claim.envelope:
                    return False
                if run.envelope not in self.world.standing:
                    return False
        if result.rests_on != (run or claim).envelope:
            return False
        self.run, self.result = run, result
        self.work |= {fact.envelope for fact in (run, result) if fact is not None}
        return True

    def _forfeit(self, step: Fact) -> None:
        if not self._names_attempt(step) or self.claim is None:
            return
        failed = self.world.parent(step, "result")
        if failed is not None:
            counts = self.result is not None and failed.envelope == self.result.envelope
            if not _failed(failed) or not (counts if self.status == "Done" else self._take_named(failed)):
                return
        else:
            allowed_ms = max(self.definition.body["exec_deadline_ms"], self.definition.body["timeout_ms"])
            if step.rests_on != self.claim.envelope or step.ts * 1000 < self.claim.ts * 1000 + allowed_ms:
                return
        self.work = set()
        self.run = self.result = None
        self.counted.add(step.envelope)
        self.status, self.settled_at = "Forfeited", step.ts

    def _close(self, step: Fact) -> None:
        if self.status in FINAL:
            return
        if self.status in HOLDS:
            if not self._names_attempt(step) or self.claim is None or step.rests_on != self.claim.envelope:
                return
        elif step.rests_on != self.definition.envelope:
            return
        self.work = set()
        self.counted.add(step.envelope)
        self.attempt += self.status != "Open"
        self.claim = self.run = self.result = None
        self.status, self.settled_at = "Expired", step.ts

    def _behind(self, steps: list[Fact]) -> None:
        claims = [step for step in steps if step.kind == "claim"]
        settlements = [step for step in steps if step.kind == "settle"]
        seqs = {step.seq for step in (*claims, *settlements)}
        attempts = {claim.body.get("attempt", 1) for claim in claims}
        if len(seqs) < len(claims) + len(settlements) or len(attempts) < len(claims) or len(settlements) > 1:
            self.status = "Disputed"
            return
        for claim in sorted(claims, key=lambda claim: (claim.body.get("attempt", 1), claim.envelope)):
            attempt = claim.body.get("attempt", 1)
            if attempt > self.attempt or (attempt == self.attempt and self.status == "Open"):
                self._take_claim(claim)
        for settlement in settlements:
            claim_of_it = self.world.claim_of(settlement)
            if claim_of_it is None or self.claim is None or claim_of_it.envelope != self.claim.envelope:
                self.status = "Disputed"
            else:
                self._settle(settlement)


def expected(envelopes: Iterable[bytes | Envelope], caps: Caps | None = None, *, reached: bool = False) -> NaiveState:
    """Heads and seeds of a node that was given all these envelopes: signed ones of one namespace, in any order."""
    world = World(envelopes, reached=reached, caps=caps)
    about: dict[str, list[Fact]] = defaultdict(list)
    for envelope in world.standing - world.excess:
        fact = world.facts.get(envelope)
        if fact is not None and world._is_sound(fact):
            about[fact.seed_id].append(fact)
    seeds = {}
    for seed_id, facts in about.items():
        definitions = [fact for fact in facts if fact.kind == "seed"]
        if len(definitions) > 1:
            seeds[seed_id] = DISPUTED
        elif definitions:
            seeds[seed_id] = _Walk(world, definitions[0], facts).walk()
    return NaiveState(world.heads(), seeds)
