"""Folding batch norms: the same numbers, the same paths."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd_lightning.core.taps import Taps
from kd_lightning.models import mobilenetv2, resnet, shufflenet, vgg, wrn
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.compress.fold import fold_batchnorm
from kd_lightning.models.hub import hub

# Maker and how many batch norms follow no convolution directly.
NETS = {
    "resnet8x4": (resnet.resnet8x4, 0),
    "wrn_16_1": (wrn.wrn_16_1, 7),  # the first norm of each of six blocks, and the last
    "vgg8": (vgg.vgg8, 0),
    "mobilenetv2": (mobilenetv2.mobilenetv2, 0),
    "shufflev2": (shufflenet.shufflev2, 0),
    "timm_efficientnet": (lambda: hub("timm:tf_efficientnet_lite0", 5), 0),
    "timm_mobilenet": (lambda: hub("timm:mobilenetv3_small_050", 5), 0),
    "torchvision_resnet": (lambda: hub("torchvision:resnet18", 5), 0),
}


def lived_in(net: nn.Module) -> nn.Module:
    """Norms as after training: statistics and weights that are no identity."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net


def norms(net: nn.Module) -> list[str]:
    return [path for path, module in net.named_modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize("name", NETS)
def test_same_outputs_same_paths_same_taps(name):
    make, left = NETS[name]
    net = lived_in(make())
    images = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(net.state_dict())
    folded = fold_batchnorm(net, images)
    assert net.training
    assert not folded.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert len(norms(folded)) == left < len(norms(net))
    assert {path for path, _ in net.named_modules()} >= {path for path, _ in folded.named_modules()}
    parts = anatomy(folded)
    assert parts.stages == anatomy(net).stages
    places = [*parts.stages, *parts.preacts, parts.embedding]
    tapped = []
    for each in (net.eval(), folded):
        taps = Taps(each, places)
        with torch.no_grad():
            logits = each(images)
        tapped.append({**taps.take(), "logits": logits})
        taps.remove()
    for place, value in tapped[0].items():
        scale = value.abs().max().item()
        torch.testing.assert_close(tapped[1][place], value, rtol=0, atol=1e-4 * max(1, scale), msg=place)


def test_without_example_and_with_norms_to_keep():
    net = lived_in(resnet.resnet8())
    keep = anatomy(net).preact_norms
    folded = fold_batchnorm(net, keep=keep)
    assert tuple(norms(folded)) == keep
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), net.eval()(images), rtol=0, atol=1e-4)


class Branching(nn.Module):
    """torch.fx cannot trace it; ``reads_twice`` also reads what the convolution gives before the norm."""

    def __init__(self, reads_twice: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.reads_twice = reads_twice

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        raw = self.conv(x)
        return self.bn(raw) + (raw if self.reads_twice else 0)


def test_untraceable_net_needs_an_example(caplog):
    images = torch.randn(2, 3, 6, 6)
    net = lived_in(Branching(reads_twice=False))
    assert norms(fold_batchnorm(net)) == ["bn"]
    folded = fold_batchnorm(net, images)
    assert norms(folded) == []
    torch.testing.assert_close(folded(images), net.eval()(images))


def test_folding_that_would_change_the_output_is_undone(caplog):
    net = lived_in(Branching(reads_twice=True))
    folded = fold_batchnorm(net, torch.randn(2, 3, 6, 6))
    assert norms(folded) == ["bn"]
    assert not folded.training
    assert "would change the output of Branching" in caplog.text


class ReadTwice(nn.Module):
    """Traceable; the convolution has a second reader, and one norm serves two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.bn, self.shared = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.first(x)
        return self.bn(raw) + raw + self.shared(self.second(x)) + self.shared(self.third(x))


def test_layers_with_another_reader_are_left_alone():
    net = lived_in(ReadTwice())
    assert norms(fold_batchnorm(net)) == ["bn", "shared"]


def test_linear_layers_and_nets_without_norms():
    net = lived_in(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)))
    x = torch.randn(3, 4)
    folded = fold_batchnorm(net, {"input": x})
    assert norms(folded) == []
    torch.testing.assert_close(folded(x), net.eval()(x))
    plain = nn.Linear(2, 2)
    assert torch.equal(fold_batchnorm(plain).weight, plain.weight)
