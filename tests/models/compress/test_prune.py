"""Pruning: channels go, the strong ones stay, and the shape does not hang on the weights."""

import importlib.util

import pytest
import torch
from torch import nn

from kd_lightning.measures.cost import count_parameters
from kd_lightning.models.compress.prune import pruned_teacher
from kd_lightning.models.resnet import resnet20
from kd_lightning.models.shufflenet import shufflev1

EXAMPLE = torch.zeros(2, 1, 8, 8)


def test_half_of_the_channels_is_a_quarter_of_the_weights_whatever_they_are():
    shapes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        teacher = resnet20(10, 1)
        state = {name: value.clone() for name, value in teacher.state_dict().items()}
        student = pruned_teacher(nn.Identity(), teacher, EXAMPLE, ratio=0.5)
        assert 0.2 < count_parameters(student) / count_parameters(teacher) < 0.3
        assert student.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())
        assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
        assert student(torch.randn(5, 1, 8, 8)).shape == (5, 10)
        shapes.append({name: tuple(value.shape) for name, value in student.state_dict().items()})
    assert shapes[0] == shapes[1]


def test_the_strong_channels_stay_with_their_weights():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
    strong = [1, 2, 4, 7]
    with torch.no_grad():
        for channel in range(8):
            net[0].weight[channel] *= 10 if channel in strong else 0.01
    student = pruned_teacher(nn.Identity(), net, EXAMPLE, ratio=0.5)
    assert torch.equal(student[0].weight, net[0].weight[strong])
    assert torch.equal(student[3].weight, net[3].weight.view(3, 8, 64)[:, strong].flatten(1))


def test_what_cannot_be_pruned_is_said(monkeypatch):
    with pytest.raises(ValueError, match="between 0 and 1"):
        pruned_teacher(nn.Identity(), resnet20(10, 1), EXAMPLE, ratio=1.0)
    with pytest.raises(ValueError, match="cannot take ShuffleNetV1 apart"):
        pruned_teacher(nn.Identity(), shufflev1(10, 3), torch.zeros(2, 3, 32, 32))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"kd-lightning\[prune\]"):
        pruned_teacher(nn.Identity(), resnet20(10, 1), EXAMPLE)


def test_it_is_one_line_of_configuration_and_can_be_loaded_without_the_teacher(cli):
    from kd_lightning import load_run
    from tests.conftest import TINY

    wrapper = "{_target_:kd_lightning.models.compress.prune.pruned_teacher,_partial_:true,ratio:0.5}"
    outcome = cli(
        *TINY, f"method.student_wrapper={wrapper}", f"baseline.student_wrapper={wrapper}", "export.formats=[]"
    )
    assert outcome.code == 0, outcome.text
    net = load_run(outcome.folder).net
    assert net.conv1.weight.shape[0] == 8
    alone = load_run(next((outcome.folder / "alone").iterdir())).net
    assert {k: v.shape for k, v in alone.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
