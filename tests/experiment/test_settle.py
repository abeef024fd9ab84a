"""Settling: data, facts and values, and nobody changes what was given."""

import pytest
from hydra import compose
from omegaconf import OmegaConf

from kd_lightning.config.command import Command
from kd_lightning.experiment.recipes import pipeline_recipes
from kd_lightning.experiment.settle import settle
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("composing")


def test_the_command_stays_as_it_was_composed():
    raw = compose("config", [*TINY, "method=gkd", "+teacher.fit.trainer.max_epochs=7"])
    before = OmegaConf.to_yaml(raw)
    command = Command(raw)
    settled = settle(command)
    recipe = pipeline_recipes(command)[-1]
    assert settled.settings.data["channels"] == 3, "a fact of the data"
    one, other = (settled.under(seed, recipe.method) for seed in (3, 4))
    assert (one.seed, other.seed) == (3, 4)
    # What refers to the seed follows it.
    assert (one.method.rollout["generation"]["seed"], other.method.rollout["generation"]["seed"]) == (3, 4)
    teacher = settled.of_role("teacher")
    assert teacher.data is settled.data
    assert teacher.settings.student.net == settled.settings.teacher.net
    assert teacher.settings.method.name == "ce"
    assert teacher.settings.trainer.max_epochs == teacher.settings.scheduler.factory["T_max"] == 7
    assert settled.with_body("somewhere").settings.student.body == "somewhere"
    assert settled.settings.student.body is None
    assert OmegaConf.to_yaml(raw) == before


def test_recipes_say_what_they_are_tested_against():
    recipes = pipeline_recipes(Command(compose("config", [*TINY, "data.select={min_confidence: 0.5}"])))
    alone, every, chosen = recipes
    assert [recipe.all_samples for recipe in recipes] == [True, True, False]
    assert chosen.against == (alone.name, every.name)
    assert [recipe.judged for recipe in recipes] == [False, False, True]


def test_a_class_whose_name_would_be_resolved_is_refused(composing, monkeypatch):
    from kd_lightning.data.images.module import KDDataModule

    monkeypatch.setattr(KDDataModule, "facts", {"class_names": ["a", "${oc.env:HOME}"]})
    with pytest.raises(ValueError, match=r"data.class_names holds '\$\{oc.env:HOME\}'"):
        settle(Command(compose("config", TINY)))
