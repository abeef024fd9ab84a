"""Stored top k of a language model: a row (T, k) for every text, the same to every loss as a live teacher's."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cache.commands import FP32, close, files

TEXT = [
    "job=train",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "teacher.fit=null",
    "teacher.check=off",
    "data=synthetic_text",
    "data.task=causal_lm",
    "data.source.prompts=true",
    "data.source.samples=60",
    "data.max_length=40",
    "data.batch_size=8",
    "model@teacher=tiny_gpt",
    "model@student=tiny_gpt",
    "teacher.net.width=16",
    "student.net.width=16",
    "student.net.layers=1",
    "metrics=language_model",
    "teacher.views=null",
    "trainer.max_epochs=3",
]
TOPK = ["method=sparse_kl", "teacher.topk=5", "data.pad=max"]


@pytest.fixture
def learn(train):
    """Train on text."""
    return functools.partial(train, base=TEXT)


@pytest.mark.parametrize("side", ["right", "left"])
def test_live_and_stored_top_k_of_every_token_are_one(learn, side):
    options = [*TOPK, f"data.padding_side={side}"]
    live = learn(*options, "teacher.cache=off")
    cached = learn(*options, "teacher.cache=write", FP32)
    close(cached.losses, live.losses, 1e-6)
    again = learn(*options, "teacher.cache=read", FP32)
    assert again.losses == cached.losses
    assert again.seen < cached.seen < live.seen
    stored = {path.parts[-3]: load_file(path)["rows"] for path in files() if "topk" in str(path)}
    assert set(stored) == {"topk_indices@5", "topk_log_probs@5"}
    assert {tuple(rows.shape) for rows in stored.values()} == {(42, 40, 5)}
    assert stored["topk_log_probs@5"].exp().sum(-1).max() <= 1 + 1e-6
    assert (stored["topk_log_probs@5"].diff(dim=-1) <= 0).all(), "most probable first"


def test_all_entries_kept_are_the_divergence_from_the_live_logits(learn):
    whole = learn("method=forward_kl", "data.pad=max", "teacher.cache=off")
    kept = learn(*TOPK, "teacher.topk=260", "teacher.cache=write", FP32)
    for one, other in zip(whole.losses, kept.losses, strict=True):
        assert other["train/sparse_kl"] == pytest.approx(one["train/forward_kl"], rel=1e-4)


def test_the_padding_of_a_batch_does_not_matter(learn):
    longest = learn(*TOPK[:2], "data.buckets=false", "student.net.dropout=0", "teacher.cache=off")
    fixed = learn(*TOPK, "data.buckets=false", "student.net.dropout=0", "teacher.cache=write", FP32)
    close(fixed.losses, longest.losses, 1e-4)


def test_texts_of_many_lengths_are_refused_with_the_way_out(cli):
    outcome = cli(*TEXT[1:], "job=cache", "method=sparse_kl", "teacher.topk=5")
    assert outcome.code != 0
    assert "data.pad=max" in outcome.text
    assert not list(Path("outputs/cache").rglob("topk*"))


def test_a_method_that_writes_its_own_text_has_a_live_teacher(learn):
    short = ["method.rollout.generation.max_new_tokens=4", "trainer.max_epochs=1"]
    outcome = learn("method=gkd", "data.pad=max", *short)
    assert "teacher cache: not used" in outcome.text
    assert "OnPolicy" in outcome.text
    assert torch.isfinite(torch.tensor([loss["train/loss"] for loss in outcome.losses])).all()
