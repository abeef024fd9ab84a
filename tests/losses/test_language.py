"""What the losses of language models compute, on cases whose answer is known."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from kd_lightning.losses.emd import EMDLoss, emd_loss
from kd_lightning.losses.hidden import hidden_mse_loss
from kd_lightning.losses.minilm import attention_kl_loss
from kd_lightning.losses.mobilebert import mobilebert_loss
from kd_lightning.losses.ops.transport import transport
from kd_lightning.losses.span_alignment import span_alignment_loss
from kd_lightning.losses.uld import uld_loss


def states(count, width=6, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(2, 3, 3, 3) for _ in range(count)], [torch.randn(2, 3, width) for _ in range(count + 1)]


def test_flow_is_the_best_assignment():
    for seed in range(5):
        cost = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) * 10**seed
        even = torch.full((4,), 0.25)
        flow = transport(cost, even, even)
        best = min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(4))) / 4
        torch.testing.assert_close((flow * cost).sum(), best, rtol=1e-5, atol=1e-6)


def test_flow_keeps_the_sums():
    supply, demand = torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.2, 0.7])
    flow = transport(torch.rand(2, 3), supply, demand)
    torch.testing.assert_close(flow.sum(1), supply)
    torch.testing.assert_close(flow.sum(0), demand)
    assert (flow >= 0).all()


def test_emd_finds_layers_in_any_order():
    attentions, hidden = states(3)
    shuffled = [attentions[i] for i in (2, 0, 1)], [hidden[0], *(hidden[1:][i] for i in (1, 2, 0))]
    assert emd_loss(attentions, shuffled[0], hidden, shuffled[1]).item() < 1e-10
    other = [hidden[0] + 1, *shuffled[1][1:]]
    torch.testing.assert_close(emd_loss(attentions, shuffled[0], hidden, other), torch.tensor(1.0))


def test_emd_weights_follow_the_costs_in_training_only():
    (attentions, hidden), (their_attentions, their_hidden) = states(2), states(4, seed=1)
    their_hidden[4] = hidden[2] + 0.01  # the last layer of both is nearly the same
    module = EMDLoss()
    arguments = (attentions, their_attentions, hidden, their_hidden)
    module.build(*arguments)
    first = module.eval()(*arguments)
    torch.testing.assert_close(first, emd_loss(*arguments))
    torch.testing.assert_close(module.hidden_teacher, torch.full((4,), 0.25))
    module.train()(*arguments)
    assert module.hidden_teacher.argmax() == 3
    assert module.hidden_student.argmax() == 1
    torch.testing.assert_close(module.hidden_teacher.sum(), torch.tensor(1.0))
    for _ in range(50):
        assert module(*arguments).isfinite()
    assert set(module.state_dict()) == {f"{a}_{b}" for a in ("hidden", "attention") for b in ("student", "teacher")}


def test_mobilebert_is_the_sum_of_its_parts():
    (attentions, hidden), (their_attentions, their_hidden) = states(2), states(4, seed=1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    loss = mobilebert_loss(attentions, their_attentions, hidden, their_hidden, mask)
    parts = [hidden_mse_loss(hidden[m], their_hidden[g], mask) for m, g in ((1, 2), (2, 4))]
    parts += [attention_kl_loss(attentions[m], their_attentions[g], mask) for m, g in ((0, 1), (1, 3))]
    torch.testing.assert_close(loss, sum(parts))
    with pytest.raises(ValueError, match="not a multiple"):
        mobilebert_loss(attentions, their_attentions[:3], hidden, their_hidden[:4])


# "the cats sat": |the| cats| sat| and |th|e| cat|s sat|, with a prompt of one token and padding on different sides.
OURS = {"ends": [0, 3, 8, 12, 0], "target": [-100, 0, 1, 2, -100]}
THEIRS = {"ends": [2, 3, 7, 12], "target": [3, 2, 1, 0]}


def text(side, vocabulary, seed):
    torch.manual_seed(seed)
    ends, target = torch.tensor([side["ends"]]), torch.tensor([side["target"]])
    return torch.randn(1, ends.shape[1], vocabulary), target, ends


def test_chunks_are_the_pieces_that_both_cut_out():
    (ours, target, ends), (theirs, their_target, their_ends) = text(OURS, 5, 0), text(THEIRS, 4, 1)
    loss = span_alignment_loss(ours, theirs, target, their_target, ends, their_ends, temperature=2.0)
    q = F.log_softmax(ours, -1)[0]
    p = F.log_softmax(theirs, -1)[0]
    chunks = [  # "the" and " cats sat"
        (q[1, 0], p[0, 3] + p[1, 2]),
        (q[2, 1] + q[3, 2], p[2, 1] + p[3, 0]),
    ]
    expected = 0
    for log_q, log_p in chunks:
        a, b = (torch.stack([(x / 2).exp(), 1 - (x / 2).exp()]) for x in (log_p, log_q))
        expected += 2 * (a * (a / b).log()).sum() / len(chunks)
    torch.testing.assert_close(loss, expected)


def test_positions_have_read_the_same_text():
    (ours, target, ends), (theirs, their_target, their_ends) = text(OURS, 5, 0), text(THEIRS, 4, 1)
    arguments = (ours, theirs, target, their_target, ends, their_ends)
    loss = span_alignment_loss(*arguments, compare="positions")
    masks = torch.tensor([[0, 1, 1, 0, 0]]), torch.tensor([[1, 0, 1, 0]])  # before "the", before " cat(s)"
    torch.testing.assert_close(loss, uld_loss(ours, theirs, *masks))


def test_several_tokens_of_one_character():
    """A character of three bytes ends three tokens at the same place: they are one piece."""
    theirs, their_target, their_ends = text({"ends": [1, 2], "target": [0, 1]}, 4, 1)
    ours, target, ends = text({"ends": [1, 1, 1, 2], "target": [0, 1, 2, 3]}, 5, 0)
    loss = span_alignment_loss(ours, theirs, target, their_target, ends, their_ends, temperature=1.0)
    q, p = F.log_softmax(ours, -1)[0], F.log_softmax(theirs, -1)[0]
    expected = 0
    for log_q, log_p in ((q[0, 0] + q[1, 1] + q[2, 2], p[0, 0]), (q[3, 3], p[1, 1])):
        a, b = (torch.stack([x.exp(), 1 - x.exp()]) for x in (log_p, log_q))
        expected += (a * (a / b).log()).sum() / 2
    torch.testing.assert_close(loss, expected)


def test_nothing_shared_is_zero_and_options_are_checked():
    (ours, target, ends), (theirs, their_target, their_ends) = text(OURS, 5, 0), text(THEIRS, 4, 1)
    assert span_alignment_loss(ours, theirs, target, their_target, ends + 100, their_ends).item() == 0
    with pytest.raises(ValueError, match="choose chunks"):
        span_alignment_loss(ours, theirs, target, their_target, ends, their_ends, compare="words")
    with pytest.raises(ValueError, match="teacher_target"):
        span_alignment_loss(ours, theirs, target, target, ends, their_ends)
