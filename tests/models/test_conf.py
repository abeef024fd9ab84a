"""Every shipped model configuration makes a net that takes a batch and learns."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.files.runs import register_resolvers
from kd_lightning.models.registry import available

NEEDS_A_NAME = {"hub": "torchvision:mobilenet_v2", "timm": "mobilenetv3_small_050", "torchvision": "mobilenet_v3_small"}

register_resolvers()


def configured(name: str):
    """The body of a role as it lies in a configuration, and the net it makes."""
    role = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
    root = OmegaConf.create({"data": {"num_classes": 10, "channels": 3, "image_size": 32}, "student": role})
    if name in NEEDS_A_NAME:
        assert OmegaConf.is_missing(root.student.net, "name")
        root.student.net.name = NEEDS_A_NAME[name]
    assert root.student.name == NEEDS_A_NAME.get(name, name)
    return instantiate(root.student.net)


def is_of_images(name: str) -> bool:
    """Language models have their own tests, in tests/models/language; some build on another one's configuration."""
    target = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml").net.get("_target_")
    return target is not None and ".language." not in target


@pytest.mark.parametrize("name", [name for name in available() if is_of_images(name)])
def test_model_configuration(name):
    torch.manual_seed(0)
    net = configured(name)
    images = torch.randn(2, 3, 32, 32)
    logits = net(images)
    assert logits.shape == (2, 10)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    without = [path for path, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(images), net(images))
