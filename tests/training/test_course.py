"""Rates and optimiser of a whole command: as long as the run, another class as it is named, gone on with for longer."""

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from kd_lightning.config.identity import of_training
from kd_lightning.core.course import epochs_done
from tests.conftest import TINY
from tests.jobs.finished import command

ALONE = [*TINY, "job=train", "method=ce", "data.source.samples=64", "name=x"]


def test_another_class_needs_no_deletions(cli):
    outcome = cli(
        *ALONE,
        "trainer.max_epochs=1",
        "optimizer._target_=torch.optim.Adagrad",
        "scheduler.factory._target_=torch.optim.lr_scheduler.ExponentialLR",
        "+scheduler.factory.gamma=0.5",
        "+teacher.fit.optimizer={_target_: torch.optim.Adadelta, rho: 0.8}",
        "method=kd",
    )
    assert outcome.code == 0, outcome.text
    assert "optimizer: torch.optim.Adagrad takes no momentum, nesterov; left out." in outcome.text
    assert "scheduler.factory: torch.optim.lr_scheduler.ExponentialLR takes no T_max; left out." in outcome.text
    student = yaml.safe_load((outcome.folder / "config.yaml").read_text())
    assert student["optimizer"] == {
        "_target_": "torch.optim.Adagrad", "_partial_": True, "lr": 0.05, "weight_decay": 5e-4,
    }  # fmt: skip
    assert set(student["scheduler"]["factory"]) == {"_target_", "_partial_", "gamma"}
    teacher = yaml.safe_load(next(Path("outputs/teachers").glob("*/config.yaml")).read_text())
    assert teacher["optimizer"]["_target_"] == "torch.optim.Adadelta"
    assert set(teacher["optimizer"]) == {"_target_", "_partial_", "lr", "weight_decay", "rho"}


def test_what_was_set_for_the_new_class_is_not_left_out(cli):
    outcome = cli(*ALONE, "optimizer._target_=torch.optim.Adagrad", "+optimizer.rho=0.9")
    assert "optimizer: torch.optim.Adagrad takes no argument 'rho'" in outcome.text


def plain(t_max, epochs, steps, interval):
    """Settings as an identity reads them."""
    keys = ("student", "optimizer", "callbacks", "metrics", "seed", "select", "protocol", "compile")
    trainer = "precision strategy devices gradient_clip_val gradient_clip_algorithm accumulate_grad_batches"
    trainer += " deterministic limit_train_batches limit_val_batches sync_batchnorm channels_last ema"
    return {
        **dict.fromkeys(keys, 0),
        "method": {},
        "data": {},
        "scheduler": {"factory": {"T_max": t_max}, "interval": interval, "monitor": None},
        "trainer": {**dict.fromkeys(trainer.split(), 0), "max_epochs": epochs, "max_steps": steps},
    }


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ((10, 10, -1, "epoch"), True),
        ((7, 10, -1, "epoch"), True),
        ((-1, -1, 80, "epoch"), False),
        ((10, 10, 80, "epoch"), False),
        ((10, 10, -1, "step"), False),
        ((7, 10, -1, "step"), True),
    ],
)
def test_only_what_swung_is_made_anew(settings, known):
    assert (of_training(plain(*settings))[0]["scheduler"]["factory"]["T_max"] == settings[0]) is known


# Seven steps an epoch.
LONG = [
    *TINY,
    "job=train",
    "method=ce",
    "name=x",
    "student.net.dropout=0",
    "model@student=mlp",
    "student.net.hidden=[4]",
]


class Rates(pl.Callback):
    """The rate of every step, of the whole test."""

    seen: list[float] = []  # noqa: RUF012

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


WATCH = f"+callbacks.rates={{_target_: {__name__}.Rates}}"


def rates(cli, *arguments, code=0):
    """Those of a command."""
    Rates.seen.clear()
    outcome = cli(*LONG, WATCH, *arguments)
    assert outcome.code == code, outcome.text
    return list(Rates.seen), outcome.text


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The last checkpoint of two epochs."""
    place = tmp_path_factory.mktemp("first")
    command(place, *LONG, "trainer.max_epochs=2", "hydra.run.dir=outputs/x/first")
    return place / "outputs/x/first/checkpoints/last.ckpt"


@pytest.fixture
def trained(cli, first):
    """Goes on from there."""

    def more(*arguments, code=0):
        return rates(cli, f"ckpt_path={first}", *arguments, code=code)

    return more


def cosine(count):
    return [0.05 * 0.5 * (1 + math.cos(math.pi * step / count)) for step in range(count)]


def test_longer_follows_the_new_schedule_from_the_right_place(trained):
    found, text = trained("trainer.max_epochs=5")
    assert found == pytest.approx([rate for rate in cosine(5)[2:] for _ in range(7)])
    assert "going on under another schedule" in text
    assert trained("scheduler=constant", "trainer.max_epochs=3")[0] == [0.05] * 7
    found, _ = trained("scheduler=warmup_cosine", "trainer.max_epochs=3", "optimizer.lr=0.1")
    assert found == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 20)) for step in range(14, 21)])
    assert trained("scheduler=plateau", "trainer.max_epochs=3")[0] == [0.05] * 7


def test_the_right_place_is_where_the_schedule_itself_was(first):
    """Of a checkpoint from an epoch's end, from a validation before it, and from within an epoch."""
    before = Path(__file__).parents[1] / "experiment/before/store/unfinished"
    for path in (first, first.with_name("best.ckpt"), next(before.rglob("interrupted.ckpt"))):
        checkpoint = torch.load(path, weights_only=True)
        assert epochs_done(checkpoint) == checkpoint["lr_schedulers"][0]["last_epoch"], path


def test_a_setting_of_the_optimizer_holds_when_it_goes_on(trained):
    trained("trainer.max_epochs=3", "optimizer.weight_decay=0.25", "hydra.run.dir=outputs/x/second")
    (state,) = torch.load("outputs/x/second/checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert state["param_groups"][0]["weight_decay"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer=adam"], "is of a training with SGD, whose state Adam cannot go on with"),
        (
            ["student.net.hidden=[4,4]"],
            "The checkpoint is of another student or another method: roles.trainable.student",
        ),
        (["trainer.max_epochs=1"], "trainer.max_epochs=1: the checkpoint has 2 behind it already"),
        pytest.param(
            ["trainer.max_steps=9"],
            "trainer.max_steps=9: the checkpoint has 14 behind it already",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(trained, arguments, message):
    _, text = trained("trainer.max_epochs=3", *arguments, code=1)
    assert message in " ".join(text.split())
    assert "Traceback" not in text
