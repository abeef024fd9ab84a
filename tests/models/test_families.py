"""The CIFAR families: size, shape, gradient, determinism."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_lightning.models import mlp, mobilenetv2, resnet, resnet50, shufflenet, vgg, wrn

# Parameters at 100 classes, as published with RepDistiller and CRD where those give them.
FAMILIES = {
    resnet.resnet8: 83_892,
    resnet.resnet14: 181_108,
    resnet.resnet20: 278_324,
    resnet.resnet32: 472_756,
    resnet.resnet44: 667_188,
    resnet.resnet56: 861_620,
    resnet.resnet110: 1_736_564,
    resnet.resnet8x4: 1_233_540,
    resnet.resnet32x4: 7_433_860,
    resnet50.resnet50_cifar: 23_705_252,
    wrn.wrn_16_1: 180_916,
    wrn.wrn_16_2: 703_284,
    wrn.wrn_40_1: 569_780,
    wrn.wrn_40_2: 2_255_156,
    vgg.vgg8: 3_965_028,
    vgg.vgg11: 9_277_284,
    vgg.vgg13: 9_462_180,
    vgg.vgg16: 14_774_436,
    vgg.vgg19: 20_086_692,
    mobilenetv2.mobilenetv2: 812_836,
    shufflenet.shufflev1: 949_258,
    shufflenet.shufflev2: 1_355_528,
}
each_family = pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)


@each_family
def test_parameters_are_as_many_as_published(make):
    with torch.device("meta"):
        net = make(num_classes=100)
    assert sum(p.numel() for p in net.parameters()) == FAMILIES[make]


@each_family
def test_small_grey_images_and_gradient_to_every_parameter(make):
    torch.manual_seed(0)
    net = make(num_classes=10, in_channels=1)
    logits = net(torch.randn(3, 1, 8, 8))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


@pytest.mark.parametrize(
    "make", [resnet.resnet8x4, wrn.wrn_16_1, vgg.vgg8, mobilenetv2.mobilenetv2, shufflenet.shufflev2]
)
def test_eval_is_deterministic_and_independent_of_the_batch(make):
    torch.manual_seed(0)
    net = make(num_classes=10).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits = net(images)
        assert torch.equal(net(images), logits)
        torch.testing.assert_close(net(images[:1]), logits[:1], atol=1e-4, rtol=1e-4)
    assert logits.std() > 0


@each_family
def test_no_activation_works_in_place(make):
    with torch.device("meta"):
        net = make()
    activations = [module for module in net.modules() if isinstance(module, nn.ReLU)]
    assert activations
    assert not any(module.inplace for module in activations)


@pytest.mark.parametrize(("build", "depth"), [(resnet.ResNet, 21), (wrn.WideResNet, 18)])
def test_a_depth_that_does_not_exist_is_refused(build, depth):
    with pytest.raises(ValueError, match=f"not {depth}"):
        build(depth, (16, 16, 32, 64) if build is resnet.ResNet else 2)


def test_shufflenet_v2_unit_equals_relu_on_the_changed_half_alone():
    torch.manual_seed(0)
    unit = shufflenet.UnitV2(8).eval()
    x = torch.randn(2, 8, 5, 5).relu()
    changed = unit.bn3(unit.conv3(unit.bn2(unit.conv2(unit.relu1(unit.bn1(unit.conv1(x[:, 4:])))))))
    expected = unit.shuffle(torch.cat([x[:, :4], changed.relu()], 1))
    assert torch.equal(unit(x), expected)


def test_mlp_takes_vectors_and_images():
    assert mlp.mlp(5, in_channels=7)(torch.randn(2, 7)).shape == (2, 5)
    assert mlp.mlp(5, in_channels=3, image_size=[4, 6], hidden=[8])(torch.randn(2, 3, 4, 6)).shape == (2, 5)
    with pytest.raises(ValueError, match="hidden layer"):
        mlp.mlp(5, 7, hidden=[])


# Names and shapes in the checkpoints of RepDistiller and mdistiller, at 100 classes.
PUBLISHED_KEYS = {
    resnet.resnet8x4: {"conv1.weight": (32, 3, 3, 3), "layer2.0.downsample.1.running_var": (128,), "fc.bias": (100,)},
    resnet50.resnet50_cifar: {"layer1.0.shortcut.0.weight": (256, 64, 1, 1), "linear.weight": (100, 2048)},
    wrn.wrn_16_2: {"block2.layer.0.convShortcut.weight": (64, 32, 1, 1), "bn1.bias": (128,), "fc.weight": (100, 128)},
    vgg.vgg13: {"block0.3.weight": (64, 64, 3, 3), "block4.4.running_mean": (512,), "classifier.weight": (100, 512)},
    mobilenetv2.mobilenetv2: {
        "conv1.0.weight": (16, 3, 3, 3),
        "blocks.1.0.conv.3.weight": (48, 1, 3, 3),
        "conv2.1.weight": (1280,),
        "classifier.0.weight": (100, 1280),
    },
    shufflenet.shufflev1: {"layer1.0.conv3.weight": (216, 18, 1, 1), "layer3.3.bn2.weight": (240,)},
    shufflenet.shufflev2: {
        "layer1.0.conv5.weight": (58, 58, 1, 1),
        "layer2.7.bn3.bias": (116,),
        "conv2.weight": (1024, 464, 1, 1),
    },
}


@pytest.mark.parametrize("make", PUBLISHED_KEYS, ids=lambda make: make.__name__)
def test_names_in_published_checkpoints(make):
    with torch.device("meta"):
        state = make(num_classes=100).state_dict()
    expected = PUBLISHED_KEYS[make]
    assert {key: tuple(state[key].shape) for key in expected} == expected
