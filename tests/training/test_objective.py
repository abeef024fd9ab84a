"""A term's loss as the configuration has it: a module, or a function with its numbers bound."""

import pytest

from tests.conftest import TINY

TRAIN = [*TINY, "job=train", "method=ce", "trainer.max_epochs=1"]
BOTH = "{student: student.logits, teacher: teacher.logits}"


def gap(student, teacher, *, power=2.0):
    """A plain function as a loss."""
    return (student - teacher).abs().pow(power).mean()


def term(loss, inputs=BOTH, name="gap"):
    """A term on the command line."""
    return f"+method.terms.{name}={{loss: {loss}, inputs: {inputs}, weight: 0.5}}"


def function(more="", target="gap"):
    return f"{{_target_: {__name__}.{target}, _partial_: true{more}}}"


def test_functions_train_beside_a_module(cli):
    found = f"{{_target_: hydra.utils.get_method, path: {__name__}.gap}}"
    outcome = cli(*TRAIN, "teacher.fit=null", term(function(", power: 3.0")), term(found, name="found"))
    assert outcome.code == 0, outcome.text
    log = "".join(path.read_text() for path in outcome.folder.rglob("metrics.csv"))
    assert "train/gap" in log
    assert "train/found" in log


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (term(function(", powr: 3.0")), ["method.terms.gap.loss", "takes no argument 'powr'", "Did you mean power"]),
        (term(function(target="gapp")), ["method.terms.gap.loss", "cannot import", "gapp"]),
        (
            term(function(), "{student: student.logits}"),
            ["Term 'gap': missing a required argument: 'teacher'. gap takes"],
        ),
        (term(function(", teacher: 1.0")), ["Term 'gap': 'teacher' of gap is given twice"]),
        (term(f"{{_target_: {__name__}.gap, power: 2.0}}"), ["method.terms.gap.loss", "Add _partial_: true"]),
        (
            term("{_target_: kd_lightning.losses.kd.KDLoss, _partial_: true}"),
            ["KDLoss is a class", "leave out _partial_"],
        ),
    ],
)
def test_a_function_that_does_not_fit_is_refused_before_anything_is_trained(cli, given, messages):
    outcome = cli(*TRAIN, given)
    assert outcome.code == 1
    assert "resnet8: training" not in outcome.text
    said = " ".join(outcome.text.split())
    for message in messages:
        assert message in said
