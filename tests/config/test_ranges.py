"""Numbers that cannot be meant are refused before anything runs, with the key and what it may be."""

import math

import pytest

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.ranges import RANGES, check_ranges
from kd_lightning.config.values import values
from kd_lightning.jobs.methods import load_method
from tests.conftest import TINY


def at(path, value):
    """A configuration with this alone."""
    for key in reversed(path.split(".")):
        value = [value] if key.isdigit() else {key: value}
    return value


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("trainer.max_epochs", 0, "a whole number from 1 or -1"),
        ("trainer.max_epochs", -2, "a whole number from 1 or -1"),
        ("trainer.max_steps", 0, "a whole number from 1 or -1"),
        ("trainer.limit_train_batches", 0, "a number of batches from 1, or a share of them up to 1.0"),
        ("trainer.limit_train_batches", 0.0, "a number of batches from 1"),
        ("trainer.limit_val_batches", 2.5, "a number of batches from 0"),
        ("trainer.accumulate_grad_batches", 0, "a whole number from 1"),
        ("trainer.gradient_clip_val", -1.0, "a number from 0"),
        ("trainer.ema", 1.0, "a number above 0 below 1"),
        ("optimizer.lr", "fast", "a number from 0"),
        ("optimizer.lr", -1, "a number from 0"),
        ("optimizer.lr", math.inf, "a number from 0"),
        ("optimizer.momentum", 5, "a number from 0 below 1"),
        ("optimizer.weight_decay", -1, "a number from 0"),
        ("optimizer.betas.0", 1.5, "a number from 0 below 1"),
        ("scheduler.factory.milestones.0", 0, "a whole number from 1"),
        ("teacher.fit.optimizer.momentum", 5, "a number from 0 below 1"),
        ("roles.b.fit.trainer.max_epochs", 0, "a whole number from 1 or -1"),
        ("roles.ema.decay", 1.5, "a number from 0 below 1"),
        ("method.terms.kd.weight", math.nan, "a number"),
        ("method.terms.kd.weight", "much", "a number"),
        ("method.terms.kd.weight.value", math.nan, "a number"),
        ("baseline.terms.ce.weight", math.inf, "a number"),
        ("teacher.fit.method.terms.kd.weight", math.nan, "a number"),
        ("method.terms.kd.loss.temperature", -1, "a number above 0"),
        ("method.terms.kd.loss.temperature", 0, "a number above 0"),
        ("method.terms.mlkd.loss.temperatures.0", -1, "a number above 0"),
        ("method.terms.dkd.loss.beta", math.nan, "a number"),
        ("method.terms.ce.loss.label_smoothing", 1.0, "a number from 0 below 1"),
        ("method.rollout.fraction", 2, "a number from 0 to 1"),
        ("student.net.dropout", 1.5, "a number from 0 below 1"),
        ("roles.b.net.dropout", -0.5, "a number from 0 below 1"),
        ("compare.alpha", 2, "a number above 0 below 1"),
        ("export.calibration", 0, "a whole number from 1"),
        ("data.batch_size", 0, "a whole number from 1"),
        ("optimizer.lr", True, "a number from 0"),
    ],
)
def test_what_is_out_of_its_range_is_named(path, value, allowed):
    with pytest.raises(ValueError, match=f"^{path}={value}: it must be {allowed}"):
        check_ranges(at(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.max_epochs", -1),
        ("trainer.limit_train_batches", 0.5),
        ("trainer.limit_train_batches", 7),
        ("trainer.limit_val_batches", 0),
        ("trainer.gradient_clip_val", None),
        ("optimizer.lr", 0),
        ("optimizer.lr", "${something}"),
        ("method.terms.kd.weight", -0.5),
        ("method.terms.pkd_hidden.loss.layers", "skip"),
        ("seed", "???"),
    ],
)
def test_what_can_be_meant_is_not(path, value):
    check_ranges(at(path, value))


def test_every_published_method_is_within():
    for path in (conf_dir() / "method").glob("*.yaml"):
        check_ranges({"method": values(load_method(path.stem))})


def test_every_range_says_what_it_allows():
    assert all(str(one).startswith("a ") for one in RANGES.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.momentum=5", "trainer.max_epochs=0"],
            "Error: optimizer.momentum=5: it must be a number from 0 below 1. From 1 on the steps grow without end."
            " trainer.max_epochs=0: it must be a whole number from 1 or -1.",
        ),
        (["+teacher.fit.optimizer.lr=fast"], "teacher.fit.optimizer.lr=fast: it must be a number from 0."),
        (["export.calibration=0", "export.formats=[onnx_int8]"], "An int8 file takes its ranges from these samples."),
        (["scheduler=multistep", "trainer.max_epochs=200"], "the run ends after 200 epochs, so that 210 never comes"),
        (["lr=0.1"], "Unknown key 'lr'. Did you mean optimizer.lr?"),
        (["method.temperature=2"], "Did you mean method.terms.kd.loss.temperature?"),
        (["max_epochs=2"], "Did you mean trainer.max_epochs?"),
        (["trainer.max_epoch=3"], "Unknown key 'trainer.max_epoch'. Did you mean max_epochs"),
    ],
)
def test_on_the_command_line(cli, arguments, message):
    outcome = cli(*TINY, *arguments)
    assert outcome.code == 1
    assert message in " ".join(outcome.text.split())
    assert "Traceback" not in outcome.text
    assert "Loading PyTorch" not in outcome.text
