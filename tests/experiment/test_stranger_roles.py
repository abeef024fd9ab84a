"""Roles of any name, given by configuration alone: two frozen, one that follows the student."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.core.distiller import Distiller
from kd_lightning.core.follow import Follower
from tests.conftest import TINY

# 112 training samples in batches of 16: seven steps an epoch. The student has dropout, so the random state counts.
ROLES = [
    *["+role@roles.a=frozen", "+model@roles.a=resnet8", "roles.a.seed=1"],
    *["+role@roles.b=frozen", "+model@roles.b=mlp", "roles.b.seed=2"],
    *["+role@roles.c=ema", "roles.c.decay=0.9"],
]
METHOD = [
    *["method=kd", "method.terms.kd.inputs.teacher=a.logits"],
    *["+term@method.terms.second=kd", "method.terms.second.inputs.teacher=b.logits"],
    *["+term@method.terms.steady=logits_mse", "method.terms.steady.inputs.teacher=c.logits"],
]
STORED = ["roles.a.cache=write", "roles.b.cache=write"]
STRANGERS = [
    *[*TINY, *ROLES, *METHOD, "name=x", "data.channels=1", "student.net._target_=tests.core.nets.Net"],
    "export.formats=[]",
]
TRAIN = [*STRANGERS, *STORED, "job=train"]


def checkpoint(folder):
    return torch.load(Path(folder) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def rows(folder):
    """What was logged, resumed or not."""
    found = []
    for path in sorted(Path(folder).glob("logs/*/metrics.csv")):
        with path.open() as file:
            found += list(csv.DictReader(file))
    return found


def stop_at(monkeypatch, step):
    original = Distiller.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step and os.environ.pop("STOP_ONCE", None):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setenv("STOP_ONCE", "1")
    monkeypatch.setattr(Distiller, "training_step", training_step)


def test_stopped_and_resumed_it_is_the_same_bit_for_bit(cli, monkeypatch):
    straight = cli(*TRAIN, "hydra.run.dir=outputs/straight/a")
    assert straight.code == 0, straight.text
    assert "teacher resnet8" not in straight.text  # nobody asks it: it is neither built nor trained
    expected = checkpoint("outputs/straight/a")
    learnt = {name for name in expected if name.startswith("roles.")}
    assert {name.split(".net.")[0] for name in learnt} == {"roles.trainable.student", "roles.following.c"}
    weight = next(name for name in expected if name.startswith("roles.following.c.net.") and name.endswith("weight"))
    assert not torch.equal(expected[weight], expected[weight.replace("following.c", "trainable.student")])
    assert len(list(Path("outputs/cache").iterdir())) == 2  # one for each frozen role
    for name in ("a", "b"):
        assert f"roles.{name} cache: writing logits" in straight.text
    record = json.loads(Path("outputs/straight/a/arm.json").read_text())
    assert record["kind"] == "distilled"
    assert 0 <= record["followers"]["c"]["best"]["top1"] <= 1
    logged = rows("outputs/straight/a")
    assert any(row["val/c/top1"] for row in logged)
    assert any(row["val/top1"] for row in logged)

    stop_at(monkeypatch, 9)
    stopped = cli(*TRAIN)
    assert stopped.code == 130, stopped.text
    assert "roles.a cache: reading logits" in stopped.text
    resumed = cli(*TRAIN, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert "going on from interrupted.ckpt" in resumed.text
    folder = next(Path("outputs/x").iterdir())
    got = checkpoint(folder)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    student, same = (load_file(Path(one) / "student.safetensors") for one in ("outputs/straight/a", folder))
    assert all(torch.equal(student[name], same[name]) for name in student)
    again = json.loads((folder / "arm.json").read_text())
    assert again["followers"] == record["followers"]
    assert again["identity"] == record["identity"]


def test_every_frozen_role_is_an_arm_and_one_is_trained_before(cli):
    arguments = [one.replace("roles.b=frozen", "roles.b=trained") for one in STRANGERS]
    arguments += ["+roles.b.fit.trainer.max_epochs=1", "trainer.max_epochs=1"]
    outcome = cli(*arguments)
    assert outcome.code == 0, outcome.text
    assert "b mlp: training" in outcome.text
    assert "a resnet8: used as it is built" in outcome.text
    numbers = json.loads((outcome.folder / "metrics.json").read_text())
    assert set(numbers["arms"]) == {"a", "b", "student alone", "student + kd"}
    assert (
        "The role c, which follows student + kd, on the test split: top1" in (outcome.folder / "report.md").read_text()
    )
    alone, distilled = (json.loads((outcome.folder / arm / "seed_0/arm.json").read_text()) for arm in ("alone", "kd"))
    assert (alone["kind"], distilled["kind"]) == ("alone", "distilled")
    assert "followers" not in alone
    assert "roles: {}" in (outcome.folder / "alone/seed_0/config.yaml").read_text()
    export = json.loads((outcome.folder / "export/export.json").read_text())
    assert export["teacher"]["role"] == "a"
    assert [one["role"] for one in export["teacher"]["others"]] == ["b"]
    assert Path(export["teacher"]["others"][0]["folder"]).is_dir()
    # The same roles again: found, not trained; of other weights it is another training.
    identities = set()
    for seed in (2, 3):
        once = cli(*arguments, "job=train", f"roles.a.seed={seed}")
        assert "b mlp: finished earlier" in once.text, once.text
        identities.add(json.loads((once.folder / "arm.json").read_text())["identity"])
    assert len({*identities, distilled["identity"]}) == 3
    compared = cli("job=compare", "trust=[tests]", "runs=outputs/x", "compare.latency=false", "trainer=cpu")
    assert compared.code == 0, compared.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["roles.a.sede=3"], "roles.a.sede"),
        (["roles.c.seed=3"], "roles.c.seed is set, but the role follows student"),
        (["roles.c.follows=a"], "only the role that learns moves"),
        (["roles.a.net=???"], "roles.a has no net: choose one with +model@roles.a=<model>"),
        (["+role@roles.data=ema"], "roles.data: choose another name"),
        (["+role@roles.d=frozen", "+model@roles.d=mlp"], "roles.d is set, but no term of kd asks it"),
        (
            ["+term@method.terms.more=kd", "method.terms.more.inputs.teacher=d.logits"],
            "d.logits names no role: there are a, b, c, student, batch",
        ),
        (["roles.a.cache=sometimes"], "roles.a.cache=sometimes: choose auto"),
        (["roles.a.precision=half"], "roles.a.precision=half: choose bf16"),
        (["method.terms.kd.inputs.teacher=a.hint"], "Or say where it is: roles.a.taps.hint=[...]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cli, arguments, said):
    outcome = cli(*TRAIN, *arguments)
    assert outcome.code != 0
    assert said in " ".join(outcome.text.split()), outcome.text


def test_a_follower_moves_after_every_step_of_the_optimiser_only(cli, monkeypatch):
    moves = []
    follow = Follower.follow
    monkeypatch.setattr(Follower, "follow", lambda self, net: (moves.append(self.name), follow(self, net)))
    outcome = cli(*TRAIN, "trainer.accumulate_grad_batches=3", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    assert moves == ["c"] * 3  # seven batches: three, three and one


def test_a_role_may_learn_from_another_before(cli):
    """A teacher's assistant: trained by distillation, then the only one that the student asks."""
    arguments = [*TINY, "job=train", "teacher.fit=null", "trainer.max_epochs=1", "method=kd"]
    arguments += ["+role@roles.b=trained", "+model@roles.b=mlp", "method.terms.kd.inputs.teacher=b.logits"]
    outcome = cli(*arguments, "method@roles.b.fit.method=kd")
    assert outcome.code == 0, outcome.text
    assert outcome.text.index("teacher resnet8: used as it is built") < outcome.text.index("b mlp: training")
    assert len(list(Path("outputs/teachers").glob("mlp-*"))) == 1
    circle = cli(*arguments, "method@roles.b.fit.method=kd", "roles.b.fit.method.terms.kd.inputs.teacher=b.logits")
    assert "b.logits names no role: there are student" in circle.text
