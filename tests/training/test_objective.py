"""A method that is written down wrongly says where."""

import re

import pytest

from kd_lightning.config.schema import Method
from kd_lightning.training.objective import build_objective

KD = {"_target_": "kd_lightning.losses.kd.KDLoss"}
INPUTS = {"student": "student.logits", "teacher": "teacher.logits"}


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (1, "method.terms.kd lacks 'loss': a term is {loss, inputs, weight}."),
        ({"loss": KD, "inputs": INPUTS, "weight": None}, "method.terms.kd lacks 'weight'"),
        (
            {"loss": KD, "inputs": INPUTS, "weight": "high"},
            "method.terms.kd.weight=high: it is a number, or a schedule",
        ),
        ({"loss": "kd", "inputs": INPUTS, "weight": 1}, "method.terms.kd.loss=kd: it is a loss with its _target_."),
    ],
)
def test_a_term(term, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build_objective(Method("mine", {"kd": term}))


@pytest.mark.parametrize("stage", ["kd", {"terms": ["kd"]}])
def test_a_stage(stage):
    with pytest.raises(ValueError, match=r"method\.stages: each is"):
        build_objective(Method("mine", {"kd": {"loss": KD, "inputs": INPUTS, "weight": 1}}, [stage]))
