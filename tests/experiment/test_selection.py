"""data.select: the training split after teacher and pilot have seen it."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import register
from kd_lightning.experiment.selection import FILE, select_training
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.source import Source
from kd_lightning.files.runs import register_resolvers
from tests.conftest import QUICK, TINY

TEXT = [*(one for one in QUICK if not one.startswith("model@")), "model@teacher=tiny_bert", "model@student=tiny_bert"]


def taught_by(settled, net):
    """A net in the place of the teacher."""
    return Source("teacher", settled.settings.teacher, net)


class Bright(nn.Module):
    """Answers by the mean of the picture: sometimes right."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, image):
        mean = image.mean((1, 2, 3))
        return self.scale * torch.stack([mean, -mean, 0 * mean], 1)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def composed(*overrides, common=TINY):
    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [*common, *overrides])


def answers(net, data):
    batches = [data.ready(batch) for batch in data.loader("train", whole=True)]
    return torch.cat([net(batch["image"]) for batch in batches]).argmax(1)


def test_only_what_the_teacher_gets_right_is_left(tmp_path):
    settled = settle(Command(composed("data.select={min_per_class: 0, min_size: 0}")))
    data = settled.data
    teacher, targets = Bright(), data.targets("train")
    right = answers(teacher, data) == targets
    assert 0 < right.sum() < len(right)
    record = select_training(settled, data, taught_by(settled, teacher), tmp_path)
    assert data.num_samples == record["kept"] == int(right.sum())
    assert torch.equal(data.targets("train"), targets[right])
    assert bool((answers(teacher, data) == data.targets("train")).all())
    assert json.loads((tmp_path / FILE).read_text()) == record
    assert record["rules"]["teacher_right"] is True


def test_nothing_is_asked_for(tmp_path):
    settled = settle(Command(composed()))
    data = settled.data
    before = data.split.fingerprint
    assert select_training(settled, data, taught_by(settled, Bright()), tmp_path) is None
    assert data.split.fingerprint == before


def test_a_pilot_is_trained_alone_and_judges_too(tmp_path):
    settled = settle(
        Command(composed("data.select={teacher_right: false, pilot: train, min_per_class: 1}", "trainer.max_epochs=1"))
    )
    data = settled.data
    size = data.num_samples
    record = select_training(settled, data, taught_by(settled, Bright()), tmp_path)
    assert (tmp_path / "pilot" / "student.safetensors").is_file()
    assert record["left_out_by"]["pilot_wrong"] == size - record["kept_by_rules"]
    again = settle(
        Command(composed(f"data.select={{teacher_right: false, pilot: {tmp_path / 'pilot'}, min_per_class: 1}}"))
    )
    other = again.data
    assert select_training(again, other, taught_by(again, Bright()), tmp_path)["kept"] == record["kept"]
    assert other.split.fingerprint == data.split.fingerprint


def test_texts_without_a_label_get_the_teachers(tmp_path):
    class Short(nn.Module):
        """Answers by the length of the text."""

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, input_ids, attention_mask):
            length = attention_mask.sum(1).float()
            return torch.stack([length - 40, 40 - length, 0 * length], 1) + self.bias

    cfg = composed("data=synthetic_text", "data.source.samples=200", "data.source.unlabelled=0.5", common=TEXT)
    cfg.data.select = {"teacher_right": False}
    cfg.data.source.num_classes = 3
    cfg.teacher.call = {"_target_": "kd_lightning.core.calls.TokenCall"}
    settled = settle(Command(cfg))
    data = settled.data
    missing = data.targets("train") == -100
    assert 40 < missing.sum() < 100
    record = select_training(settled, data, taught_by(settled, Short()), tmp_path)
    assert record["unlabelled"] == record["unlabelled_kept"] == int(missing.sum())
    assert (data.targets("train") >= 0).all()


def test_tasks_without_classes_are_refused(tmp_path):
    own = ["data=synthetic_text", "data.source.samples=60", "data.task=regression", "metrics=regression"]
    cfg = composed(*own, common=TEXT)
    cfg.data.select = {}
    settled = settle(Command(cfg))
    with pytest.raises(ValueError, match=r"data\.task=regression has none"):
        select_training(settled, settled.data, taught_by(settled, Bright()), tmp_path)
