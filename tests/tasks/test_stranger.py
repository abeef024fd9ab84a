"""A task of a stranger, of a kind of target that exists: from data to a server without an edit of the source."""

import csv
import json

import pytest
import torch

from kd_lightning import load_run
from kd_lightning.config.schema import Serve
from kd_lightning.config.trust import trusting
from kd_lightning.deploy.serve.models import facts, intake_for, text_model
from kd_lightning.deploy.serve.server import ModelAPI
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.measures.classes import per_class
from kd_lightning.measures.score import Measure, Score
from kd_lightning.tasks.classification import Classification
from tests.conftest import QUICK

NAME = "tests.tasks.test_stranger.EvenTopics"
TEXTS = ["the old apple", "rain with hail"]


class EvenTopics(Classification):
    """Classes that count alike, however frequent they are; the answer is a class and how far it is ahead."""

    score = Score("balanced", "Balanced accuracy", "%", "points")
    columns = (Measure("balanced", "Balanced accuracy", short=True), *Classification.columns)
    quality_name = "balanced accuracy"
    view = "value"
    verb = "Sort"
    card = {"text": ("text-classification", "A sorter of topics")}  # noqa: RUF012

    def measures(self, outputs, target):
        found = super().measures(outputs, target)
        return found | {"balanced": float(per_class(outputs, target)[0].nanmean())}

    def quality(self, outputs, target, exact):
        return self.measures(outputs, target)["balanced"]

    def trivial(self, target, width):
        return 1 / len(target.unique())

    def say(self, outputs, names, top):
        best = outputs.softmax(1).topk(2)
        rows = zip(best.indices[:, 0].tolist(), (best.values[:, 0] - best.values[:, 1]).tolist(), strict=True)
        return [{"topic": names[i], "value": round(ahead, 6)} for i, ahead in rows]


@pytest.fixture(scope="module", autouse=True)
def trusted():
    """Whoever has a class of their own names its package where a folder names the class."""
    with trusting("tests"):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests.jobs.finished import finished_run

    small = [f"{who}.net.{size}" for who in ("teacher", "student") for size in ("layers=1", "width=32")]
    start = ["data=synthetic_text", f"data.task={NAME}", "data.source.samples=120", "data.max_length=64", *QUICK,
             "trainer.max_epochs=1", "model@teacher=tiny_bert", "model@student=tiny_bert", *small,
             "export.formats=[onnx]"]  # fmt: skip
    return finished_run(tmp_path_factory.mktemp("stranger"), start=start)


def test_it_is_trained_and_judged_by_its_score(run):
    numbers = json.loads((run / "metrics.json").read_text())
    for arm in ("teacher", "student alone", "student + kd"):
        assert set(numbers["arms"][arm]["balanced"]["values"]) == {numbers["arms"][arm]["balanced"]["mean"]}
    text = (run / "report.md").read_text()
    assert "Balanced accuracy (%)" in text
    assert "balanced_difference" in numbers["contrasts"]["student + kd"]
    artifact = load_run(run)
    assert artifact.settings.data["task"] == NAME
    assert artifact.settings.metrics.monitor == "val/top1"  # its metrics are those of classification
    target, logits = artifact.target, artifact.logits
    right = [float((logits.argmax(1) == target)[target == c].float().mean()) for c in target.unique()]
    assert artifact.record["test"]["best"]["balanced"] == pytest.approx(sum(right) / len(right))


def test_it_is_exported_and_answers(run, tmp_path):
    record = json.loads((run / "export" / "export.json").read_text())
    assert record["task"] == NAME
    assert record["formats"]["onnx"]["agreement"] == 1.0
    card = (run / "export" / "model_card.md").read_text()
    assert "A sorter of topics" in card
    assert "*Score*: balanced accuracy" in card
    student = ExportedStudent(run)
    answers = student.answer(TEXTS)
    exact = torch.cat([student.run(student.reader([text]).tensors) for text in TEXTS]).softmax(1).topk(2).values
    assert [answer["value"] for answer in answers] == pytest.approx((exact[:, 0] - exact[:, 1]).tolist(), abs=1e-5)
    assert {answer["topic"] for answer in answers} <= {"topic0", "topic1", "topic2"}


def test_predict_and_evaluate_know_it(run, cli, tmp_path):
    outcome = cli(
        "job=predict", "trust=[tests]", f"run={run}", f"inputs={json.dumps(TEXTS)}", "predict.output=answers.csv"
    )
    assert outcome.code == 0, outcome.text
    assert "topic" in outcome.text
    with (tmp_path / "answers.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["topic"] for row in rows] == [answer["topic"] for answer in ExportedStudent(run).answer(TEXTS)]
    outcome = cli("job=evaluate", "trust=[tests]", f"run={run}")
    assert f"balanced {load_run(run).record['test']['best']['balanced']:.4f}" in outcome.text


def test_it_is_served(run):
    serve, export = Serve(), run / "export"
    student = ExportedStudent(run)
    intake = intake_for(serve, student.preprocessing)
    api = ModelAPI(lambda: text_model(serve, export, lambda: student.run), api_path="/predict")
    api.setup("cpu")
    found = api.predict([api.decode_request(intake.from_json({"text": text})) for text in TEXTS])
    assert [answer["topic"] for answer in found] == [answer["topic"] for answer in student.answer(TEXTS)]
    told = facts(serve, json.loads((export / "export.json").read_text()), student.preprocessing, None)
    assert (told["view"], told["verb"], told["score"]) == ("value", "Sort", "balanced accuracy")
