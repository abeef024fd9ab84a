"""Specs of the losses for language models that go beyond logits of one tokenizer."""

from __future__ import annotations

import torch
from torch import nn

from kd_lightning.losses.chunked_head import ChunkedForwardKLLoss, ChunkedJSDLoss
from tests.losses.contract import spec
from tests.losses.spec_token import TOKENS, VOCABULARY, Inputs, masked, normal, padding


def heads(batch: int, generator: torch.Generator) -> Inputs:
    made: Inputs = {"mask": padding(batch)}
    for name, width in (("student", 4), ("teacher", 8)):
        made[name] = normal(generator, batch, TOKENS, width)
        made[f"{name}_head"] = nn.Linear(width, VOCABULARY)
        made[f"{name}_head"].weight.data = normal(generator, VOCABULARY, width)
    return made


def same_states_and_heads(inputs: Inputs) -> Inputs:
    return {**inputs, "student": inputs["teacher"], "student_head": inputs["teacher_head"]}


chunked = {"inputs": heads, "equal": same_states_and_heads, "mask": masked("mask")}
spec(name="chunked_head", make=lambda: ChunkedForwardKLLoss(temperature=2.0, chunk=4), **chunked)
spec(name="chunked_head_jsd", make=lambda: ChunkedJSDLoss(chunk=4), **chunked)
