"""What strangers can send, each as a way to make a node write, keep or reckon more than was sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count

from crabnet.core.commands import Tick
from crabnet.protocol import sync
from crabnet.protocol.envelope import Envelope, Kind, seal
from crabnet.protocol.fork_proof import document_of
from crabnet.protocol.sync import Head, Heads
from tests.support.envelopes import NOW_S, Author, body_of, edit, job, signer
from tests.support.talking import Neighbour
from tests.support.victim import Victim

FAT = "x" * 30_000
AT_REST: dict[str, int] = {"claim_deadline_ts": 1, "bid_deadline_ts": 2**40}
"""Terms of a seed that is at rest from the beginning, and can be bid on for ever."""
BIDS_OF_ONE = 32
STEPS_OF_ONE = 255

Attack = Callable[[Victim], Awaitable[None]]


def other(author: Author, at: Envelope) -> Envelope:
    """An envelope of a later version for a place that its author has used."""
    return author.twin().rewind(at).say(Kind.UNKNOWN, {})


async def late_bids(victim: Victim) -> None:
    """On a fat seed that comes back from the archive for each."""
    seed = Author("creator").publish(NOW_S, description=FAT, rules=FAT, **AT_REST)
    await victim.tell(seed)
    for number in range(40):
        await victim.wait()
        await victim.tell(Author(f"bidder {number}").bid(seed))


async def disputes_of_an_archived_seed(victim: Victim) -> None:
    """A dispute begins and ends with each accomplice, about a seed with many bids that goes to the archive between."""
    creator = Author("creator")
    seed = creator.publish(NOW_S, **AT_REST)
    rival = creator.twin().rewind(seed).publish(NOW_S, title="other", **AT_REST)
    bids = [Author(f"bidder {number}").bid(seed, notes="n" * 4_000) for number in range(30)]
    await victim.tell(seed, *bids, rival)
    for number in range(40):
        accomplice = Author(f"accomplice {number}")
        bid = accomplice.bid(rival)
        await victim.tell(bid)
        if number == 0:
            await victim.tell(rival)
        await victim.wait()
        await victim.tell(other(accomplice, bid))
        await victim.wait()


async def a_definition_that_comes_and_goes(victim: Victim) -> None:
    """A fat seed behind the end of its creator's feed, bid on by accomplices each of whom takes its bid back."""
    creator = Author("creator")
    seed = creator.publish(description=FAT, rules=FAT)
    await victim.tell(seed, other(creator, seed))
    for number in range(40):
        accomplice = Author(f"accomplice {number}")
        bid = accomplice.bid(seed)
        await victim.tell(bid)
        if number == 0:
            await victim.tell(seed)
        await victim.tell(other(accomplice, bid))


async def _claims_that_come_and_go(victim: Victim, attempt: int, results: int) -> None:
    """Behind the end of its feed the creator claims the bids of accomplices, each of whom takes its start back."""
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    start = worker.start(claim)
    work = [worker.finish(start, stdout=FAT * 3, exit_code=number) for number in range(results)]
    await victim.tell(seed, bid, claim, start, *work)
    if attempt == 1:
        creator.rewind(claim)
    last = creator.say(Kind.UNKNOWN, {})
    await victim.tell(last, other(creator, last))
    await _starts_that_come_and_go(victim, seed, creator, attempt, accomplices=40)


async def _starts_that_come_and_go(
    victim: Victim, seed: Envelope, creator: Author, attempt: int, accomplices: int
) -> None:
    """From where it is the creator claims the bid of each accomplice, who starts and then takes that back."""
    for number in range(accomplices):
        accomplice, branch = Author(f"accomplice {number}"), creator.twin()
        branch.nonce += 1_000 * number
        bid = accomplice.bid(seed)
        claim = branch.claim(bid, attempt=attempt)
        start = accomplice.start(claim)
        await victim.tell(bid, start, claim)
        await victim.tell(other(accomplice, start))


async def a_dispute_about_results(victim: Victim) -> None:
    """Two claims of one attempt, of one of which there are many results, come and go."""
    await _claims_that_come_and_go(victim, attempt=1, results=10)


async def a_claim_of_a_later_attempt(victim: Victim) -> None:
    """While it stands, the fat result of the claim before does not count."""
    await _claims_that_come_and_go(victim, attempt=2, results=1)


async def a_dispute_about_forfeited_attempts(victim: Victim, attempts: int = 8, accomplices: int = 60) -> None:
    """Two claims of the last of many attempts, each of which was renewed many times, come and go."""
    creator = Author("creator")
    seed = creator.publish(exec_deadline_ms=0, timeout_ms=1, claim_deadline_ts=NOW_S + 3_600)
    await victim.tell(seed)
    for attempt in range(1, attempts + 1):
        now_s = NOW_S + 2 * attempt
        worker = Author(f"worker {attempt}")
        bid = worker.bid(seed)
        claim = creator.claim(bid, now_s, attempt=attempt)
        start = worker.start(claim, now_s)
        again = {"renews": body_of(start)["id"], "lease_ms": 60_000}
        await victim.tell(bid, claim, start, *[worker.start(claim, now_s, **again) for _ in range(62)])
        if attempt < attempts:
            await victim.tell(creator.settle(claim, "Forfeited", now_s + 1, attempt=attempt))
    last = creator.rewind(claim).say(Kind.UNKNOWN, {})
    await victim.tell(last, other(creator, last))
    await _starts_that_come_and_go(victim, seed, creator.twin().rewind(last), attempts, accomplices)


async def honest_seeds(victim: Victim) -> None:
    """Small tasks of ten authors."""
    authors = [Author(f"author {number}") for number in range(10)]
    for _ in range(40):
        for author in authors:
            await victim.tell(author.publish())


async def void_bids(victim: Victim) -> None:
    """Below the least price, as many as each bidder may make."""
    seed = Author("creator").publish(min_price=10)
    await victim.tell(seed)
    for number in range(12):
        bidder = Author(f"bidder {number}")
        for _ in range(BIDS_OF_ONE):
            await victim.tell(bidder.bid(seed, price=1))


async def void_facts(victim: Victim, facts: int = 10_200) -> None:
    """Claims of one bid by everybody but the creator."""
    seed = Author("creator").publish()
    bid = Author("worker").bid(seed)
    await victim.tell(seed, bid)
    said = 0
    for number in count():
        stranger = Author(f"stranger {number}")
        for _ in range(min(STEPS_OF_ONE, facts - said)):
            await victim.tell(stranger.claim(bid))
            said += 1
        if said == facts:
            return


async def steps_without_right(victim: Victim) -> None:
    """Claims, starts, settlements and closes of a seed of others."""
    seed, bid, claim, start, result = job(5)
    await victim.tell(seed, bid, claim, start, result)
    for number in range(10):
        stranger = Author(f"stranger {number}")
        for _ in range(10):
            await victim.tell(stranger.claim(bid), stranger.start(claim), stranger.settle(result))
            await victim.tell(stranger.settle(seed, "Expired"))


async def results_of_a_non_winner(victim: Victim, results: int = 600) -> None:
    """Fat results of a run that another does."""
    *_, start = begun = job(4)
    await victim.tell(*begun)
    stranger = Author("stranger")
    for number in range(results):
        await victim.tell(stranger.finish(start, stdout="x" * 10_000, exit_code=number % 256))


async def results_of_non_winners(victim: Victim, authors: int = 300) -> None:
    """Two fat results of each of many."""
    *_, start = begun = job(4)
    await victim.tell(*begun)
    for number in range(authors):
        stranger = Author(f"stranger {number}")
        for exit_code in range(2):
            await victim.tell(stranger.finish(start, stdout="x" * 10_000, exit_code=exit_code))


async def descending_forks(victim: Victim, attempts: int = 99) -> None:
    """The creator claims a bid and forfeits the claim again and again, then forks each of these places and that of the
    definition, the last first: a step that counted falls each time.
    """
    creator, bidder = Author("creator"), Author("bidder")
    seed = creator.publish(exec_deadline_ms=0, timeout_ms=1, claim_deadline_ts=NOW_S + 3_600)
    bid = bidder.bid(seed)
    steps: list[Envelope] = []
    for attempt in range(1, attempts + 1):
        now_s = NOW_S + 2 * attempt
        steps.append(creator.claim(bid, now_s, attempt=attempt))
        steps.append(creator.settle(steps[-1], "Forfeited", now_s + 1, attempt=attempt))
    await victim.tell(seed, bid, *steps)
    for envelope in reversed([seed, *steps]):
        await victim.tell(other(creator, envelope))


async def descending_forks_of_bidders(victim: Victim) -> None:
    """Bids that count on a fat seed, taken back one by one, by ten authors."""
    seed = Author("creator").publish(description=FAT)
    await victim.tell(seed)
    for number in range(10):
        bidder = Author(f"bidder {number}")
        bids = [bidder.bid(seed) for _ in range(BIDS_OF_ONE)]
        await victim.tell(*bids)
        for bid in reversed(bids):
            await victim.tell(other(bidder, bid))


async def gaps(victim: Victim) -> None:
    """Envelopes ahead of their feeds, whose beginning never comes."""
    for number in range(10):
        author = Author(f"author {number}")
        author.publish()
        for _ in range(60):
            await victim.tell(author.publish())


async def missing_parents(victim: Victim) -> None:
    """Bids on seeds that never come."""
    for number in range(600):
        seed = Author(f"creator {number}").publish()
        await victim.tell(Author(f"bidder {number}").bid(seed))


async def forks(victim: Victim) -> None:
    """Two envelopes for the first place of each of many authors."""
    for number in range(200):
        author = Author(f"author {number}")
        seed = author.publish()
        await victim.tell(seed, other(author, seed))


def fork_of(author: Author) -> tuple[Envelope, Envelope]:
    """Two envelopes for one place, that with the lower id first."""
    one = author.publish()
    another = other(author, one)
    return (one, another) if one.meta.id < another.meta.id else (another, one)


async def proofs_that_nobody_asked_for(victim: Victim) -> None:
    """Sound proofs of forks that were not announced."""
    for number in range(200):
        lower, higher = fork_of(Author(f"author {number}"))
        await victim.hear(document_of(lower.raw, higher.raw))


async def announced_proofs(victim: Victim) -> None:
    """Sound proofs of forks, by a proven neighbour that said that it has them."""
    neighbour = Neighbour(victim.node.core, "teller", "192.0.2.7:9012")
    neighbour.confirm()
    nonces = count(1_000)
    for group in range(4):
        pairs = [fork_of(Author(f"author {group}/{number}")) for number in range(50)]
        heads = Heads([Head(lower.meta.from_, 0, "", 1) for lower, _ in pairs])
        await victim.hear(talk_of("teller", heads, next(nonces)), neighbour.address)
        for _ in range(8):
            victim.clock.now_ms += 500
            await victim.do(Tick())
        for lower, higher in pairs:
            await victim.hear(document_of(lower.raw, higher.raw), neighbour.address)


def talk_of(name: str, talk: Heads, nonce: int) -> bytes:
    """A message between neighbours."""
    kind, payload = sync.payload_of(talk)
    return seal(signer(name), kind=kind, namespace="default", ts=NOW_S, nonce=nonce, payload=payload).raw


async def made_up_heads(victim: Victim) -> None:
    """A proven neighbour tells of feeds that nobody has, more than are remembered."""
    neighbour = Neighbour(victim.node.core, "teller", "192.0.2.7:9012")
    neighbour.confirm()
    for message in range(100):
        heads = [Head(signer(f"made up {message}/{number}").node_id, 1_000, "a" * 64) for number in range(64)]
        await victim.hear(talk_of("teller", Heads(heads), 1_000 + message), neighbour.address)


async def malformed(victim: Victim) -> None:
    """JSON that ends in the midst."""
    raw = Author("author").publish().raw
    for number in range(1_000):
        await victim.hear(raw[: 300 + number % 300])


async def tiny(victim: Victim) -> None:
    """An empty object."""
    for _ in range(10_000):
        await victim.hear(b"{}")


async def bad_signatures(victim: Victim) -> None:
    """Envelopes of which all is right but the signature."""
    for number in range(1_000):
        envelope = Author(f"author {number % 10}").publish(title=f"{number}")
        await victim.hear(edit(envelope.raw, "meta.signature", "A" * 86))


async def replays(victim: Victim) -> None:
    """The same envelopes again and again."""
    author = Author("author")
    seeds = [author.publish() for _ in range(10)]
    for _ in range(100):
        await victim.tell(*seeds)
