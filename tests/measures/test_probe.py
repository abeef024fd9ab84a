"""A measure of a net is a file in measures/: no other file knows of it."""

import json
import shutil
import sys

import pytest

from kd_lightning import measures
from kd_lightning.measures.probe import known_probes
from tests.experiment.test_stores_of_before import BEFORE

SPREAD = '''
"""How far the answers of a net are spread."""
from kd_lightning.measures.probe import Probe
from kd_lightning.measures.score import Measure


def spread(subject):
    rows = [subject.answer(batch).std(1) for batch in subject.batches(50)]
    return {"of_all": [float(one) for row in rows for one in row]}


def mean(values):
    return {"spread": sum(values["of_all"]) / len(values["of_all"])}


SPREAD = Probe("spread", "the spread", spread, mean, (Measure("spread", "Spread of the logits", "", 1, 4),))
'''


@pytest.fixture
def strange_measure(tmp_path, monkeypatch):
    folder = tmp_path / "more_measures"
    folder.mkdir()
    (folder / "spread.py").write_text(SPREAD)
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(folder)])
    known_probes.cache_clear()
    yield
    known_probes.cache_clear()
    sys.modules.pop("kd_lightning.measures.spread", None)
    vars(measures).pop("spread", None)


def test_a_strangers_measure_is_taken_stored_and_shown(strange_measure, cli, tmp_path):
    shutil.copytree(BEFORE / "store", "outputs")
    shutil.copy(BEFORE / "pictures.npz", tmp_path)
    asked = ["job=compare", "runs=outputs/studies", "compare.latency=false", "compare.robustness=false"]
    outcome = cli(*asked, "compare.cka=false")
    assert outcome.code == 0, outcome.text
    assert "Measuring the spread of" in outcome.text
    stored = sorted((tmp_path / "outputs/studies").rglob("probes.json"))
    values = [json.loads(path.read_text())["spread"]["values"]["of_all"] for path in stored]
    assert len(values) >= 3
    assert len({len(one) for one in values}) == 1
    numbers = json.loads((outcome.folder / "metrics.json").read_text())["arms"]
    means = {round(arm["spread"]["mean"], 9) for arm in numbers.values()}
    assert means == {round(sum(one) / len(one), 9) for one in values}
    assert "Spread of the logits" in (outcome.folder / "report.md").read_text()
    again = cli(*asked, "compare.cka=false")
    assert "Measuring" not in again.text
    off = cli(*asked, "compare.cka=false", "+compare.spread=false")
    assert "Spread of the logits" not in (off.folder / "report.md").read_text()
