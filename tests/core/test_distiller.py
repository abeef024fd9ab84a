"""The engine from outside: what learns, what stays, what is refused."""

import copy
import functools

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from kd_lightning.core.distiller import Distiller, NonFiniteLossError
from kd_lightning.core.selection import BestCheckpoint, EarlyStopping
from kd_lightning.core.terms import Stage, Term
from kd_lightning.losses.kd import KDLoss
from tests.core.nets import Net, batch, ce, distiller, kd


def fit(module, tmp_path, epochs=2, validate=False, **options):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )
    batches = DataLoader([batch(8), batch(8)], batch_size=None)
    trainer.fit(module, batches, batches if validate else None)
    return trainer


def test_teacher_stays_bit_for_bit_and_student_learns(tmp_path):
    teacher, student = Net(width=6), Net()
    before_teacher, before_student = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    module = distiller(teacher=teacher, student=student)
    module.train()  # as a careless user or library may do
    fit(module, tmp_path)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before_teacher[name]), name
    assert not teacher.training
    changed = [n for n, v in student.state_dict().items() if not torch.equal(v, before_student[n])]
    assert {"conv.weight", "fc.weight", "bn.running_mean"} <= set(changed)


def test_teacher_is_in_no_checkpoint_no_optimiser_no_state(tmp_path):
    module = distiller()
    trainer = fit(module, tmp_path, enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert not [name for name in saved if "teacher" in name]
    optimised = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    teacher = module.roles.by_name["teacher"].net
    assert not optimised & {id(p) for p in teacher.parameters()}
    assert optimised == {id(p) for p in module.roles.by_name["student"].net.parameters()}


def test_teacher_moves_with_the_module():
    module = distiller().to(torch.float64)
    assert next(module.roles.by_name["teacher"].net.parameters()).dtype == torch.float64


def test_building_leaves_the_random_state_and_the_modes_alone():
    torch.manual_seed(3)
    student = Net().train()
    statistics = student.bn.running_mean.clone()
    state = torch.get_rng_state()
    teacher = Net(width=6)
    torch.set_rng_state(state)
    distiller(student=student, teacher=teacher)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    assert torch.equal(student.bn.running_mean, statistics)


class Projector(nn.Module):
    def build(self, student, teacher):
        self.linear = nn.Linear(student.shape[1], teacher.shape[1])

    def forward(self, student, teacher):
        return (self.linear(student) - teacher).square().mean()


def projected() -> Term:
    return Term("feat", Projector(), {"student": "student.embedding", "teacher": "teacher.embedding"})


def test_parameters_of_a_loss_are_built_from_measured_shapes_trained_and_saved(tmp_path):
    module = distiller(ce(), projected())
    weight = module.objective.terms["feat"].loss.linear.weight
    assert weight.shape == (6, 4)
    before = weight.detach().clone()
    trainer = fit(module, tmp_path, enable_checkpointing=False)
    assert not torch.equal(weight, before)
    assert any("objective.terms.feat" in name for name in module.state_dict())
    assert dict(module.pairing)["feat"] == {"student": "B×4", "teacher": "B×6"}
    assert trainer.logged_metrics.keys() >= {"train/loss", "train/ce", "train/feat"}


def test_initial_values_of_a_loss_depend_on_the_seed_alone():
    first = distiller(ce(), projected(), seed=1).objective.terms["feat"].loss.linear.weight
    torch.rand(5)
    again = distiller(ce(), projected(), seed=1).objective.terms["feat"].loss.linear.weight
    other = distiller(ce(), projected(), seed=2).objective.terms["feat"].loss.linear.weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("student.nothing", r"no submodule 'nothing'.*Signals and aliases of student: logits, embedding"),
        ("peer.logits", r"names no role: there are .*student"),
        ("batch.label", r"there is no 'label'; batch has image, target, index"),
        ("data.classes", r"there is no 'classes'; data has num_classes"),
        ("student.embedding[1]", r"is one tensor, not a list"),
    ],
)
def test_a_reference_that_leads_nowhere_fails_before_training(reference, message):
    term = Term("kd", KDLoss(), {"student": reference, "teacher": "teacher.logits"})
    with pytest.raises(ValueError, match=message):
        distiller(term)


def test_a_signal_without_gradient_is_named(tmp_path):
    student = Net()
    student.conv.requires_grad_(False)
    term = Term("kd", KDLoss(), {"student": "student.conv", "teacher": "student.conv!detach"})
    with pytest.raises(ValueError, match=r"student\.conv, which the term 'kd' trains, carries no gradient"):
        fit(distiller(ce(), term, student=student), tmp_path)


class Explodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, student):
        self.calls += 1
        return student.sum() * (float("nan") if self.calls > 3 else 0.0)


def test_a_loss_that_is_not_finite_stops_and_names_the_term(tmp_path):
    term = Term("boom", Explodes(), {"student": "student.logits"})
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 3.*term\(s\): boom"):
        fit(distiller(ce(), term), tmp_path, epochs=3)


def test_stages_train_only_what_they_name(tmp_path):
    student = Net()
    student.bn.requires_grad_(False)  # frozen for good: no stage may thaw it
    before = copy.deepcopy(student.state_dict())
    stages = (Stage(("kd",), 0.5, (r"student\.conv",)), Stage(("ce", "kd"), 0.5, (r"student\.",)))
    sgd = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = distiller(ce(), kd(), student=student, stages=stages, optimizer=sgd)
    halfway = {}

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            halfway.setdefault(trainer.current_epoch, copy.deepcopy(student.state_dict()))

    fit(module, tmp_path, callbacks=[Look()])
    assert torch.equal(halfway[0]["fc.weight"], before["fc.weight"])
    assert not torch.equal(halfway[0]["conv.weight"], before["conv.weight"])
    assert not torch.equal(halfway[1]["fc.weight"], before["fc.weight"])
    assert torch.equal(halfway[1]["bn.weight"], before["bn.weight"])
    assert not student.bn.weight.requires_grad


def test_channels_last_changes_nothing_but_the_layout():
    torch.manual_seed(0)
    student = Net().eval()
    plain = distiller(ce(), student=copy.deepcopy(student))
    last = distiller(ce(), student=copy.deepcopy(student), channels_last=True)
    assert last.prepare_batch(batch())["image"].is_contiguous(memory_format=torch.channels_last)
    a, b = (m.eval().roles(m.prepare_batch(batch()), ["student"])["student"]["logits"] for m in (plain, last))
    torch.testing.assert_close(a, b)


class Falling(Distiller):
    """Validates worse with every step: whoever looks from the start takes the first."""

    def validation_step(self, batch, batch_idx):
        self.log("val/score", -float(self.global_step))


@pytest.mark.parametrize(("share", "best"), [(0.5, 6), (0.4, 6), (0.05, 2)])
def test_only_validations_of_the_last_stage_choose(tmp_path, share, best):
    stages = (Stage(("kd",), share), Stage(("ce",), 1 - share))
    module = distiller(ce(), kd(), stages=stages, cls=Falling)
    checkpoint = BestCheckpoint(tmp_path, monitor="val/score", mode="max", filename="best-{step}")
    stop = EarlyStopping(monitor="val/score", mode="max", patience=2)
    trainer = fit(module, tmp_path, epochs=5, callbacks=[checkpoint, stop], validate=True)
    # Two steps an epoch: the step of the first validation after at least one step of the last stage.
    assert checkpoint.best_model_path.endswith(f"best-step={best}.ckpt")
    assert trainer.global_step == min(best + 4, 10)


def test_stages_need_a_training_of_known_length(tmp_path):
    module = distiller(ce(), kd(), stages=(Stage(("kd",), 0.5), Stage(("ce",), 0.5)))
    with pytest.raises(ValueError, match=r"length is not known: set trainer\.max_epochs"):
        fit(module, tmp_path, epochs=-1)


def test_a_frozen_role_stays_in_eval_whatever_is_asked():
    role = distiller().roles.by_name["teacher"]
    role.train()
    assert not role.net.training
    assert not role.net.bn.training
    assert not any(p.requires_grad for p in role.parameters())
