import functools

import pytest
import torch
from torch import nn

from kd_lightning.core.schedules import Linear, Progress
from kd_lightning.core.terms import Objective, Stage, Term, param_groups
from kd_lightning.losses.kd import KDLoss, kd_loss
from tests.core.nets import batch, ce, distiller, kd


class Projected(nn.Module):
    """A loss with a parameter of its own and its own learning rate."""

    def build(self, student):
        self.linear = nn.Linear(student.shape[1], 2)

    def forward(self, student):
        return self.linear(student).square().mean()

    def param_groups(self):
        return [{"params": list(self.parameters()), "lr": 0.5}]


def resolve(reference):
    values = {"logits": torch.ones(2, 3), "target": torch.zeros(2, dtype=torch.int64), "stages": [1, 2]}
    return values[reference.name]


def test_total_is_the_weighted_sum_and_parts_are_unweighted():
    objective = Objective([ce(), kd(Linear(0.0, 10.0))])

    def differing(reference):
        return torch.arange(6.0).view(2, 3).square() if reference.scope == "teacher" else resolve(reference)

    total, parts = objective(differing, Progress(0.5))
    assert total.item() == pytest.approx(parts["ce"].item() + 5.0 * parts["kd"].item())
    assert parts["kd"] > 0


def test_lists_of_references_are_flattened():
    class Any(nn.Module):
        def forward(self, maps):
            return maps

    term = Term("t", Any(), {"maps": ["student.logits", "student.stages"]})
    assert len(term.arguments(resolve)["maps"]) == 3


def test_inputs_that_do_not_fit_the_loss_are_refused():
    with pytest.raises(ValueError, match=r"Term 'x'.*forward takes \(input, target\).*gives \(inputt\)"):
        Term("x", nn.CrossEntropyLoss(), {"inputt": "student.logits"})


def test_own_parameters_get_their_settings():
    term = Term("p", Projected(), {"student": "student.logits"})
    term.build(term.arguments(resolve))
    groups = param_groups(Objective([term]))
    assert groups[0]["lr"] == 0.5
    assert sum(p.numel() for p in groups[0]["params"]) == 8


def test_stages_choose_terms_by_share_of_the_training():
    objective = Objective([ce(), kd()], [Stage(("kd",), 0.25), Stage(("ce",), 0.75)])
    active = [objective(resolve, Progress(fraction))[1].keys() for fraction in (0.0, 0.2499, 0.25, 1.0)]
    assert [set(names) for names in active] == [{"kd"}, {"kd"}, {"ce"}, {"ce"}]


@pytest.mark.parametrize(
    ("stages", "message"),
    [([Stage(("kdd",), 1.0)], "unknown terms"), ([Stage(("kd",), 0.5)], "must add up to 1")],
)
def test_wrong_stages_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        Objective([kd()], stages)


def test_no_terms_is_an_error():
    with pytest.raises(ValueError, match="no terms"):
        Objective([])


def gap(student, teacher, *, power=2.0, factor=1.0):
    """A plain function as a loss."""
    return factor * (student - teacher).abs().pow(power).mean()


BOTH = {"student": "student.logits", "teacher": "teacher.logits"}


def gradients(term):
    """Those of the student after one step on the term."""
    torch.manual_seed(0)
    module = distiller(term)
    signals = module.roles(batch(), {"student", "teacher"})
    total, parts = module.objective(lambda r: module._resolve(r, signals, batch(), Progress()), Progress())
    total.backward()
    return parts, {name: p.grad for name, p in module.named_learnable() if p.grad is not None}


@pytest.mark.parametrize(
    "loss", [gap, functools.partial(gap, power=3.0), functools.partial(functools.partial(gap), factor=2)]
)
def test_a_plain_function_is_a_loss(loss):
    parts, learnt = gradients(Term("gap", loss, BOTH))
    assert parts["gap"] > 0
    assert "student.fc.weight" in learnt
    assert Term("gap", loss, BOTH).state_dict() == {}
    assert param_groups(Objective([Term("gap", loss, BOTH)])) == []
    assert "gap" in repr(Term("gap", loss, BOTH))


def test_a_function_with_its_numbers_bound_is_its_module():
    plain, learnt = gradients(Term("kd", functools.partial(kd_loss, temperature=3.0), BOTH))
    module, expected = gradients(Term("kd", KDLoss(temperature=3.0), BOTH))
    assert torch.equal(plain["kd"], module["kd"])
    assert all(torch.equal(learnt[name], gradient) for name, gradient in expected.items())


def test_a_module_keeps_its_names_in_checkpoints():
    term = Term("p", Projected(), {"student": "student.logits"})
    term.build(term.arguments(resolve))
    assert set(term.state_dict()) == {"loss.linear.weight", "loss.linear.bias"}


@pytest.mark.parametrize(
    ("loss", "inputs", "message"),
    [
        (
            gap,
            {"student": "student.logits"},
            r"Term 'gap': missing .* 'teacher'\. gap takes \(student,",
        ),
        (
            gap,
            {**BOTH, "mask": "batch.mask"},
            r"Term 'gap': got an unexpected .* 'mask'\. gap takes \(student,",
        ),
        (functools.partial(gap, teacher=1), BOTH, "Term 'gap': 'teacher' of gap is given twice"),
        (functools.partial(gap, powr=1), BOTH, "Term 'gap': gap takes no argument 'powr', but .student"),
        (functools.partial(Projected), BOTH, "Term 'gap': Projected is a class.*leave out _partial_"),
        (torch.ones(2), BOTH, "Term 'gap': a loss is a module or a function"),
    ],
)
def test_functions_that_do_not_fit_are_refused_by_name(loss, inputs, message):
    with pytest.raises(ValueError, match=message):
        Term("gap", loss, inputs)


def test_a_term_that_can_teach_nothing_is_refused():
    """Over one output a softmax is constant: cross-entropy and KD of a regression have no gradient."""
    from kd_lightning.core.teaches import check_teaches
    from kd_lightning.losses.cross_entropy import CrossEntropyLoss
    from kd_lightning.losses.kd import KDLoss
    from kd_lightning.losses.regression import RegressionKDLoss, SmoothL1Loss

    student, teacher, values = torch.randn(8, 1), torch.randn(8, 1), torch.randn(8)
    inputs = {"student": "student.logits", "teacher": "teacher.logits", "target": "batch.target"}

    def check(loss, width=1, target=values, **arguments):
        given = {"student": student.expand(8, width), "teacher": teacher.expand(8, width), "target": target}
        asked = {name: inputs[name] for name in arguments.get("asks", ("student", "teacher"))}
        check_teaches(Term("x", loss, asked), {name: given[name] for name in asked}, {"student"})

    classes = torch.zeros(8, dtype=torch.int64)
    for loss, asks, target in (
        (KDLoss(), ("student", "teacher"), None),
        (CrossEntropyLoss(), ("student", "target"), classes),
    ):
        with pytest.raises(ValueError, match=r"term 'x' can teach nothing: whatever the outputs of shape 8×1 are"):
            check(loss, asks=asks, target=target)
        check(loss, 2, asks=asks, target=target)
    check(SmoothL1Loss(), asks=("student", "target"))
    # better than the teacher everywhere in the mild draw: it rests there, and learns all the same
    teacher += 50
    check(RegressionKDLoss(), asks=("student", "teacher", "target"))


@pytest.mark.parametrize(
    ("loss", "inputs", "given", "words"),
    [
        (
            nn.MSELoss(),
            {"input": "student.layer1", "target": "teacher.layer2"},
            {"input": torch.ones(2, 16, 8, 8), "target": torch.ones(2, 32, 4, 4)},
            r"'x' \(MSELoss\) does not take input student.layer1 2×16×8×8, target teacher.layer2 2×32×4×4: Runtime.*"
            "method.terms.x.inputs, or add a projector",
        ),
        (
            KDLoss(),
            {"student": "student.logits", "teacher": "teacher.layer1"},
            {"student": torch.ones(2, 3), "teacher": torch.ones(2, 16)},
            r"The term 'x' \(KDLoss\): Student logits \(2, 3\) and teacher logits \(2, 16\)",
        ),
        (
            nn.CosineSimilarity(),
            {"x1": "student.logits", "x2": "teacher.logits"},
            {"x1": torch.ones(2, 3), "x2": torch.ones(2, 3)},
            r"The term 'x' \(CosineSimilarity\) gives 2: a loss is one number",
        ),
    ],
)
def test_what_a_loss_cannot_do_is_said_with_the_term_and_the_shapes(loss, inputs, given, words):
    with pytest.raises(ValueError, match=words):
        Objective([Term("x", loss, inputs)])(lambda reference: next(given[key] for key, text in inputs.items()
                                                                    if text == str(reference)), Progress())  # fmt: skip


def test_what_a_loss_cannot_be_built_from_is_said_likewise():
    term = Term("x", Projected(), {"student": "student.layer1"})
    with pytest.raises(ValueError, match=r"The term 'x' \(Projected\) does not take student student.layer1 2: Index"):
        term.build({"student": torch.ones(2)})
