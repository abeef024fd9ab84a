"""A teacher is scored before anybody learns from it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hydra import compose
from safetensors.torch import save_file
from torch import nn

from kd_lightning.config.command import Command
from kd_lightning.experiment.examine import examine
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.source import Source
from kd_lightning.measures.classes import reordered
from kd_lightning.models.registry import savable_state
from kd_lightning.training.nets import build_net
from tests.conftest import TINY

CHECKED = [one for one in TINY if not one.startswith("teacher.check")]
# 80 samples for validation, of three classes.
HALF = [*CHECKED, "data.val_fraction=0.5"]


class Told(nn.Module):
    """Knows the targets of a split that it is asked for once, in order, and answers them through a table."""

    def __init__(self, targets, table):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.rest, self.table = targets, torch.tensor(table)

    def forward(self, image):
        now, self.rest = self.rest[: len(image)], self.rest[len(image) :]
        return 5.0 * F.one_hot(self.table[now], 3).float()


@pytest.fixture(scope="module")
def settled(composing, tmp_path_factory):
    return settle(Command(compose("config", HALF)))


def examined(settled, table, **changes):
    role = replace(settled.settings.teacher, **changes)
    net = Told(settled.data.targets("validation"), table)
    examine(settled.settings, settled.data, Source("teacher", role, net))


def test_the_smoke_trainer_warns_only(composing):
    assert compose("config", ["trainer=smoke"]).teacher.check == "warn"
    assert compose("config", []).teacher.check == "stop"


def test_a_teacher_that_knows_the_classes_passes_and_is_told_beside_what_looks_at_nothing(settled, caplog):
    caplog.set_level("INFO", "kd_lightning")
    examined(settled, [0, 1, 2])
    share = settled.data.targets("validation").bincount().max() / len(settled.data.split.validation)
    assert caplog.messages == [f"teacher resnet8: top-1 100.0 % on validation (trivial: {100 * share:.1f} %)"]


def test_one_that_always_says_the_same_stops_the_run_or_is_warned_of(settled, caplog):
    largest = int(settled.data.targets("validation").bincount().argmax())
    with pytest.raises(
        ValueError, match=r"no better than what looks at nothing.*It is used as it is built.*check=warn"
    ):
        examined(settled, 3 * [largest])
    examined(settled, 3 * [largest], check="warn")
    assert "has nothing to teach" in caplog.messages[-1]
    caplog.clear()
    examined(settled, 3 * [largest], check="off")
    assert caplog.messages == []
    with pytest.raises(ValueError, match="choose stop, warn, off"):
        examined(settled, 3 * [largest], check="loud")


def test_classes_in_another_order_are_named(settled):
    with pytest.raises(ValueError, match=r"another order.*reordered 100.0 %: '1' is answered by output 2, '2' is"):
        examined(settled, [0, 2, 1])


def test_a_poor_net_is_not_taken_for_a_reordered_one():
    target = torch.arange(300) % 3
    right = F.one_hot(target, 3).float()
    swapped = F.one_hot(torch.tensor([0, 2, 1])[target], 3).float()
    mixed = torch.where((torch.arange(300) < 140)[:, None], swapped, right)
    assert reordered(right, target) is None
    assert reordered(swapped, target) == [0, 2, 1]
    assert reordered(mixed, target) is None
    assert reordered(swapped[:12], target[:12]) is None  # eight more right answers may be chance


def test_nothing_is_trained_from_a_teacher_as_it_is_built(cli, composing):
    outcome = cli(*HALF, "teacher.fit=null", "teacher.net._target_=tests.experiment.test_examine.constant")
    assert outcome.code == 1
    assert "no better than what looks at nothing" in outcome.text
    assert ": training ..." not in outcome.text


def test_weights_that_are_not_finite_are_called_so(settled, tmp_path):
    net = build_net(settled.settings.teacher, 0)
    with torch.no_grad():
        next(net.parameters())[0] = math.nan
    save_file(savable_state(net), tmp_path / "broken.safetensors")
    role = replace(settled.settings.teacher, checkpoint=str(tmp_path / "broken.safetensors"))
    with pytest.raises(
        ValueError, match=r"resnet8 from .*broken.safetensors: 27 of the 432 numbers .* nan or infinite"
    ):
        build_net(role, 0)


def constant(num_classes, **_):
    """A net that always says the first class."""
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
    net(torch.zeros(1, 3, 8, 8))
    nn.init.zeros_(net[1].weight)
    return net
