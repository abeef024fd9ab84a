"""A role whose signals come from disk, and the call that keeps the top k."""

import pytest
import torch

from kd_lightning.cache.role import CachedRole
from kd_lightning.cache.store import Signal
from kd_lightning.cache.topk import TopKCall
from kd_lightning.core.calls import TensorCall
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from tests.core.nets import Net, batch

STORED = {"logits": Signal("logits", (3,), torch.float16, torch.float32)}
LOGITS, EMBEDDING = Reference.parse("teacher.logits"), Reference.parse("teacher.embedding")


def cached(*references):
    live = Role("teacher", Net(), TensorCall(), {"embedding": "fc:in"}, trainable=False)
    role = CachedRole(live, STORED)
    role.listen(references or [LOGITS])
    return live, role


def training_batch():
    return {**batch(), "view": 0, "teacher/logits": torch.arange(24.0).view(8, 3).half()}


def test_training_batches_bring_their_signals():
    _, role = cached()
    given = training_batch()
    signals = role(given)
    assert signals["logits"].dtype == torch.float32
    assert torch.equal(signals["logits"], given["teacher/logits"].float())
    assert torch.equal(role.pick(LOGITS, signals), signals["logits"])
    assert not signals["logits"].requires_grad


def test_other_batches_go_through_the_net():
    live, role = cached(LOGITS, EMBEDDING)
    live.listen([EMBEDDING])
    expected = live(batch())
    live.taps.remove()
    got = role(batch())
    assert torch.equal(got["logits"], expected["logits"])
    assert torch.equal(role.pick(EMBEDDING, got), expected["fc:in"])
    assert torch.equal(role(training_batch())["logits"], training_batch()["teacher/logits"].float())


def test_a_training_batch_without_its_rows_is_an_error():
    with pytest.raises(ValueError, match="lacks the stored signals teacher/logits"):
        cached()[1]({**batch(), "view": 0})


def test_the_net_stays_where_it_is_unless_a_term_takes_part_of_it():
    _, role = cached()
    role.to(torch.float64)  # stands for another device
    assert role.net.fc.weight.dtype == torch.float32
    head = Reference.parse("teacher.fc!module")
    _, role = cached(LOGITS, head)
    role.to(torch.float64)
    assert role.pick(head, {}).weight.dtype == torch.float64


def test_the_top_k_and_what_the_others_have_together():
    net, given = Net(num_classes=6), batch()
    log_probs = net.eval()(given["image"]).log_softmax(-1)
    got = TopKCall(TensorCall(), 2)(net, given)
    assert torch.equal(got["topk_indices"], log_probs.argsort(-1, descending=True)[:, :2])
    torch.testing.assert_close(got["topk_log_probs"], log_probs.gather(-1, got["topk_indices"]))
    torch.testing.assert_close(got["topk_log_probs"].exp().sum(-1) + got["topk_tail"].exp(), torch.ones(8))
    everything = TopKCall(TensorCall(), 99)(net, given)
    assert everything["topk_indices"].shape == (8, 6)
    assert everything["topk_tail"].isneginf().all()


def test_the_top_k_needs_logits_and_a_number():
    with pytest.raises(ValueError, match="at least 1"):
        TopKCall(TensorCall(), 0)
    call = TensorCall()
    call.provides = ("tokens",)
    with pytest.raises(ValueError, match="gives tokens"):
        TopKCall(call, 2)
