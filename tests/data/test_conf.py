"""conf/data: every shipped file builds."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from kd_lightning.data.base import SplitDataModule
from tests.data.images.test_cifar import cifar10, cifar100

FILES = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


def build(name, **overrides):
    path = next(file for file in FILES if file.stem == name)
    config = OmegaConf.create({"seed": 5, "teacher": {"views": 3}, "data": OmegaConf.load(path)})
    if OmegaConf.is_missing(config.data.source, "files"):
        config.data.source.files = "some.csv"
    if OmegaConf.is_missing(config.data.source, "name"):
        config.data.source.name = "some/name"
    for key, value in overrides.items():
        OmegaConf.update(config.data, key.replace("__", "."), value, force_add=False)
    return instantiate(config.data)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_builds_without_touching_the_data(file, monkeypatch):
    monkeypatch.delenv("KD_DATA", raising=False)
    module = build(file.stem)
    assert isinstance(module, SplitDataModule)
    assert module.seed == 0  # the run's seed decides the order only: all seeds share the augmented views
    assert module.num_views == 3
    assert module.name == file.stem


def test_a_configuration_without_a_teacher_has_a_new_view_in_every_epoch():
    assert instantiate(OmegaConf.create({"data": OmegaConf.load(FILES[0])}).data).num_views is None


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_ready_at_once(name):
    module = build(name)
    batch = module.ready(next(iter(module.train_dataloader())))
    assert batch["image"].shape == (64, module.channels, module.image_size, module.image_size)
    assert batch["image"].mean().abs() < 0.3
    assert not torch.equal(module.views(batch, [0], strong=True)[0], batch["image"])


@pytest.mark.parametrize("kind", [10, 100])
@pytest.mark.parametrize("by", ["root", "environment"])
def test_cifar_by_root_and_by_environment(tmp_path, monkeypatch, kind, by):
    (cifar10 if kind == 10 else cifar100)(tmp_path)
    if by == "environment":
        monkeypatch.setenv("KD_DATA", str(tmp_path))
    module = build(f"cifar{kind}", **({"root": str(tmp_path)} if by == "root" else {}))
    module.prepare()
    assert (module.num_classes, module.channels, module.image_size) == (kind, 3, 32)
    assert module.mean[0] == (0.4914 if kind == 10 else 0.5071)
    batch = module.ready(next(iter(module.train_dataloader())))
    assert batch["image"].shape[1:] == (3, 32, 32)
    assert module.views(batch, [0], strong=True)[0].isfinite().all()


def test_image_folder_takes_size_and_channels_from_the_top(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new("RGB", (20, 30), (9 * k, 0, 0)).save(tmp_path / name / f"{k}.png")
    kwargs = {"root": str(tmp_path), "image_size": 16, "channels": 1, "mean": None, "std": None}
    module = build("image_folder", **kwargs)
    batch = module.ready(next(iter(module.train_dataloader())))
    assert batch["image"].shape == (7, 1, 16, 16)
    assert module.num_classes == 2


def test_tensors_by_path(tmp_path):
    save_file({"f": torch.randn(40, 3), "y": torch.arange(40) % 2}, tmp_path / "mine.safetensors")
    module = build("tensors", root=str(tmp_path), source__path="mine.safetensors", source__x="f")
    module.prepare()
    assert (module.num_classes, module.channels, module.image_size, module.num_samples) == (2, 3, None, 28)
