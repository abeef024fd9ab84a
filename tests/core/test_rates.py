"""A schedule is as long as the run, in the unit that it counts."""

import functools
import math

import lightning.pytorch as pl
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader

from kd_lightning.core.optim import Scheduler
from kd_lightning.core.rates import linear, warmup_cosine
from tests.core.nets import batch, distiller

RATE = 0.1


class Watch(pl.Callback):
    """The rate of every step of the optimiser."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates(scheduler, batches=5, **options):
    """Those of a training of a few batches an epoch."""
    watch = Watch()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        **options,
    )
    trainer.fit(distiller(scheduler=scheduler), DataLoader([batch(4)] * batches, batch_size=None))
    return watch.rates


def cosine(count):
    return [RATE * 0.5 * (1 + math.cos(math.pi * step / count)) for step in range(count)]


COSINE = functools.partial(CosineAnnealingLR, T_max=None)


@pytest.mark.parametrize(
    ("interval", "options", "expected"),
    [
        ("step", {"max_epochs": 4}, cosine(20)),
        ("step", {"max_epochs": -1, "max_steps": 12}, cosine(12)),
        ("step", {"max_epochs": 4, "max_steps": 12}, cosine(12)),
        ("step", {"max_epochs": 4, "accumulate_grad_batches": 2}, cosine(12)),
        ("step", {"max_epochs": 4, "limit_train_batches": 2}, cosine(8)),
        ("epoch", {"max_epochs": 4}, [rate for rate in cosine(4) for _ in range(5)]),
        ("epoch", {"max_epochs": -1, "max_steps": 12}, [rate for rate in cosine(3) for _ in range(5)][:12]),
        ("epoch", {"max_epochs": 9, "max_steps": 12}, [rate for rate in cosine(3) for _ in range(5)][:12]),
        (
            "epoch",
            {"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 3},
            [rate for rate in cosine(3) for _ in range(2)][:5],
        ),
    ],
)
def test_a_cosine_falls_over_the_run(interval, options, expected):
    assert rates(Scheduler(COSINE, interval), **options) == pytest.approx(expected)


def test_others_take_the_length_by_their_own_names():
    straight = rates(
        Scheduler(functools.partial(LinearLR, start_factor=1.0, end_factor=0.5, total_iters=None), "step"), max_epochs=2
    )
    assert straight == pytest.approx([RATE * (1 - 0.5 * step / 10) for step in range(10)])
    cycle = rates(
        Scheduler(functools.partial(OneCycleLR, max_lr=1.0, total_steps=None, pct_start=0.3), "step"), max_epochs=2
    )
    assert max(cycle) == pytest.approx(1.0)
    assert cycle.index(max(cycle)) == 2
    assert cycle[-1] < 1e-4


def test_warm_up_and_fall():
    risen = rates(Scheduler(functools.partial(warmup_cosine, length=None, warmup=0.2, end=0.1), "step"), max_epochs=4)
    fall = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert risen == pytest.approx([RATE * f for f in [0, 0.25, 0.5, 0.75, *fall]])
    straight = rates(Scheduler(functools.partial(linear, length=None), "epoch"), max_epochs=4)
    assert straight == pytest.approx([RATE * f for f in (1, 0.75, 0.5, 0.25) for _ in range(5)])
    with pytest.raises(ValueError, match=r"scheduler.factory.warmup=5: it is a share"):
        warmup_cosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1), 10, warmup=5)


@pytest.mark.parametrize(
    ("interval", "options", "late"),
    [("epoch", {"max_epochs": 4}, "4, 9"), ("step", {"max_epochs": 1}, "9"), ("epoch", {"max_steps": 8}, "2, 4, 9")],
)
def test_milestones_beyond_the_end_are_refused(interval, options, late):
    steps = functools.partial(MultiStepLR, milestones=[2, 4, 9])
    with pytest.raises(ValueError, match=f"so that {late} never come"):
        rates(Scheduler(steps, interval), **options)


def test_milestones_within_it_are_not():
    assert rates(Scheduler(functools.partial(MultiStepLR, milestones=[1]), "epoch"), max_epochs=2) == pytest.approx(
        [RATE] * 5 + [RATE / 10] * 5
    )
    assert rates(Scheduler(functools.partial(MultiStepLR, milestones=[1])), max_epochs=1) == pytest.approx([RATE] * 5)


def test_a_run_without_an_end_has_no_fall():
    with pytest.raises(ValueError, match="length is not known"):
        rates(Scheduler(COSINE, "step"), max_epochs=-1)
