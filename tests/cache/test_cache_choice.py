"""The teacher cache: what is chosen, and why; what is demanded and impossible."""

import pytest

from tests.cache.commands import TRAIN, files


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["teacher.views=null"], "448 rows would be read and 448 written first"),
        (["trainer.max_epochs=2"], "224 rows would be read and 224 written first"),
        (["trainer.limit_train_batches=1"], "64 rows would be read and 224 written first"),
        (["trainer.max_epochs=-1", "trainer.max_steps=7"], "112 rows would be read and 112 written first"),
        (["method=mlkd"], "mlkd changes the batch (TwoViews)"),
        (["teacher.topk=2"], "keeps 2 of 3"),
        (["teacher.max_gb=1e-7"], "would take 1.3 kB, more than teacher.max_gb=1e-07"),
    ],
)
def test_live_where_storing_does_not_pay_or_is_not_possible(train, options, reason):
    outcome = train(*options)
    assert "teacher cache: not used, the teacher runs in every step" in outcome.text
    assert reason in outcome.text
    assert not files()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["teacher.cache=write", "method=sskd"], "changes the batch (Rotations)"),
        (["teacher.cache=read", "teacher.topk=2"], "Set teacher.topk=null"),
        (["teacher.cache=write", "teacher.max_gb=1e-7"], "Raise teacher.max_gb"),
        (["teacher.cache=write", "trainer.precision=bf16-true"], "trainer.precision=bf16-true converts the teacher"),
        (["teacher.cache=raed"], "choose auto, off, read, write"),
        (["teacher.cache_dtype=int8"], "choose fp16, bf16, fp32"),
        (["teacher.views=0"], "from 1 on, or all"),
        (["teacher.topk=0"], "teacher.topk must be at least 1"),
        (["teacher.placement=best"], "teacher.placement=best: choose auto"),
        (["job=cache", "method=ce"], "asks for no signals of a teacher"),
    ],
)
def test_what_is_demanded_and_impossible_is_an_error(cli, options, reason):
    outcome = cli(*TRAIN, *options)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert reason in outcome.text
    assert not files()


@pytest.mark.parametrize("epoch", [0, 1])
def test_values_that_half_precision_cannot_hold_leave_the_teacher_live(train, cli, monkeypatch, epoch):
    """Seen on the first batch, or only while writing."""
    from kd_lightning.core.calls import TensorCall

    original = TensorCall.__call__

    def large(self, net, batch):
        factor = 1e6 if batch.get("view", 0) >= epoch else 1.0
        return {"logits": original(self, net, batch)["logits"] * factor}

    monkeypatch.setattr(TensorCall, "__call__", large)
    refused = cli(*TRAIN, "job=cache")
    assert refused.code == 1
    assert "too large for float16 (teacher.cache_dtype=bf16 or fp32 holds it)" in refused.text
    assert "too large for float16" in train("optimizer.lr=0", "scheduler=constant").text


def test_placement_says_what_the_teacher_costs(cli):
    live = cli(*TRAIN, "teacher.placement=auto", "teacher.cache=off")
    assert live.code == 0, live.text
    assert "teacher placement: live" in live.text
    cached = cli(*TRAIN, "teacher.placement=auto")
    assert "teacher placement: cached: it takes" in cached.text
