"""What the card measures, against values worked out by hand."""

import math

import pytest
import torch

from kd_lightning.comparison.records import Arm
from kd_lightning.comparison.results import compare
from kd_lightning.measures import robustness
from kd_lightning.measures.calibration import fit_temperature, scaled_metrics
from kd_lightning.measures.classes import classification_metrics
from kd_lightning.measures.similarity import centred_gram, features, layers_cka, linear_cka
from kd_lightning.report.plots.alike import similarity_of
from kd_lightning.report.plots.confusion import confused_pairs, counts
from kd_lightning.report.plots.gradients import pull
from kd_lightning.report.plots.tradeoff import front
from tests.report import build, card


def test_temperature_by_hand():
    """Two classes, margin 4, right three times of four: the likelihood is best where sigmoid(4 / T) = 3/4."""
    logits = torch.tensor([[4.0, 0.0]] * 4)
    target = torch.tensor([0, 0, 0, 1])
    assert fit_temperature(logits, target) == pytest.approx(4 / math.log(3), rel=1e-6)
    ignored = torch.tensor([0, 0, 0, 1, -100])
    assert fit_temperature(torch.cat([logits, logits[:1]]), ignored) == pytest.approx(4 / math.log(3), rel=1e-6)


def test_no_temperature_where_nothing_can_be_fitted():
    right = torch.eye(3)
    assert fit_temperature(right, torch.arange(3)) is None
    assert fit_temperature(right[:0], torch.arange(0)) is None
    assert fit_temperature(right * float("nan"), torch.tensor([1, 2, 0])) is None


def test_useless_logits_get_the_highest_temperature():
    assert fit_temperature(torch.eye(2) * 10, torch.tensor([1, 0])) == pytest.approx(100.0, rel=1e-3)


def test_scaling_keeps_the_answers_and_mends_the_confidence():
    torch.manual_seed(0)
    target = torch.randint(0, 5, (4000,))
    honest = 2 * torch.nn.functional.one_hot(target, 5) + torch.randn(4000, 5) * 1.4
    run = build.artifact(
        "r", 0, "", 6 * honest[:2000], target[:2000], torch.arange(2000), validation=(6 * honest[2000:], target[2000:])
    )
    (arm,) = compare([Arm("a", "alone", [run])], list("abcde"), None).arms
    found = arm.metrics[0]
    assert found["ece_calibrated"] < 0.25 * found["ece"]
    assert found["nll_calibrated"] < found["nll"]
    assert scaled_metrics(honest, target, None) == {}


def test_calibrated_error_is_the_one_of_torchmetrics():
    torch.manual_seed(1)
    logits, target = torch.randn(500, 6), torch.randint(0, 6, (500,))
    found = scaled_metrics(logits, target, (logits, target))
    expected = classification_metrics(logits / found["temperature"], target, 6)
    assert found["ece_calibrated"] == pytest.approx(expected["ece"], abs=1e-6)


@pytest.mark.parametrize("kind", robustness.STRENGTHS)
def test_corruptions_are_the_same_in_any_batch(kind):
    images = torch.rand(7, 3, 12, 10)
    for strength in robustness.STRENGTHS[kind]:
        whole = robustness.corrupt(images, kind, strength)
        parts = [robustness.corrupt(images[:3], kind, strength), robustness.corrupt(images[3:], kind, strength, 3)]
        assert torch.equal(whole, torch.cat(parts))
        assert whole.shape == images.shape
        assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
        assert not torch.equal(whole, images)
    assert torch.equal(robustness.corrupt(images, kind, 0.0), images)


def test_corruptions_by_hand():
    grey = torch.full((200, 1, 16, 16), 0.5)
    assert float(robustness.corrupt(grey, "noise", 0.1).std()) == pytest.approx(0.1, rel=0.02)
    assert torch.allclose(robustness.corrupt(grey, "blur", 2.0), grey, atol=1e-6)
    dot = torch.zeros(4, 1, 9, 9)
    dot[:, :, 4, 4] = 1
    blurred = robustness.corrupt(dot, "blur", 1.0)[0, 0]
    assert float(blurred[4, 5] / blurred[4, 4]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    places = [tuple(one.nonzero()[0, 1:].tolist()) for one in robustness.corrupt(dot, "shift", 2 / 9)]
    assert places == [(4, 6), (6, 4), (4, 2), (2, 4)]
    edge = torch.zeros(1, 1, 2, 4)
    edge[..., 0] = 1
    assert robustness.corrupt(edge, "shift", 0.5)[0, 0, 0].tolist() == [1, 1, 1, 0]


def test_a_wrong_corruption_is_explained():
    with pytest.raises(ValueError, match="choose noise, blur, shift"):
        robustness.corrupt(torch.zeros(1, 1, 2, 2), "fog", 1.0)
    with pytest.raises(ValueError, match="images"):
        robustness.corrupt(torch.zeros(2, 2), "noise", 1.0)


def test_cka_knows_rotation_and_scale():
    torch.manual_seed(0)
    a = torch.randn(50, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    assert linear_cka(a, 3 * a @ rotation + 7) == pytest.approx(1.0, abs=1e-5)
    assert linear_cka(a, torch.randn(50, 6)) < 0.5
    assert math.isnan(linear_cka(a, torch.ones(50, 2)))
    b = torch.randn(50, 3)
    x, y = a - a.mean(0), b - b.mean(0)
    norm = torch.linalg.matrix_norm
    assert linear_cka(a, b) == pytest.approx(float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))), rel=1e-4)


def test_layers_of_every_kind_become_rows():
    assert features(torch.zeros(2, 3, 32, 20)).shape == (2, 3 * 8 * 8)
    assert features(torch.zeros(2, 3, 4, 20)).shape == (2, 3 * 4 * 8)
    assert features(torch.zeros(2, 5, 7)).shape == (2, 7)
    grams = {"a": centred_gram(torch.randn(9, 2)), "b": centred_gram(torch.randn(9, 2))}
    found = layers_cka(grams, {"c": grams["b"]})
    assert (found.teacher, found.student) == (["a", "b"], ["c"])
    assert found.values[1] == pytest.approx([1.0])
    assert layers_cka({}, grams).values == []


def test_confusions_are_counted_over_the_seeds():
    arms = build.arms({"teacher": [90], "student alone": [60, 80]})
    found = compare(arms, [f"c{i}" for i in range(10)])
    matrix = counts(found.arm("student alone"))
    assert int(matrix.sum()) == 200
    assert int(matrix.diag().sum()) == 140
    assert int(matrix[0, 1]) == 4 + 2  # of ten samples of class 0 in each hundred
    assert int(matrix[0, 2]) == 0
    pairs = confused_pairs(found, most=20)
    assert len(pairs) == 10
    assert {(pair.target, pair.answer) for pair in pairs} == {(i, (i + 1) % 10) for i in range(10)}
    assert pairs[0].rates == pytest.approx([0.1, 0.3])


def test_front_keeps_what_nothing_cheaper_beats():
    points = [(3.0, 0.9), (1.0, 0.5), (1.0, 0.6), (2.0, 0.6), (2.5, 0.55), (4.0, 0.95)]
    assert front(points) == [2, 0, 5]
    assert front([]) == []


def test_means_of_the_card():
    found = card.comparison()
    taught = found.arm("student + kd")
    assert taught.summary("corrupted_top1").mean == pytest.approx(0.7)
    assert pull(taught).norms == {"ce": pytest.approx(0.5), "kd": pytest.approx(2.0)}
    assert pull(taught).angle == pytest.approx(60.0)
    assert pull(found.arm("student alone")).angle is None
    assert similarity_of(taught).values == [[0.9, 0.5], [0.25, 0.75]]
    assert similarity_of(found.teacher) is None
