"""A training with samples goes on after an interruption as if there had been none."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from kd_lightning.core.randomness import RandomState
from kd_lightning.core.rollouts import Generation, OnPolicy
from kd_lightning.core.terms import Term
from kd_lightning.losses.jsd import JSDLoss
from tests.core.text import ROWS, distiller, gpt, roles, text_batch

KD = {"student": "student.logits", "teacher": "teacher.logits", "mask": "batch.loss_mask"}


class Seen(pl.Callback):
    """Steps in which the student wrote."""

    def __init__(self):
        self.steps = {}

    def watch(self, module):
        original = module.rollout

        def rollout(batch, made):
            new = original(batch, made)
            if "step" in batch:
                self.steps[batch["step"]] = new is not batch
            return new

        module.rollout = rollout


def run(folder, steps, resume=None):
    student = gpt(0)
    rollout = OnPolicy(Generation(max_new_tokens=5, seed=3), fraction=0.5)
    module = distiller(Term("jsd", JSDLoss(), KD), made_of=roles(student), rollout=rollout)
    seen = Seen()
    seen.watch(module)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[RandomState(), seen],
    )
    torch.manual_seed(1)
    # One batch again and again: where a plain loader goes on after a resume is not what is asked here.
    loader = DataLoader([text_batch(ROWS)] * 3, batch_size=None, generator=torch.Generator())
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return student.state_dict(), seen.steps


def test_a_resumed_training_draws_the_same(tmp_path):
    whole, steps = run(tmp_path, 9)
    assert sorted(steps) == list(range(9)), "steps count over epochs"
    assert len(set(steps.values())) == 2, "some batches are of the student, some of the data"
    _, before = run(tmp_path, 6)
    torch.manual_seed(99)
    resumed, after = run(tmp_path, 9, resume=tmp_path / "6.ckpt")
    assert {**before, **after} == steps
    assert sorted(after) == [6, 7, 8]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
