"""Specs of the losses for language models that go beyond logits of one tokenizer."""

from __future__ import annotations

import torch
from torch import nn

from kd_lightning.losses.chunked_head import ChunkedForwardKLLoss, ChunkedJSDLoss
from kd_lightning.losses.emd import EMDLoss
from kd_lightning.losses.mobilebert import MobileBERTLoss
from kd_lightning.losses.span_alignment import SpanAlignmentLoss
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


def layers(batch: int, generator: torch.Generator) -> Inputs:
    """A student of two layers and width 4 and a teacher of four and width 8."""
    made: Inputs = {"mask": padding(batch)}
    for name, count, width in (("student", 2, 4), ("teacher", 4, 8)):
        made[f"{name}_attentions"] = [normal(generator, batch, 2, TOKENS, TOKENS) for _ in range(count)]
        made[f"{name}_hidden"] = [normal(generator, batch, TOKENS, width) for _ in range(count + 1)]
    return made


def same_layers(batch: int, generator: torch.Generator) -> Inputs:
    inputs = layers(batch, generator)
    return {
        **inputs,
        "student_attentions": [normal(generator, batch, 2, TOKENS, TOKENS) for _ in range(4)],
        "student_hidden": [normal(generator, batch, TOKENS, 8) for _ in range(5)],
    }


def teachers_layers(inputs: Inputs) -> Inputs:
    return {
        **inputs,
        **{f"student_{part}": inputs[f"teacher_{part}"] for part in ("attentions", "hidden")},
    }


by_layer = {
    "student": ("student_attentions", "student_hidden"),
    "teacher": ("teacher_attentions", "teacher_hidden"),
    "mask": masked("mask"),
}
spec(name="emd", make=EMDLoss, inputs=layers, **by_layer)
spec(name="emd_same", make=EMDLoss, inputs=same_layers, equal=teachers_layers, **by_layer)
later = {**by_layer, "student": ("student_attentions",)}  # the embedding is not compared
spec(name="mobilebert", make=MobileBERTLoss, inputs=layers, **later)
spec(name="mobilebert_same", make=MobileBERTLoss, inputs=same_layers, equal=teachers_layers, **later)


def two_cuts(batch: int, generator: torch.Generator) -> Inputs:
    """The same text in six and in four tokens; some of the last ones do not count."""
    made: Inputs = {}
    for name, ends, vocabulary in (("student", [1, 3, 4, 6, 8, 9], 9), ("teacher", [3, 4, 8, 9], 7)):
        made[name] = normal(generator, batch, len(ends), vocabulary)
        target = torch.randint(vocabulary, (batch, len(ends)), generator=generator)
        stop = 9 - torch.arange(batch) % 2  # rows end at 9 or 8
        made[f"{name}_ends"] = torch.tensor(ends).expand(batch, -1).clone()
        made[f"{name}_target"] = target.masked_fill(made[f"{name}_ends"] > stop[:, None], -100)
    return made


def nothing_counts(inputs: Inputs) -> Inputs:
    return {**inputs, "student_target": torch.full_like(inputs["student_target"], -100)}


def one_cut(inputs: Inputs) -> Inputs:
    return {**inputs, **{f"student{part}": inputs[f"teacher{part}"] for part in ("", "_target", "_ends")}}


cuts = {"inputs": two_cuts, "equal": one_cut, "mask": nothing_counts}
spec(name="span_alignment", make=SpanAlignmentLoss, **cuts)
spec(name="span_alignment_likelihoods", make=lambda: SpanAlignmentLoss(temperature=1.0), **cuts)
spec(name="span_alignment_positions", make=lambda: SpanAlignmentLoss(compare="positions"), **cuts)
