"""Gradients by term: the right numbers, and a training that does not notice."""

import copy
import math

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from kd_lightning.core.gradients import GradientProbe
from tests.core.nets import Net, batch, ce, distiller, kd


class Keep(pl.Callback):
    """What was logged after each epoch."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("grad/")})


def fit(module, tmp_path, *callbacks, epochs=2, batches=3, **options):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, DataLoader([batch(8)] * batches, batch_size=None))


def nets():
    """Student and teacher without dropout, so that a gradient can be computed again."""
    torch.manual_seed(0)
    student, teacher = Net(), Net(width=6)
    student.drop.p = 0.0
    return student, teacher


def by_hand(student, teacher, weight):
    """Gradients of both terms over the student's parameters before the first step."""
    data = batch(8)
    student = copy.deepcopy(student).train()
    logits = student(data["image"])
    with torch.no_grad():
        target = teacher.eval()(data["image"])
    terms = {
        "ce": ce().loss(logits, data["target"]),
        "kd": weight * kd().loss(student=logits, teacher=target),
    }
    found = {}
    for name, value in terms.items():
        parts = torch.autograd.grad(value, list(student.parameters()), retain_graph=True, allow_unused=True)
        found[name] = torch.cat([part.flatten() for part in parts if part is not None])
    return found


def test_norms_and_angle_by_hand(tmp_path):
    student, teacher = nets()
    expected = by_hand(student, teacher, weight=3.0)
    keep = Keep()
    fit(distiller(ce(), kd(3.0), student=student, teacher=teacher), tmp_path, GradientProbe(), keep, epochs=1)
    (row,) = keep.rows
    assert row["grad/ce"] == pytest.approx(float(expected["ce"].norm()), rel=1e-4)
    assert row["grad/kd"] == pytest.approx(float(expected["kd"].norm()), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(expected["ce"], expected["kd"], dim=0)
    assert row["grad/cosine"] == pytest.approx(float(cosine), rel=1e-4)


def test_training_does_not_notice(tmp_path):
    states = []
    for callbacks in ([], [GradientProbe(every_n_steps=1)]):
        student, teacher = nets()
        pl.seed_everything(1, verbose=False)
        student.drop.p = 0.5
        fit(distiller(student=student, teacher=teacher), tmp_path, *callbacks)
        states.append(student.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_graph_is_not_kept(tmp_path):
    module = distiller()
    fit(module, tmp_path, GradientProbe(every_n_steps=1))
    assert module.objective.watched is None


@pytest.mark.parametrize(("every", "measured"), [(None, 2), (2, 4), (1, 6)])
def test_how_often(tmp_path, monkeypatch, every, measured):
    calls = []
    measure = GradientProbe._measure
    monkeypatch.setattr(GradientProbe, "_measure", lambda *a: calls.append(1) or measure(*a))
    fit(distiller(), tmp_path, GradientProbe(every))
    assert len(calls) == measured


def test_one_kind_of_term_has_no_angle(tmp_path):
    keep = Keep()
    fit(distiller(ce()), tmp_path, GradientProbe(), keep)
    assert [set(row) for row in keep.rows] == [{"grad/ce"}] * 2


def test_a_term_without_weight_has_no_gradient(tmp_path):
    keep = Keep()
    fit(distiller(ce(), kd(0.0)), tmp_path, GradientProbe(), keep, epochs=1)
    assert keep.rows[0]["grad/kd"] == 0.0
    assert math.isfinite(keep.rows[0]["grad/cosine"])


def test_accumulated_and_mixed_precision(tmp_path):
    keep = Keep()
    options = {"accumulate_grad_batches": 2, "precision": "bf16-mixed", "gradient_clip_val": 1.0}
    fit(distiller(), tmp_path, GradientProbe(), keep, **options)
    assert all(row["grad/ce"] > 0 for row in keep.rows)


def test_a_compiled_net_is_left_alone(tmp_path):
    module, keep = distiller(), Keep()
    # As torch.compile leaves it, without the wait for a compiler.
    net = module.roles.by_name["student"].net
    net._compiled_call_impl = net._call_impl
    fit(module, tmp_path, GradientProbe(), keep)
    assert keep.rows == [{}, {}]


def test_a_wrong_interval_is_explained():
    with pytest.raises(ValueError, match="at least 1"):
        GradientProbe(every_n_steps=0)
