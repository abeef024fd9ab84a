"""What makes a step cheaper must not change what it computes."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kd_lightning.core import progress_bar, roles, speed
from kd_lightning.core.calls import TensorCall
from kd_lightning.core.progress_bar import ProgressBar
from kd_lightning.core.references import Reference
from kd_lightning.core.taps import Taps
from tests.conftest import TINY

FUSED = [
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3),
    partial(torch.optim.Adam, lr=0.1),
    partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
]


def groups():
    torch.manual_seed(0)
    return [{"params": [nn.Parameter(torch.randn(5, 3))]}, {"params": [nn.Parameter(torch.randn(7))], "lr": 0.01}]


def train(optimizer):
    for step in range(4):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.sin(parameter.detach() + step)
        optimizer.step()
    return [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("factory", FUSED, ids=lambda factory: factory.func.__name__)
def test_a_fused_optimiser_takes_the_same_steps(factory):
    fused = speed.fused(factory)(groups())
    assert all(group["fused"] for group in fused.param_groups)
    assert [group["lr"] for group in fused.param_groups] == [0.1, 0.01]
    torch.testing.assert_close(train(fused), train(factory(groups())))


@pytest.mark.parametrize("factory", [partial(torch.optim.SGD, lr=0.1, foreach=True), partial(torch.optim.RMSprop)])
def test_what_chooses_for_itself_stays(factory):
    assert speed.fused(factory) is factory


def test_a_device_without_the_kernel_gets_the_plain_one():
    parameter = nn.Parameter(torch.empty(3, device="meta"))
    optimizer = speed.fused(FUSED[0])([{"params": [parameter]}])
    assert not optimizer.param_groups[0]["fused"]


def test_the_trainer_takes_the_profiler_and_it_is_transparent(tmp_path):
    trainer = pl.Trainer(profiler=speed.NoProfiler(), logger=False, accelerator="cpu", default_root_dir=tmp_path)
    with pytest.raises(KeyError), trainer.profiler.profile("outer"), trainer.profiler.profile("inner"):
        raise KeyError


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_memory_is_kept_where_the_c_library_is_glibc(monkeypatch, platform):
    monkeypatch.setattr(speed.sys, "platform", platform)
    assert speed.keep_memory() is (platform == "linux")


def test_the_bar_is_not_drawn_in_every_step_but_in_the_last(monkeypatch):
    class Trainer:
        is_last_batch = False

    drawn, now = [], [100.0]
    monkeypatch.setattr(pl.callbacks.RichProgressBar, "on_train_batch_end", lambda self, *a, **k: drawn.append(now[0]))
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    bar = ProgressBar()
    for _ in range(99):
        bar.on_train_batch_end(Trainer, None, None, None, 0)
        now[0] += 0.01
    assert len(drawn) == 2  # twice a second, over 0.99 s
    Trainer.is_last_batch = True
    bar.on_train_batch_end(Trainer, None, None, None, 0)
    assert len(drawn) == 3


def test_a_tapped_path_is_looked_for_once(monkeypatch):
    """A search walks the whole net; a step asks for every reference."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 4))
    role = roles.Role("student", net, TensorCall())
    reference = Reference.parse("student.0")
    role.listen([reference])
    signals = role({"image": torch.randn(1, 1, 8, 8)})
    searched = []
    monkeypatch.setattr(roles, "find_module", lambda *a: searched.append(a))
    for _ in range(3):
        assert role.pick(reference, signals) is signals["0"]
        assert role.pick(Reference.parse("student.0!module"), signals) is net[0]
    assert not searched


def test_taps_are_part_of_one_compiled_graph():
    """A break at every tap would compile piece by piece, and give up after eight."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 4))
    taps = Taps(net, ["0", "1", "3:in"])
    image = torch.randn(2, 1, 8, 8)
    net.compile(backend="eager", fullgraph=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for _ in range(3):
        net(image)
        captured = taps.take()
    assert set(captured) == {"0", "1", "3:in"}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_set_on_the_device_trains_to_the_same_weights(cli):
    common = [
        *TINY,
        "job=train",
        "method=ce",
        "data.augment=[{_target_: kd_lightning.data.images.augment.HorizontalFlip}]",
    ]
    states = []
    for where in ("false", "true"):
        outcome = cli(*common, f"data.on_device={where}", f"hydra.run.dir=outputs/{where}/x")
        assert outcome.code == 0, outcome.text
        states.append(load_file(outcome.folder / "student.safetensors"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_training_cut_within_its_first_epoch_ends_well(cli):
    outcome = cli(*TINY, "trainer.max_steps=3", "export.formats=[]")
    assert outcome.code == 0, outcome.text
