"""Batches of text that make one step together: the objective is that of one batch that holds them all."""

from __future__ import annotations

import copy
import functools
import socket

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from kd_lightning.core.accumulation import TokenWeights
from kd_lightning.core.calls import TensorCall
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.terms import Objective, Term
from kd_lightning.losses.cross_entropy import CrossEntropyLoss
from kd_lightning.losses.jsd import JSDLoss
from tests.core import two_processes
from tests.core.nets import batch as images
from tests.core.nets import ce
from tests.core.nets import distiller as of_images
from tests.core.text import distiller, gpt, roles, text_batch

# Batches of one to thirteen tokens to learn from, and of several widths.
PARTS = [
    [([2, 3, 4, 5, 6], 4), ([7, 8, 9], 3)],
    [([9, 10, 11, 12, 2, 3, 4, 5], 1), ([2, 4, 6, 8, 10, 12, 3], 1)],
    [([5, 4, 3], 1)],
]
LAST = [([3, 3, 3, 4, 5, 6], 2)]


def still(net):
    """Without dropout."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def terms():
    kd = {"student": "student.logits", "teacher": "teacher.logits", "mask": "batch.loss_mask"}
    return [
        Term("ce", CrossEntropyLoss(), {"student": "student.logits", "target": "batch.target"}),
        Term("jsd", JSDLoss(), kd, 2.0),
    ]


def fit(module, batches, **options):
    """One epoch on these batches, silent; gives the trainer."""
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


def trained(batches, **options):
    """The student after training on these batches, and the one before."""
    student = still(gpt(0))
    before = copy.deepcopy(student.state_dict())
    module = distiller(*terms(), made_of=roles(student, still(gpt(1))))
    trainer = fit(module, batches, **options)
    return {name: value - before[name] for name, value in student.state_dict().items()}, trainer.global_step


def largest(change):
    return max(float(value.abs().max()) for value in change.values())


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}])
def test_accumulation_over_uneven_lengths_is_one_batch(options):
    whole, steps = trained([text_batch([row for part in PARTS for row in part])], **options)
    assert steps == 1
    parts = [text_batch(part) for part in PARTS]
    change, steps = trained(parts, accumulate_grad_batches=3, **options)
    assert steps == 1
    assert largest({name: change[name] - whole[name] for name in whole}) < 1e-6 < 1e-3 < largest(whole)


def test_it_makes_a_difference(monkeypatch):
    whole, _ = trained([text_batch([row for part in PARTS for row in part])])
    monkeypatch.setattr(TokenWeights, "weigh", lambda self, loss, batch: loss)
    change, _ = trained([text_batch(part) for part in PARTS], accumulate_grad_batches=3)
    assert largest({name: change[name] - whole[name] for name in whole}) > 0.1 * largest(whole)


def test_a_step_of_fewer_batches_is_their_mean():
    alone, _ = trained([text_batch(LAST)])
    change, steps = trained([text_batch(LAST)], accumulate_grad_batches=3)
    assert steps == 1
    assert largest({name: change[name] - alone[name] for name in alone}) < 1e-6 < largest(alone)


def test_batches_without_anything_to_learn_leave_the_student_as_it_is():
    change, steps = trained([text_batch([([2, 3, 4], 3)])] * 2, accumulate_grad_batches=2)
    assert steps == 1
    assert largest(change) == 0


def test_images_are_averaged_as_ever(monkeypatch):
    module = of_images()
    seen = []
    original = TokenWeights.weigh
    monkeypatch.setattr(
        TokenWeights, "weigh", lambda self, loss, b: seen.append(original(self, loss, b) is loss) or loss
    )
    fit(module, [images(8), images(8)], accumulate_grad_batches=2)
    assert seen == [True, True]


def change_of_images(batches, **options):
    """What a training on these batches changes in a student without dropout and batch norm."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(-1, 1, 108).reshape(3, 36))
        net[1].bias.zero_()
    before = copy.deepcopy(net.state_dict())
    role = [Role("student", net, TensorCall())]
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    module = Distiller(Roles(role), Objective([ce()]), images(), {"num_classes": 3}, sgd)
    trainer = fit(module, batches, **options)
    return {name: value - before[name] for name, value in net.state_dict().items()}, trainer.global_step


def part(start, end):
    return {name: value[start:end] for name, value in images(24).items()}


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([(0, 4)], [(0, 4)]),  # the last step of an epoch has one batch of three
        ([(0, 4), (4, 8)], [(0, 8)]),
        ([(0, 4), (4, 8), (8, 12), (12, 16), (16, 20)], [(0, 12), (12, 20)]),
        ([(0, 8), (8, 10), (10, 12), (12, 13)], [(0, 12), (12, 13)]),  # batches of several sizes
    ],
)
@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}])
def test_images_of_a_short_step_are_their_mean(parts, whole, options):
    expected, steps = change_of_images([part(*one) for one in whole], **options)
    got, same = change_of_images([part(*one) for one in parts], accumulate_grad_batches=3, **options)
    assert steps == same == len(whole)
    assert largest({name: got[name] - expected[name] for name in got}) < 1e-6 < 1e-3 < largest(expected)


def test_two_processes_make_one_mean():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(two_processes.compare, (port,), nprocs=2)
