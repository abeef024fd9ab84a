"""Training under int8: the rounding is that of the files, gradients go through it, and what is shipped is plain."""

import pytest
import torch
from torch import nn

from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.models.compress.fake_quant import (
    FakeQuantConv2d,
    fake_quantise,
    round_activation,
    round_weight,
    without_fake_quant,
)
from kd_lightning.models.compress.fold import fold_batchnorm
from kd_lightning.models.resnet import resnet8


def test_weights_have_255_levels_a_channel_and_activations_256():
    torch.manual_seed(0)
    weight = torch.randn(4, 300, 3, 3) * torch.tensor([0.01, 1.0, 5.0, 100.0]).view(4, 1, 1, 1)
    expected = torch.fake_quantize_per_channel_affine(
        weight, weight.abs().amax((1, 2, 3)) / 127, torch.zeros(4, dtype=torch.int32), 0, -127, 127
    )
    assert torch.allclose(round_weight(weight), expected, rtol=1e-5, atol=0)
    assert all(len(channel.unique()) <= 255 for channel in round_weight(weight))

    x = torch.rand(50_000) * 7 - 2
    scale = (x.max() - x.min()) / 255
    zero = int((-x.min() / scale).round())
    assert torch.allclose(
        round_activation(x), torch.fake_quantize_per_tensor_affine(x, float(scale), zero, 0, 255), atol=1e-5
    )
    assert len(round_activation(x).unique()) == 256
    assert round_activation(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rounding", [round_weight, round_activation])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_go_straight_through(rounding, dtype):
    x = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    rounded = rounding(x)
    rounded.sum().backward()
    assert rounded.dtype == dtype
    assert torch.equal(x.grad, torch.ones_like(x))


def test_it_simulates_the_int8_file(tmp_path):
    """The simulation errs as the file errs: far closer to the file than the file is to float."""
    torch.manual_seed(0)
    net, images = resnet8(10, 1), torch.randn(64, 1, 8, 8)
    net(images)  # batch norms that are not trivial
    net.eval()
    FORMATS["onnx_int8"].write(net, images, tmp_path / "x.onnx")
    file = FORMATS["onnx_int8"].load(tmp_path / "x.onnx")(images)
    plain = net(images).detach()
    simulated = fake_quantise(net)(images).detach()
    gap = float((simulated - file).square().mean().sqrt())
    loss = float((plain - file).square().mean().sqrt())
    assert 0 < gap < loss * 1.2
    assert float((simulated - plain).square().mean().sqrt()) > 0.2 * loss


def test_folding_a_batch_norm_rounds_the_same_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5))
    net(torch.randn(8, 3, 9, 9))
    net[1].weight.data = torch.tensor([-2.0, 0.1, 1.0, 30.0, -0.5])
    net.eval()
    image = torch.randn(4, 3, 9, 9)
    folded = fold_batchnorm(net)
    assert torch.allclose(fake_quantise(net)(image), fake_quantise(folded)(image), rtol=1e-4, atol=1e-4)


def test_names_stay_and_the_plain_net_comes_back():
    net = resnet8(10, 1).eval()
    names, image = list(net.state_dict()), torch.randn(2, 1, 8, 8)
    expected = net(image)
    assert not torch.equal(fake_quantise(net)(image), expected)
    assert list(net.state_dict()) == names
    assert isinstance(net.conv1, FakeQuantConv2d)
    plain = without_fake_quant(net)
    assert torch.equal(plain(image), expected)
    assert type(plain.conv1) is nn.Conv2d
    assert isinstance(net.conv1, FakeQuantConv2d)  # the net under training is left alone
    assert without_fake_quant(plain) is plain


@pytest.mark.parametrize("model", ["resnet8", "timm"])
def test_batch_norms_keep_their_statistics_and_still_learn(model):
    import timm

    net = (
        resnet8(10, 1) if model == "resnet8" else timm.create_model("mobilenetv3_small_050", num_classes=10, in_chans=1)
    )
    image = torch.randn(8, 1, 32, 32)
    net(image)
    classes = [type(module) for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net = fake_quantise(net.train()).train()
    net(image).square().mean().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    after = net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name or "num_batches" in name)
    norms = [name for name in after if name.replace("weight", "running_mean") in after]
    assert norms
    assert not all(torch.equal(after[name], before[name]) for name in norms)
    plain = without_fake_quant(net).train()
    assert [type(module) for module in plain.modules()] == classes
    plain(image)
    assert not all(torch.equal(value, before[name]) for name, value in plain.state_dict().items() if "running" in name)


def test_a_net_without_layers_to_round_is_refused():
    with pytest.raises(ValueError, match=r"no nn\.Conv2d or nn\.Linear"):
        fake_quantise(nn.Sequential(nn.Flatten()))
