"""Weights from files: every tensor has its place, or the error says which has not."""

from __future__ import annotations

import argparse
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kd_lightning.models.registry import available, load_weights, near_names, read_weights
from kd_lightning.models.resnet import resnet8, resnet14


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(3)
    return resnet8(10)


def fresh(seed: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return resnet8(10)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_safetensors(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    net = fresh()
    assert not same(net, trained)
    load_weights(net, tmp_path / "w.safetensors")
    assert same(net, trained)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net.", "student.net."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_wrapped_checkpoints(trained, tmp_path, prefix, wrapper):
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({wrapper: state, "epoch": 240, "rng": torch.zeros(3)} if wrapper else state, tmp_path / "w.pth")
    net = fresh()
    load_weights(net, tmp_path / "w.pth")
    assert same(net, trained)


def test_student_of_a_training_checkpoint_without_its_projectors(trained, tmp_path):
    state = {f"roles.trainable.student.net.{key}": value for key, value in trained.state_dict().items()}
    state["terms.fitnet.projector.weight"] = torch.zeros(2)
    torch.save({"state_dict": state, "global_step": 5}, tmp_path / "last.ckpt")
    net = fresh()
    load_weights(net, tmp_path / "last.ckpt")
    assert same(net, trained)


def test_checkpoint_of_another_model_is_named_and_changes_nothing(tmp_path):
    save_file(resnet14(10).state_dict(), tmp_path / "w.safetensors")
    net = fresh()
    with pytest.raises(ValueError, match=r"another model than this ResNet \(unexpected: layer1\.1\.bn1\.bias.* more"):
        load_weights(net, tmp_path / "w.safetensors")
    assert same(net, fresh())


def test_missing_keys_are_named(trained, tmp_path):
    state = trained.state_dict()
    del state["fc.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing: fc\.bias\)"):
        load_weights(fresh(), tmp_path / "w.safetensors")


def test_other_classes_are_refused_unless_the_head_is_skipped(tmp_path):
    torch.manual_seed(5)
    other = resnet8(7)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    net = fresh()
    with pytest.raises(ValueError, match=r"fc\.weight \(7, 64\) instead of \(10, 64\)"):
        load_weights(net, tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors", skip=["fc"])
    assert torch.equal(net.layer3[0].conv1.weight, other.layer3[0].conv1.weight)
    assert torch.equal(net.fc.weight, fresh().fc.weight)


def test_tied_tensors_that_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    weight = torch.randn(5, 3)
    save_file({"embed.weight": weight}, tmp_path / "w.safetensors")
    net = Tied()
    load_weights(net, tmp_path / "w.safetensors")
    assert torch.equal(net.out.weight, weight)


class Evil:
    """Unpickling it would set a flag."""

    executed = False

    def __reduce__(self):
        return (exec, ("from tests.models.test_registry import Evil; Evil.executed = True",))


def test_files_that_need_code_are_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ValueError, match="could run code"):
        read_weights(path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="could run code"):
        read_weights(tmp_path / "plain.pth")
    assert not Evil.executed


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_truncated_files(trained, tmp_path, name, kept):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(trained.state_dict(), path)
    else:
        save_file(trained.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=str(path)):
        read_weights(path)


def test_files_without_weights_or_absent(tmp_path):
    torch.save({"epoch": 3, "name": "x"}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds no weights.*epoch, name"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_weights(tmp_path / "absent.pth")


def test_shipped_names_and_near_ones():
    names = available()
    assert {"resnet8x4", "wrn_40_2", "vgg8", "mobilenetv2", "shufflev1", "hub", "mlp", "vit_tiny"} <= set(names)
    assert "wrn_40_2" in near_names("wrn_40-2", names)
    assert near_names("zzzzzz", names) == ""


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "model._orig_mod.", "_orig_mod.module.", "model.module.net."])
def test_two_prefixes(tmp_path, prefix):
    net, other = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)) for _ in range(2))
    torch.save({f"{prefix}{key}": value for key, value in net.state_dict().items()}, tmp_path / "net.pt")
    load_weights(other, tmp_path / "net.pt")
    assert torch.equal(other[1].weight, net[1].weight)


def test_plain_values_beside_the_weights_are_harmless(tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    settings = argparse.Namespace(lr=0.1, best=np.float64(0.5), epoch=np.int64(3))
    torch.save({"args": settings, "best": np.float32(1), "state_dict": net.state_dict()}, tmp_path / "net.pt")
    load_weights(other, tmp_path / "net.pt")
    assert torch.equal(other.weight, net.weight)
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"is a text, no checkpoint.*git lfs pull"):
        read_weights(tmp_path / "text.pt")
