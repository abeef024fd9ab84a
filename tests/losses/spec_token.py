"""Specs of the token and transformer losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kd_lightning.losses.akl import AKLLoss
from kd_lightning.losses.attention_scores import AttentionCELoss, AttentionMSELoss
from kd_lightning.losses.forward_kl import ForwardKLLoss
from kd_lightning.losses.hidden import HiddenCosineLoss, HiddenMSELoss
from kd_lightning.losses.jsd import JSDLoss
from kd_lightning.losses.minillm import MiniLLMLoss
from kd_lightning.losses.minilm import AttentionKLLoss, MiniLMLoss
from kd_lightning.losses.minilmv2 import MiniLMv2Loss
from kd_lightning.losses.pkd_hidden import PKDHiddenLoss
from kd_lightning.losses.reverse_kl import ReverseKLLoss
from kd_lightning.losses.skew_kl import SkewForwardKLLoss, SkewReverseKLLoss
from kd_lightning.losses.sparse_kl import SparseKLLoss
from kd_lightning.losses.symmetric_kl import SymmetricKLLoss
from kd_lightning.losses.taid import TAIDLoss
from kd_lightning.losses.tinybert import TinyBERTLoss
from kd_lightning.losses.tvd import TVDLoss
from kd_lightning.losses.uld import ULDLoss
from tests.losses.contract import copy_teacher, spec

Inputs = dict[str, Any]
TOKENS, VOCABULARY = 5, 9


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def padding(batch: int) -> torch.Tensor:
    """Rows of different length, padded right; the first is full."""
    length = TOKENS - torch.arange(batch) % 3
    return torch.arange(TOKENS) < length[:, None]


def tokens(batch: int, generator: torch.Generator) -> Inputs:
    return {
        "student": normal(generator, batch, TOKENS, VOCABULARY) * 2,
        "teacher": normal(generator, batch, TOKENS, VOCABULARY) * 2,
        "mask": padding(batch),
    }


def masked(*names: str) -> Callable[[Inputs], Inputs]:
    """The named masks all zero."""
    return lambda inputs: {**inputs, **{n: torch.zeros_like(inputs[n]) for n in names}}


def copied(**pairs: str) -> Callable[[Inputs], Inputs]:
    """Each named argument replaced by the other."""
    return lambda inputs: {**inputs, **{to: inputs[origin] for to, origin in pairs.items()}}


dense = {"inputs": tokens, "equal": copy_teacher, "mask": masked("mask")}
spec(name="jsd", make=JSDLoss, **dense, compile=True)
spec(name="jsd_forward", make=lambda: JSDLoss(beta=0.0, temperature=2.0), **dense)
spec(name="jsd_reverse", make=lambda: JSDLoss(beta=1.0), **dense)
spec(name="forward_kl", make=ForwardKLLoss, **dense)
spec(name="reverse_kl", make=ReverseKLLoss, **dense)
spec(name="symmetric_kl", make=SymmetricKLLoss, **dense)
spec(name="tvd", make=TVDLoss, **dense)
spec(name="skew_kl_forward", make=SkewForwardKLLoss, **dense)
spec(name="skew_kl_reverse", make=SkewReverseKLLoss, **dense)
spec(name="akl", make=AKLLoss, **dense, compile=True)


def with_progress(batch: int, generator: torch.Generator) -> Inputs:
    return {**tokens(batch, generator), "progress": 0.3}


taid = {"inputs": with_progress, "mask": masked("mask")}
spec(name="taid", make=lambda: TAIDLoss(subtract_entropy=True), equal=copy_teacher, **taid)
spec(name="taid_linear", make=lambda: TAIDLoss(adaptive=False), **taid)


def top_k(batch: int, generator: torch.Generator) -> Inputs:
    kept = normal(generator, batch, TOKENS, VOCABULARY).mul(2).log_softmax(-1).topk(4)
    return {
        "student": normal(generator, batch, TOKENS, VOCABULARY),
        "teacher_indices": kept.indices,
        "teacher_log_probs": kept.values,
        "mask": padding(batch),
    }


sparse = {"inputs": top_k, "teacher": ("teacher_log_probs",), "mask": masked("mask")}
spec(name="sparse_kl_tail", make=lambda: SparseKLLoss("tail", temperature=2.0), **sparse)
spec(name="sparse_kl_zero", make=lambda: SparseKLLoss("zero"), **sparse)


def sampled(batch: int, generator: torch.Generator) -> Inputs:
    target = torch.randint(VOCABULARY, (batch, TOKENS), generator=generator)
    return {**tokens(batch, generator), "target": target}


spec(name="minillm", make=MiniLLMLoss, **{**dense, "inputs": sampled})


def two_tokenizers(batch: int, generator: torch.Generator) -> Inputs:
    return {
        "student": normal(generator, batch, TOKENS, VOCABULARY),
        "teacher": normal(generator, batch, TOKENS + 2, VOCABULARY + 4),
        "student_mask": padding(batch),
        "teacher_mask": padding(batch).flip(1).repeat(1, 2)[:, : TOKENS + 2],
    }


def one_tokenizer(inputs: Inputs) -> Inputs:
    return {**inputs, "student": inputs["teacher"], "student_mask": inputs["teacher_mask"]}


spec(name="uld", make=ULDLoss, inputs=two_tokenizers, equal=one_tokenizer, mask=masked("student_mask"))


def states(student: int, teacher: int, layers: int = 0) -> Callable[[int, torch.Generator], Inputs]:
    """Hidden states of the given widths; lists where ``layers`` is not 0."""

    def inputs(batch: int, generator: torch.Generator) -> Inputs:
        made: Inputs = {}
        for name, width in (("student", student), ("teacher", teacher)):
            several = [normal(generator, batch, TOKENS, width) for _ in range(max(layers, 1))]
            made[name] = several if layers else several[0]
        return {**made, "mask": padding(batch)}

    return inputs


hidden = {"equal": copy_teacher, "mask": masked("mask")}
spec(name="hidden_mse", make=HiddenMSELoss, inputs=states(8, 8), **hidden)
spec(name="hidden_cosine", make=HiddenCosineLoss, inputs=states(8, 8), **hidden)
spec(name="hidden_mse_projected", make=HiddenMSELoss, inputs=states(4, 8, layers=2), mask=masked("mask"))
spec(name="hidden_cosine_projected", make=HiddenCosineLoss, inputs=states(4, 8, layers=2), mask=masked("mask"))


def cls_states(batch: int, generator: torch.Generator) -> Inputs:
    # Pairs of student layers 1 and 2 with teacher layers 2 and 4; the embedding and the last layer play no part.
    return {
        "student": [normal(generator, batch, TOKENS, 8) for _ in range(3)],
        "teacher": [normal(generator, batch, TOKENS, 8) for _ in range(5)],
    }


def same_cls(inputs: Inputs) -> Inputs:
    teacher = inputs["teacher"]
    return {**inputs, "student": [teacher[1], teacher[2], teacher[4]]}


pairs = [[0, 1], [1, 2], [2, 4]]
spec(name="pkd_hidden", make=lambda: PKDHiddenLoss(pairs), inputs=cls_states, equal=same_cls)
spec(name="pkd_hidden_mean", make=lambda: PKDHiddenLoss(pairs, "mean"), inputs=cls_states, equal=same_cls)


def scores(student_heads: int, teacher_heads: int) -> Callable[[int, torch.Generator], Inputs]:
    def inputs(batch: int, generator: torch.Generator) -> Inputs:
        return {
            "student": normal(generator, batch, student_heads, TOKENS, TOKENS),
            "teacher": normal(generator, batch, teacher_heads, TOKENS, TOKENS),
            "mask": padding(batch),
        }

    return inputs


same_heads = {"inputs": scores(2, 2), "mask": masked("mask")}
merged = {"inputs": scores(2, 4), "mask": masked("mask")}
spec(name="attention_scores_mse", make=AttentionMSELoss, equal=copy_teacher, **same_heads)
spec(name="attention_scores_mse_merged", make=lambda: AttentionMSELoss(merge_heads=True), **merged)
spec(name="attention_scores_ce", make=AttentionCELoss, **same_heads)
spec(name="attention_scores_ce_merged", make=lambda: AttentionCELoss(merge_heads=True), **merged)
spec(name="minilm_attention", make=AttentionKLLoss, equal=copy_teacher, **same_heads)


def layers(batch: int, generator: torch.Generator) -> Inputs:
    return {
        "student_attentions": [normal(generator, batch, 2, TOKENS, TOKENS) for _ in range(2)],
        "teacher_attentions": [normal(generator, batch, 2, TOKENS, TOKENS) for _ in range(4)],
        "student_hidden": [normal(generator, batch, TOKENS, 4) for _ in range(3)],
        "teacher_hidden": [normal(generator, batch, TOKENS, 8) for _ in range(5)],
        "mask": padding(batch),
    }


spec(
    name="tinybert",
    make=TinyBERTLoss,
    inputs=layers,
    student=("student_attentions", "student_hidden"),
    teacher=("teacher_attentions", "teacher_hidden"),
    mask=masked("mask"),
)

STUDENT = ("student_query", "student_key", "student_value")
TEACHER = ("teacher_query", "teacher_key", "teacher_value")


def projections(batch: int, generator: torch.Generator) -> Inputs:
    made = {n: normal(generator, batch, TOKENS, 8) for n in STUDENT}
    return {**made, **{n: normal(generator, batch, TOKENS, 16) for n in TEACHER}, "mask": padding(batch)}


minilm = {
    "inputs": projections,
    "student": STUDENT,
    "teacher": TEACHER,
    "equal": copied(**dict(zip(STUDENT, TEACHER, strict=True))),
    "mask": masked("mask"),
}
spec(name="minilm", make=lambda: MiniLMLoss(heads=2), **minilm)
spec(name="minilmv2", make=lambda: MiniLMv2Loss(relation_heads=4), **minilm)
