"""Short names name what they were made of, also where somebody has ground ids that begin alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.prefixes import resolved, shortened

ALIKE = st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=20, unique=True)
"""Some are the beginning of others, as ids of unsigned objects may be."""


@given(st.data())
def test_each_name_gives_what_it_was_made_of(data: st.DataObject) -> None:
    among = data.draw(ALIKE)
    refs = data.draw(st.lists(st.sampled_from(among), unique=True))
    short = shortened(refs, among)
    assert resolved(short, among) == refs
    assert all(ref.startswith(each) and (len(each) >= 6 or each == ref) for each, ref in zip(short, refs, strict=True))


def test_ids_that_differ_early_get_six_characters() -> None:
    among = ["0" * 64, "1" * 64, "1" * 10 + "2" * 54]
    assert shortened(among, among) == ("000000", "1" * 11, "1" * 10 + "2")


def test_what_names_nothing_is_left_out() -> None:
    assert resolved(["aaaaaa", "bbbbbb"], ["bbbbbbb"]) == ["bbbbbbb"]
