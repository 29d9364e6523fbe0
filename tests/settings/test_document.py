"""docs/CONFIGURATION.md is what the table of knobs says."""

from __future__ import annotations

from pathlib import Path

from crabnet.settings import KNOBS
from crabnet.settings.document import configuration_markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == configuration_markdown(), "run scripts/write_reference.py"


def test_every_knob_is_documented_with_all_its_names() -> None:
    text = configuration_markdown()
    for knob in KNOBS:
        assert f"\n### {knob.name}\n" in text
        assert knob.doc.endswith(".")
        for name in (knob.env, knob.toml, knob.flag):
            assert name is None or f"`{name}`" in text
