"""An incident's data dir, and an export of it, replayed in the simulation."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.sim.plan import draw
from tests.sim.replay import read, replay, run
from tests.sim.scenario import Simulation

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data dir of one node of a network with liars, one of whom forks its feed."""
    directory = tmp_path_factory.mktemp("incident")
    simulation = Simulation(replace(draw(2, nodes=4, operations=250), liars=("equivocator",), tight=False))
    simulation.run()
    simulation.honest[0].disk.save(directory)
    return directory / "data"


def test_a_journal_leads_all_nodes_to_its_state(incident: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(incident)
    assert found.forkers
    assert len(found.envelopes) > 100
    replayed = run(found, 7)
    assert (replayed.state_hash, replayed.differing) == (found.state_hash, [])
    assert replay(incident, 7) == 0
    assert "that is the state of the journal" in capsys.readouterr().out


def test_a_journal_that_does_not_say_all_is_told(incident: Path) -> None:
    """Without its last envelopes the same journal leads elsewhere: the replay does not take the journal's word."""
    found = read(incident)
    found.envelopes = found.envelopes[: len(found.envelopes) // 2]
    replayed = run(found, 7)
    assert replayed.state_hash != found.state_hash
    assert replayed.differing


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, 1) == 2
    assert "cannot replay" in capsys.readouterr().out


def test_an_export_is_replayed_as_a_data_dir_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = FIXTURES / "export-v1.ndjson"
    assert replay(export, 3) == 0
    assert "all 4 nodes agree" in capsys.readouterr().out
    found = read(FIXTURES / "data-dir-v1")
    found.envelopes.pop()  # what the data dir was given after the export
    assert run(read(export), 3).state_hash == run(found, 3).state_hash

    cut = tmp_path / "cut.ndjson"
    cut.write_bytes(export.read_bytes()[:-1000])
    assert replay(cut, 3) == 2
    assert "cannot replay" in capsys.readouterr().out
