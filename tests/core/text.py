"""Tiny causal language models, and batches of text for them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from kd_lightning.core.calls import TokenCall
from kd_lightning.core.causal import shift_targets
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.terms import Objective, Term

VOCABULARY, EOS, PAD = 13, 1, 0


def gpt(
    seed: int = 0, eos: int | None = EOS, layers: int = 2, vocab: int = VOCABULARY, scale: float = 8.0
) -> nn.Module:
    """A GPT-2 with random weights, of which some lead to peaked answers and some do not."""
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=32,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        eos_token_id=eos,
        bos_token_id=None,
        pad_token_id=PAD,
        resid_pdrop=0.1,
        embd_pdrop=0.1,
        attn_pdrop=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = GPT2LMHeadModel(config)
        with torch.no_grad():
            net.lm_head.weight.mul_(scale)  # tied: the embedding too
    return net


def roles(student: nn.Module | None = None, teacher: nn.Module | None = None, **calls: Any) -> Roles:
    student = gpt(0) if student is None else student
    teacher = gpt(1, layers=1) if teacher is None else teacher
    call = TokenCall(**calls)
    return Roles([Role("student", student, call), Role("teacher", teacher, TokenCall(**calls), trainable=False)])


def text_batch(rows: list[tuple[list[int], int]], width: int | None = None, left: bool = False) -> dict[str, Any]:
    """A batch as the data gives it: rows of tokens with the length of their prompt, padded to a width."""
    width = width or max(len(tokens) for tokens, _ in rows)
    ids, mask, valid = [], [], []
    for tokens, prompt in rows:
        padding = [PAD] * (width - len(tokens))
        learnt = [i >= prompt for i in range(len(tokens))]
        for column, values, fill in ((ids, tokens, padding), (mask, [1] * len(tokens), padding)):
            column.append([*fill, *values] if left else [*values, *fill])
        valid.append([*([False] * len(padding)), *learnt] if left else [*learnt, *([False] * len(padding))])
    target = shift_targets(torch.tensor(ids), torch.tensor(valid))
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "target": target,
        "loss_mask": target != -100,
        "prompt_length": torch.tensor([prompt for _, prompt in rows]),
        "index": torch.arange(len(rows)) + 100,
        "view": 0,
    }


ROWS = [([2, 3, 4, 5, 6], 3), ([7, 8], 1), ([9, 10, 11, 12, 2, 3, 4], 5)]


def logits_of(net: nn.Module, ids: Tensor) -> Tensor:
    """Logits of one row without any padding, (T, V)."""
    training = net.training
    net.eval()
    with torch.no_grad():
        result: Tensor = net(input_ids=ids.unsqueeze(0)).logits[0]
    net.train(training)
    return result


def distiller(
    *terms: Term, made_of: Roles | None = None, example: dict[str, Any] | None = None, **kw: Any
) -> Distiller:
    options = {"facts": {}, "optimizer": functools.partial(torch.optim.SGD, lr=0.1)}
    example = text_batch(ROWS) if example is None else example
    return Distiller(made_of or roles(), Objective(terms), example, **{**options, **kw})
