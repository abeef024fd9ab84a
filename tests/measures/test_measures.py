"""Measures against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from kd_lightning.measures import classes
from kd_lightning.measures import cost as measure
from kd_lightning.measures.reliability import reliability_curve

LOG3 = math.log(3.0)


def test_metrics_by_hand():
    # Two classes, confidence 3/4 everywhere, three of four right: calibrated, although the answers are not all right.
    logits = torch.tensor([[LOG3, 0.0], [LOG3, 0.0], [0.0, LOG3], [0.0, LOG3]])
    found = classes.classification_metrics(logits, torch.tensor([0, 0, 1, 0]), 2)
    assert found["top1"] == pytest.approx(0.75)
    assert found["nll"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4, abs=1e-6)
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-6)
    assert "top5" not in found


def test_logits_within_zero_and_one_are_still_logits():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    confidence = 1 / (1 + math.exp(-1))
    assert classes.classification_metrics(logits, torch.tensor([0, 0]), 2)["ece"] == pytest.approx(
        1 - confidence, abs=1e-6
    )


def test_top5_counts_the_five_best_of_more_than_five():
    logits = torch.arange(7.0).flip(0).repeat(7, 1)  # class 0 first, class 6 last
    found = classes.classification_metrics(logits, torch.arange(7), 7)
    assert found["top1"] == pytest.approx(1 / 7)
    assert found["top5"] == pytest.approx(5 / 7)


def test_metrics_refuse_other_classes():
    with pytest.raises(ValueError, match=r"do not fit 3 classes"):
        classes.classification_metrics(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), 3)


def test_agreement_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0, -40.0]]), torch.tensor([[LOG3, 0.0, -40.0]])
    found = classes.class_agreement(student, teacher)
    assert found["kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)  # KL(teacher || student)
    same = classes.class_agreement(teacher, teacher)
    assert same == pytest.approx({"agreement": 1.0, "kl": 0.0, "rank_correlation": 1.0}, abs=1e-6)
    forward, back = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    assert classes.class_agreement(forward, back)["rank_correlation"] == pytest.approx(-1.0)
    assert classes.class_agreement(forward, back)["agreement"] == 0.0


def test_per_class_knows_classes_without_a_sample():
    logits = nn.functional.one_hot(torch.tensor([0, 0, 1, 0]), 3).float()
    accuracy, support = classes.per_class(logits, torch.tensor([0, 0, 1, 1]))
    assert support.tolist() == [2, 2, 0]
    assert accuracy[:2].tolist() == [1.0, 0.5]
    assert accuracy[2].isnan()


def test_won_and_lost_are_named_by_index():
    won, lost = classes.won_and_lost(torch.tensor([1, 0, 1]) > 0, torch.tensor([1, 1, 0]) > 0, torch.tensor([7, 8, 9]))
    assert (won.tolist(), lost.tolist()) == ([8], [9])


def test_reliability_by_hand():
    logits = torch.tensor([[LOG3, 0.0]] * 3 + [[30.0, 0.0]])
    found = reliability_curve(logits, torch.tensor([0, 1, 1, 0]))
    assert found.confidence.tolist() == pytest.approx([0.75, 1.0])
    assert found.accuracy.tolist() == pytest.approx([1 / 3, 1.0])
    assert found.share.tolist() == pytest.approx([0.75, 0.25])


def test_shared_parameters_count_once():
    first = nn.Linear(4, 4)
    assert measure.count_parameters(nn.Sequential(first, first)) == 20


@pytest.mark.parametrize(
    ("net", "example", "expected"),
    [
        (nn.Linear(10, 5, bias=False), torch.zeros(8, 10), 2 * 10 * 5),
        (nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.zeros(2, 3, 8, 8), 2 * 64 * 4 * 27),
    ],
)
def test_flops_of_one_sample(net, example, expected):
    assert measure.flops(net, example) == expected


def test_flops_see_attention_and_leave_the_fast_path_as_it_was():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    projections = 2 * 5 * (8 * 24 + 8 * 8 + 8 * 16 + 16 * 8)
    assert measure.flops(layer, torch.zeros(1, 5, 8)) >= projections
    assert torch.backends.mha.get_fastpath_enabled()


def test_flops_see_a_compiled_network():
    net = nn.Linear(10, 5)
    net.compile(backend="eager")
    net(torch.zeros(1, 10))
    assert measure.flops(net, torch.zeros(1, 10)) == 100


class Watched(nn.Module):
    """Notes how it is called."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Dropout().eval()
        self.calls = []

    def forward(self, x, y=None):
        self.calls.append((tuple(x.shape), self.training, torch.is_grad_enabled()))
        return x


@pytest.mark.parametrize(
    "example", [torch.zeros(1, 3), {"x": torch.zeros(4, 3)}, (torch.zeros(1, 3), torch.zeros(1, 2))]
)
def test_latency_runs_the_batch_in_eval_and_restores_every_mode(example):
    net = Watched()
    assert measure.latency(net, example, batch=7, repeats=5) >= 0
    assert len(net.calls) == 5 + 2  # timed and warm-up
    assert set(net.calls) == {((7, 3), False, False)}
    assert net.training
    assert not net.frozen.training


def test_latency_refuses_nothing_to_time():
    with pytest.raises(ValueError, match="at least 1"):
        measure.latency(nn.Identity(), torch.zeros(1, 3), repeats=0)
