"""Methods that learn from generated text, assembled as job=train does, on real rows of the data module."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from kd_lightning.config.command import Command
from kd_lightning.config.values import settings_of
from kd_lightning.experiment.settle import settle
from kd_lightning.jobs.methods import method_infos
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import build_net
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.training import Training
from tests.methods.build import PLAIN, composed, train

TEXT = [
    "data=synthetic_text",
    "data.task=causal_lm",
    "data.source.samples=24",
    "data.source.prompts=true",
    "data.batch_size=4",
    "data.max_length=64",
    "model@teacher=tiny_gpt",
    "model@student=tiny_gpt",
    "teacher.net.width=16",
    "student.net.width=16",
    "student.net.layers=1",
    "metrics=language_model",
    "teacher.cache=off",
    *PLAIN,
]
SHORT = ["method.rollout.generation.max_new_tokens=6"]
WRITING = ["gkd", "seqkd", "minillm", "distillm", "distillm_reverse"]


def assembled(tmp_path, method, *overrides):
    settled = settle(Command(composed(*TEXT, f"method={method}", f"data.cache_dir={tmp_path}/text", *overrides)))
    settings, data = settled.settings, settled.data
    frozen = {name: build_net(settings.teacher, 0) for name in asked_roles(settings)}
    return build_distiller(Training(settings, data, frozen), build_net(settings.student, 1))[0], data


def test_methods_with_a_rollout_of_text_say_so():
    infos = {info["name"]: info for info in method_infos()}
    assert {name for name, info in infos.items() if "rollout" in info["needs"]} == set(WRITING)
    assert all(infos[name]["teacher"] for name in WRITING)


@pytest.mark.parametrize("method", WRITING)
def test_the_student_learns_from_what_is_written(tmp_path, method):
    folder = [f"method.rollout.folder={tmp_path}/kept"] if method == "seqkd" else []
    share = ["method.rollout.fraction=1.0"] if method == "gkd" else []
    module, data = assembled(tmp_path, method, *SHORT, *folder, *share)
    assert module.rollout.generation.eos_token_id == data.tokenizer.eos_token_id
    seen = []
    original = module.rollout

    def rollout(batch, roles):
        new = original(batch, roles)
        if "step" in batch:
            seen.append((batch, new))
        return new

    module.rollout = rollout
    watch = train(module, data.loader("train", train=True))
    assert len(seen) == 2
    # DistiLLM's share rises from 0: its first batch is that of the data.
    written = [new is not batch for batch, new in seen]
    assert written[0] == (not method.startswith("distillm"))
    assert all(torch.isfinite(loss) for loss in watch.losses)
    assert watch.moved
    assert watch.changed >= watch.moved
    assert not watch.thawed, "the teacher stays as it is"
    for batch, new in seen:
        if new is not batch:
            rows = len(batch["index"])
            assert torch.equal(new["prompt_length"][:rows], batch["prompt_length"])
            assert int(new["loss_mask"][:rows].sum(1).max()) <= 6
            assert int(new["loss_mask"][:rows].sum(1).min()) >= 1


@pytest.mark.parametrize("method", ["gkd", "distillm"])
def test_without_a_rollout_the_texts_of_the_data_are_learnt(tmp_path, method):
    module, data = assembled(tmp_path, method, "method.rollout=null")
    assert module.rollout is None
    assert train(module, data.loader("train", train=True)).changed


def test_seqkd_asks_for_a_teacher_that_no_term_names():
    cfg = composed(*TEXT, "method=seqkd")
    assert asked_roles(settings_of(cfg)) == ("teacher",)
    assert "teacher." not in str(OmegaConf.to_container(cfg.method.terms))
    assert asked_roles(settings_of(composed(*TEXT, "method=ce"))) == ()


def test_another_rollout_is_a_choice(tmp_path):
    module, _ = assembled(tmp_path, "forward_kl", "+rollout@method.rollout=on_policy", *SHORT)
    assert type(module.rollout).__name__ == "OnPolicy"
    assert module.rollout.fraction(None) == 0.5
