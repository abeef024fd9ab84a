"""Which trainings are one arm of ``job=compare``: those that the store tells apart are told apart."""

import json

import pytest
from hydra import compose

from kd_lightning.config.values import plain, settings_of, write_settings
from kd_lightning.experiment.found import find_arms
from kd_lightning.files.artifact import Artifact
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("composing")


@pytest.fixture
def left(tmp_path):
    """What a training with these overrides left; only its record and its settings."""

    def leave(identity, *overrides, kind="distilled"):
        settings = settings_of(compose("config", [*TINY, *overrides]))
        folder = tmp_path / identity
        folder.mkdir()
        write_settings(plain(settings), folder / "config.yaml")
        record = {"identity": identity, "kind": kind, "model": settings.student.name, "method": settings.method.name}
        record |= {"seed": settings.seed, "label": "", "validation": {"val/top1": 0.5}}
        (folder / "arm.json").write_text(json.dumps(record))
        return Artifact.open(folder)

    return leave


def seeds(arms):
    return [[run.seed for run in arm.runs] for arm in arms]


def test_seeds_are_one_arm_with_what_follows_from_them(left):
    own = ["method=gkd"]  # its rollout has the seed too
    found = find_arms([left("a", *own, "seed=0"), left("b", *own, "seed=1"), left("c", *own, "seed=2")])
    assert seeds(found) == [[0, 1, 2]]


@pytest.mark.parametrize(
    "other",
    [
        "teacher.seed=1",
        "+teacher.fit.trainer.max_epochs=1",
        "teacher.checkpoint=elsewhere.safetensors",
        "compile=true",
        "callbacks=gradients",
        "metrics.monitor=val/nll",
        "optimizer.lr=0.5",
    ],
)
def test_what_the_store_tells_apart_is_two_arms(left, other):
    found = find_arms([left("a", "seed=0"), left("b", "seed=1"), left("c", "seed=0", other)])
    assert sorted(seeds(found)) == [[0], [0, 1]]
    assert len({arm.name for arm in found}) == 2


def test_where_no_teacher_teaches_its_settings_do_not_matter(left):
    one, other = left("a", "seed=0", kind="alone"), left("b", "seed=1", "teacher.seed=1", kind="alone")
    assert seeds(find_arms([one, other])) == [[0, 1]]


def test_the_same_settings_on_other_samples_are_two_arms_and_the_same_training_is_one(left):
    first, other = left("a", "seed=0"), left("b", "seed=0")
    found = find_arms([first, other, Artifact.open(first.folder)])
    assert seeds(found) == [[0], [0]]
    assert {arm.name for arm in found} == {"resnet8 + kd #1", "resnet8 + kd #2"}
