"""The portable proof of a fork: what is in the document convinces on its own, everything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785

from crabnet.errors import Reason
from crabnet.limits import FORK_PROOF_BYTES_MAX
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.fork_proof import ProofRefusedError, choose_pair, document_of, verify_proof
from tests.support.envelopes import Author, admission, edit


def said(author: Author, title: str) -> Envelope:
    return author.say(Kind.SEED_CREATED, {"seed": author.seed(title=title)})


def twice(name: str = "forger", common: int = 0, namespace: str = "default") -> tuple[Envelope, Envelope]:
    """Two envelopes for the place after ``common`` others, the lower id first."""
    found = []
    for branch in ("a", "b"):
        author = Author(name, namespace)
        for number in range(common):
            said(author, f"t{number}")
        found.append(said(author, branch))
    one, other = sorted(found, key=lambda envelope: envelope.meta.id)
    return one, other


def document(one: bytes, other: bytes, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "envelopes": [json.loads(one), json.loads(other)],
        "format": "crabnet-fork-proof",
        "version": 1,
    }
    return rfc8785.dumps({**fields, **changes})


@pytest.mark.parametrize("common", [0, 4])
@pytest.mark.parametrize("namespace", ["default", "market"])
def test_two_envelopes_for_one_place_prove_a_fork(common: int, namespace: str) -> None:
    lower, higher = twice(common=common, namespace=namespace)
    evidence = verify_proof(document_of(lower.raw, higher.raw))
    assert (evidence.meta, evidence.higher.envelope.meta) == (lower.meta, higher.meta)
    assert evidence.same_parent
    assert evidence.document() == document_of(lower.raw, higher.raw)


def test_branches_behind_the_fork_prove_it_too() -> None:
    one, other = Author("forger"), Author("forger")
    said(one, "a"), said(other, "b")
    lower, higher = sorted((said(one, "c"), said(other, "c")), key=lambda envelope: envelope.meta.id)
    evidence = verify_proof(document(lower.raw, higher.raw))
    assert not evidence.same_parent


def _altered(raw: bytes) -> bytes:
    return edit(raw, "payload.seed.title", "other")


ONE, OTHER = twice()
FOREIGN, _ = twice("somebody else")
LATER = twice(common=1)[0]
ELSEWHERE = twice(namespace="market")[0]
HELLO = Author("forger")
HELLO.seq = -1
TALK = HELLO.say(Kind.NODE_HELLO, {"identity": {"node_id": HELLO.id}})

PROOF = document_of(ONE.raw, OTHER.raw)
REFUSED: dict[str, tuple[bytes, Reason]] = {
    "the higher id first": (document_of(OTHER.raw, ONE.raw), Reason.MALFORMED),
    "a line break behind it": (PROOF + b"\n", Reason.MALFORMED),
    "white space in front": (b" " + PROOF, Reason.MALFORMED),
    "white space within": (PROOF.replace(b'"version":1', b'"version": 1'), Reason.MALFORMED),
    "white space between the envelopes": (
        PROOF.replace(ONE.raw + b",", ONE.raw + b", "),
        Reason.MALFORMED,
    ),
    "an envelope not canonical": (document_of(ONE.raw[:-1] + b" }", OTHER.raw), Reason.MALFORMED),
    "keys in another order": (
        b'{"version":1,' + PROOF.removeprefix(b"{").removesuffix(b',"version":1}') + b"}",
        Reason.MALFORMED,
    ),
    "a field more": (document(ONE.raw, OTHER.raw, more=1), Reason.MALFORMED),
    "the same envelope twice": (document(ONE.raw, ONE.raw), Reason.DUPLICATE),
    "two authors": (document(ONE.raw, FOREIGN.raw), Reason.UNAUTHORISED),
    "two places": (document(ONE.raw, LATER.raw), Reason.GAP),
    "two namespaces": (document(ONE.raw, ELSEWHERE.raw), Reason.WRONG_NAMESPACE),
    "the first altered": (document(_altered(ONE.raw), OTHER.raw), Reason.WRONG_ID),
    "the second altered": (document(ONE.raw, _altered(OTHER.raw)), Reason.WRONG_ID),
    "a foreign signature": (
        document(ONE.raw, edit(OTHER.raw, "meta.signature", FOREIGN.meta.signature)),
        Reason.BAD_SIGNATURE,
    ),
    "unsigned": (document(ONE.raw, edit(OTHER.raw, "meta.v", ...)), Reason.MISSING_SIGNATURE),
    "talk": (document(TALK.raw, ONE.raw), Reason.MALFORMED),
    "one envelope": (document(ONE.raw, OTHER.raw, envelopes=[json.loads(ONE.raw)]), Reason.MALFORMED),
    "three envelopes": (document(ONE.raw, OTHER.raw, envelopes=[json.loads(ONE.raw)] * 3), Reason.MALFORMED),
    "no envelopes": (b'{"format":"crabnet-fork-proof","version":1}', Reason.MALFORMED),
    "another format": (document(ONE.raw, OTHER.raw, format="x"), Reason.MALFORMED),
    "a later version": (document(ONE.raw, OTHER.raw, version=2), Reason.UNSUPPORTED_VERSION),
    "an envelope alone": (ONE.raw, Reason.MALFORMED),
    "not JSON": (b'{"envelopes":[', Reason.MALFORMED),
    "nothing": (b"", Reason.MALFORMED),
    "not UTF-8": (b'{"envelopes":["\xff","\xff"],"format":"crabnet-fork-proof","version":1}', Reason.MALFORMED),
    "deep": (b'{"envelopes":' + b"[" * 100_000, Reason.MALFORMED),
    "too large": (b" " * (FORK_PROOF_BYTES_MAX + 1), Reason.TOO_LARGE),
    "a key twice": (
        document_of(ONE.raw, OTHER.raw.replace(b'"payload":', b'"payload":{},"payload":', 1)),
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_name(name: str) -> None:
    raw, reason = REFUSED[name]
    with pytest.raises(ProofRefusedError) as refused:
        verify_proof(raw)
    assert refused.value.reason is reason
    assert refused.value.detail


def test_no_changed_byte_leaves_a_proof() -> None:
    """Whoever alters a proof on its way has none."""
    for at in range(0, len(PROOF), 7):
        altered = PROOF[:at] + bytes([PROOF[at] ^ 1]) + PROOF[at + 1 :]
        with pytest.raises(ProofRefusedError):
            verify_proof(altered)


def test_stored_envelopes_of_a_place_give_the_pair_that_decides() -> None:
    branches = []
    for title in ("a", "b", "c"):
        author = Author("forger")
        branches.append(said(author, title))
    ids = sorted(envelope.meta.id for envelope in branches)
    evidence = choose_pair([envelope.raw for envelope in branches], admission())
    assert evidence is not None
    assert isinstance(evidence.higher, Admitted)
    assert [evidence.meta.id, evidence.higher.envelope.meta.id] == ids[:2]
    assert choose_pair([branches[0].raw] * 2, admission()) is None
    assert choose_pair([], admission()) is None
