"""The chunked head against whole logits: values, gradients, and what is never allocated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lightning.losses.chunked_head import chunked_head_loss
from kd_lightning.losses.forward_kl import forward_kl_loss
from kd_lightning.losses.jsd import jsd_loss
from kd_lightning.losses.ops.heads import Finish, FinishedHead, apply_frozen_head
from kd_lightning.losses.reverse_kl import reverse_kl_loss

TOKENS, WIDTHS, VOCABULARY = (3, 7), (6, 10), 33


def setup(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    student, teacher = (torch.randn(*TOKENS, width, dtype=dtype) for width in WIDTHS)
    heads = [nn.Linear(width, VOCABULARY, bias=bias, dtype=dtype) for width in WIDTHS]
    mask = torch.rand(TOKENS) > 0.4
    target = torch.where(torch.rand(TOKENS) > 0.5, torch.randint(VOCABULARY, TOKENS), -100)
    return student.requires_grad_(), teacher, *heads, mask, target


def whole(student, teacher, student_head, teacher_head, mask, target, beta, temperature, cross_entropy):
    logits = student_head(student)
    options = {"beta": beta, "temperature": temperature}
    loss = jsd_loss(logits, teacher_head(teacher), mask, **options)
    return loss + cross_entropy * F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-100)


@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("cross_entropy", [0.0, 0.7])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_equals_whole_logits(beta, temperature, cross_entropy, chunk):
    for bias in (True, False):
        arguments = setup(bias=bias)
        options = {"beta": beta, "temperature": temperature, "cross_entropy": cross_entropy}
        wanted = [arguments[0], *arguments[2].parameters()]
        expected, loss = whole(*arguments, **options), chunked_head_loss(*arguments, **options, chunk=chunk)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        pairs = zip(torch.autograd.grad(3 * loss, wanted), torch.autograd.grad(3 * expected, wanted), strict=True)
        for got, right in pairs:
            torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_what_a_model_does_after_its_head_is_done_here_too(beta):
    """Soft caps, scales and a narrower vocabulary, each of student and teacher for itself."""
    student, teacher, ours, theirs, mask, target = setup(torch.float64)
    target = target.clamp(max=VOCABULARY - 4)
    capped, scaled = Finish(cap=0.7, width=VOCABULARY - 3), Finish(scale=3.0, cap=1.5)
    options = {"beta": beta, "temperature": 1.5, "cross_entropy": 0.4}
    for finishes in ((capped, scaled), (scaled, capped), (Finish(2.0), capped)):
        ends = [FinishedHead(head, finish) for head, finish in zip((ours, theirs), finishes, strict=True)]
        pairs = zip((ours, theirs), finishes, strict=True)
        by_hand = [lambda states, head=head, f=f: _by_hand(head(states), f) for head, f in pairs]
        expected = whole(student, teacher, *by_hand, mask, target, **options)
        loss = chunked_head_loss(student, teacher, *ends, mask, target, **options, chunk=4)
        torch.testing.assert_close(loss, expected)
        wanted = [student, *ours.parameters()]
        pairs = zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True)
        for got, right in pairs:
            torch.testing.assert_close(got, right)


def _by_hand(found, finish):
    found = found[..., : VOCABULARY - 3] * finish.scale
    return found if finish.cap is None else finish.cap * torch.tanh(found / finish.cap)


def test_a_loss_that_cannot_repeat_it_refuses():
    head = FinishedHead(nn.Linear(4, 3), Finish(scale=0.5))
    with pytest.raises(ValueError, match=r"scale=0\.5.*loss on logits"):
        apply_frozen_head(head, torch.ones(2, 4))


def test_names_of_the_ends():
    student, teacher, ours, theirs, mask, _ = setup(torch.float64)
    logits = ours(student), theirs(teacher)
    torch.testing.assert_close(chunked_head_loss(student, teacher, ours, theirs, mask), forward_kl_loss(*logits, mask))
    reverse = chunked_head_loss(student, teacher, ours, theirs, mask, beta=1.0)
    torch.testing.assert_close(reverse, reverse_kl_loss(*logits, mask))


def test_gradient_by_differences():
    student, teacher, ours, theirs, mask, target = setup(torch.float64)

    def loss(states, weight):
        head = nn.Linear(WIDTHS[0], VOCABULARY, dtype=torch.float64)
        del head.weight
        head.weight = weight
        with torch.no_grad():
            head.bias.zero_()
        return chunked_head_loss(states, teacher, head, theirs, mask, target, beta=0.4, cross_entropy=0.5, chunk=3)

    assert torch.autograd.gradcheck(
        loss, (student, ours.weight.detach()[:5].repeat(7, 1)[:VOCABULARY].requires_grad_())
    )


def test_masks_and_frozen_parts():
    student, teacher, ours, theirs, mask, target = setup()
    nothing = chunked_head_loss(student, teacher, ours, theirs, torch.zeros_like(mask))
    assert nothing.item() == 0
    nothing.backward()
    assert not student.grad.any()
    ours.requires_grad_(False)
    student.grad, ours.weight.grad = None, None
    chunked_head_loss(student, teacher, ours, theirs, mask).backward()
    assert not student.grad[~mask].any()
    assert student.grad[mask].any(-1).all()
    assert ours.weight.grad is None
    assert theirs.weight.grad is None
    with torch.no_grad():
        value = chunked_head_loss(student, teacher, ours, theirs, mask, target, cross_entropy=1.0)
    assert not value.requires_grad


def test_smaller_vocabulary_counts():
    student, teacher, ours, _, mask, _ = setup()
    wider = nn.Linear(WIDTHS[1], VOCABULARY + 5)
    logits = F.pad(ours(student), (0, 5), value=-torch.inf), wider(teacher)
    torch.testing.assert_close(
        chunked_head_loss(student, teacher, ours, wider, mask), forward_kl_loss(*logits, mask), rtol=1e-5, atol=1e-6
    )


def test_mixed_precision():
    student, teacher, ours, theirs, mask, target = setup()
    options = {"beta": 0.5, "temperature": 1.0, "cross_entropy": 0.5}
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_head_loss(student, teacher, ours, theirs, mask, target, **options)
    assert loss.dtype == torch.float32
    loss.backward()
    assert ours.weight.grad.dtype == student.grad.dtype == torch.float32
    torch.testing.assert_close(
        loss, whole(student, teacher, ours, theirs, mask, target, **options), rtol=0.05, atol=0.01
    )


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.size = max(self.size, x.numel())
        return out


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_logits_never_exist_at_once(beta):
    torch.manual_seed(0)
    student, teacher = torch.randn(64, 4, requires_grad=True), torch.randn(64, 4)
    heads = nn.Linear(4, 100), nn.Linear(4, 100)
    with Largest() as seen:
        target = torch.arange(64)
        loss = chunked_head_loss(student, teacher, *heads, None, target, beta=beta, cross_entropy=1.0, chunk=8)
        loss.backward()
    assert seen.size == 8 * 100
    with Largest() as eager:
        jsd_loss(heads[0](student), heads[1](teacher), beta=beta).backward()
    assert eager.size == 64 * 100


def test_errors():
    student, teacher, ours, theirs, mask, _ = setup()
    for options, message in (
        ({"beta": 2.0}, "beta"),
        ({"temperature": 0}, "temperature"),
        ({"cross_entropy": 1}, "target"),
    ):
        with pytest.raises(ValueError, match=message):
            chunked_head_loss(student, teacher, ours, theirs, mask, **options)
    with pytest.raises(ValueError, match="teacher states"):
        chunked_head_loss(student, teacher[:1], ours, theirs, mask)
    with pytest.raises(ValueError, match="linear layer"):
        chunked_head_loss(student, teacher, nn.Sequential(ours, nn.Linear(2, 2)), theirs, mask)
