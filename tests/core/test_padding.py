"""Where the padding stands makes no difference to the loss, nor to its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_lightning.core.schedules import Progress
from kd_lightning.core.terms import Objective, Term
from kd_lightning.losses.cross_entropy import CrossEntropyLoss
from kd_lightning.losses.forward_kl import ForwardKLLoss
from kd_lightning.losses.jsd import JSDLoss
from kd_lightning.losses.minillm import MiniLLMLoss
from kd_lightning.losses.reverse_kl import ReverseKLLoss
from tests.core.text import ROWS, distiller, gpt, roles, text_batch

BOTH = {"student": "student.logits", "teacher": "teacher.logits", "mask": "batch.loss_mask"}
TERMS = {
    "ce": lambda: Term("ce", CrossEntropyLoss(), {"student": "student.logits", "target": "batch.target"}),
    "forward_kl": lambda: Term("forward_kl", ForwardKLLoss(), BOTH),
    "reverse_kl": lambda: Term("reverse_kl", ReverseKLLoss(), BOTH),
    "jsd": lambda: Term("jsd", JSDLoss(), BOTH),
    "minillm": lambda: Term("minillm", MiniLLMLoss(whiten=False), {**BOTH, "target": "batch.target"}),
}


def loss_and_gradient(name, batch):
    module = distiller(TERMS[name](), made_of=roles(gpt(0), gpt(1))).eval()
    signals = module.roles(batch, ["student", "teacher"])
    objective: Objective = module.objective
    loss, _ = objective(lambda r: module._resolve(r, signals, batch, Progress()), Progress())
    student: nn.Module = module.roles.by_name["student"].net
    return loss.detach(), torch.autograd.grad(loss, list(student.parameters()))


def difference(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", TERMS)
def test_left_right_and_no_padding_give_the_same(name):
    alone = [loss_and_gradient(name, text_batch([row])) for row in ROWS]
    counts = [len(tokens) - prompt for tokens, prompt in ROWS]
    loss = sum(n * value for n, (value, _) in zip(counts, alone, strict=True)) / sum(counts)
    gradient = [
        sum(n * g for n, g in zip(counts, parts, strict=True)) / sum(counts)
        for parts in zip(*(g for _, g in alone), strict=True)
    ]
    assert max(float(g.abs().max()) for g in gradient) > 1e-2
    for left in (False, True):
        value, found = loss_and_gradient(name, text_batch(ROWS, width=12, left=left))
        torch.testing.assert_close(value, loss, rtol=1e-5, atol=1e-6)
        assert difference(found, gradient) < 1e-5


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_mask_off_by_one_at_either_end_would_be_seen(name, shift):
    batch = text_batch(ROWS)
    right, _ = loss_and_gradient(name, batch)
    for end in ("first", "last"):
        wrong = {**batch, "loss_mask": batch["loss_mask"].clone(), "target": batch["target"].clone()}
        for row, (tokens, prompt) in enumerate(ROWS):
            edge = prompt - 1 if end == "first" else len(tokens) - 2
            outside = (end == "first") == (shift < 0)
            place = edge + shift if outside else edge
            wrong["loss_mask"][row, place] = outside
            wrong["target"][row, place] = batch["input_ids"][row, min(place + 1, 6)] if outside else -100
        found, _ = loss_and_gradient(name, wrong)
        assert abs(float(found - right)) > 1e-3, end
