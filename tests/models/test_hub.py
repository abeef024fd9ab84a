"""Models of timm and torchvision by name."""

from __future__ import annotations

import socket

import pytest
import torch
from safetensors.torch import save_file

from kd_lightning.models.hub import hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no proxy, empty caches."""
    from huggingface_hub import constants

    def unknown(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    for key in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "source", "library"),
    [
        ("resnet18", None, "timm"),
        ("resnet18.a1_in1k", None, "timm"),
        ("resnet18", "torchvision", "torchvision"),
        ("torchvision:resnet18", None, "torchvision"),
        ("timm:resnet18", "timm", "timm"),
        ("shufflenet_v2_x0_5", None, "torchvision"),
    ],
)
def test_library_by_name_prefix_or_source(name, source, library):
    net = hub(name, num_classes=4, source=source, in_channels=1)
    assert type(net).__module__.startswith(f"{library}.")
    assert net(torch.randn(2, 1, 64, 64)).shape == (2, 4)
    assert not any(getattr(module, "inplace", False) for module in net.modules())


def test_options_reach_the_library():
    net = hub("vit_tiny_patch16_224", 4, img_size=32, patch_size=4, depth=2)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_are_off(name):
    net = hub(name, 4, source="torchvision", init_weights=False)
    assert net.train()(torch.randn(2, 3, 96, 96)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("resnet19", None, "Did you mean.*resnet18.*Shipped.*wrn_40_2"),
        ("mobilenet_v9", "torchvision", "no model 'mobilenet_v9' in torchvision.*mobilenet_v2"),
        ("wrn_40-2", None, "Did you mean wrn_40_2"),
        ("timm:resnet18", "torchvision", "contradict"),
        ("resnet18", "timn", "choose timm or torchvision"),
    ],
)
def test_mistyped_names(name, source, message):
    with pytest.raises(ValueError, match=message):
        hub(name, 4, source=source)


def test_unknown_tag_of_weights():
    with pytest.raises(ValueError, match=r"Invalid pretrained tag"):
        hub("resnet18.nonsense", 4, pretrained=True)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_offline_says_how_to_give_a_file(name, offline):
    with pytest.raises(FileNotFoundError, match=r"resnet18 cannot be downloaded.*checkpoint=.*new_head=true"):
        hub(name, 4, pretrained=True)


def test_cached_weights_are_adapted_to_other_classes_and_channels(offline):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    official = resnet18()
    (offline / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(official.state_dict(), offline / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    net = hub("torchvision:resnet18", 4, pretrained=True, in_channels=1).eval()
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.conv1(grey), official.conv1(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)
    assert torch.equal(net.layer4[1].conv2.weight, official.layer4[1].conv2.weight)
    assert net(grey).shape == (2, 4)


def test_local_checkpoint(tmp_path):
    torch.manual_seed(0)
    trained = hub("timm:resnet18", 6)
    path = tmp_path / "w.safetensors"
    save_file(trained.state_dict(), path)
    assert torch.equal(hub("timm:resnet18", 6, checkpoint=str(path)).fc.weight, trained.fc.weight)
    with pytest.raises(ValueError, match=r"fc\.weight"):
        hub("timm:resnet18", 4, checkpoint=str(path))
    net = hub("timm:resnet18", 4, checkpoint=str(path), new_head=True)
    assert torch.equal(net.conv1.weight, trained.conv1.weight)
    assert net.fc.out_features == 4
    with pytest.raises(ValueError, match="another model"):
        hub("timm:resnet26", 6, checkpoint=str(path))
    with pytest.raises(ValueError, match="either"):
        hub("timm:resnet18", 6, checkpoint=str(path), pretrained=True)
