"""Rates and optimiser of a whole command: as long as the run, another class as it is named, gone on with for longer."""

from pathlib import Path

import pytest
import yaml

from kd_lightning.config.identity import of_training
from tests.conftest import TINY

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
