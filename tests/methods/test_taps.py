"""Nets with different numbers of stages are matched from the end; the configuration has the last word."""

from __future__ import annotations

import logging
from dataclasses import fields

import pytest

from kd_lightning.config.schema import PLACES
from kd_lightning.models.anatomy.aliases import STAGE_WISE
from kd_lightning.models.anatomy.places import Anatomy
from tests.conftest import TINY
from tests.methods.build import VISION, build, composed
from tests.methods.test_matrix import IDLE, check

# Four stages against three.
TIMM = ["model@teacher=timm", "teacher.net.name=resnet10t"]
DEEPER_TEACHER = [*TIMM, "+teacher.net.output_stride=16", "model@student=resnet8"]
DEEPER_STUDENT = ["model@teacher=resnet8", "model@student=vgg8"]


def uses_stages(method: str) -> bool:
    terms = composed(f"method={method}").method.terms.values()
    references = str([term.inputs for term in terms])
    return any(f"student.{alias}" in references for alias in STAGE_WISE) and "teacher." in references


METHODS = [method for method in VISION if uses_stages(method)]


def pairing(pair: list[str], method: str, term: str) -> dict[str, str]:
    return dict(build(pair, method).pairing)[term]


@pytest.mark.parametrize("method", METHODS)
def test_trains_from_a_teacher_of_more_stages(method: str):
    check(build(DEEPER_TEACHER, method), IDLE.get(method))


def test_the_last_stages_of_the_longer_are_paired(caplog):
    with caplog.at_level(logging.INFO, "kd_lightning"):
        shapes = pairing(DEEPER_TEACHER, "at", "at")
    assert shapes["teacher"] == "[B×128×4×4, B×256×2×2, B×512×2×2]"
    assert shapes["student"] == "[B×16×32×32, B×32×16×16, B×64×8×8]"
    assert "teacher: 4 stages, the other net 3: paired are the last 3, layer2, layer3, layer4" in caplog.text
    assert "teacher.taps.stages=[...]" in caplog.text
    shapes = pairing(DEEPER_STUDENT, "at", "at")
    assert shapes["student"].count("×") == shapes["teacher"].count("×") == 9


def test_nothing_is_said_or_cut_where_no_term_asks_for_stages(caplog):
    with caplog.at_level(logging.INFO, "kd_lightning"):
        module = build(DEEPER_TEACHER, "kd")
    assert "paired" not in caplog.text
    assert len(module.roles.by_name["teacher"].aliases["stages"]) == 4


def test_semckd_keeps_every_stage():
    shapes = pairing(DEEPER_TEACHER, "semckd", "semckd")
    assert len(shapes["teacher"].split(", ")) == 4
    assert len(shapes["student"].split(", ")) == 3


@pytest.mark.parametrize(
    ("taps", "student", "teacher"),
    [
        (
            "teacher.taps.stages=[layer1,layer2,layer4]",
            "[B×16×32×32, B×32×16×16, B×64×8×8]",
            "[B×64×8×8, B×128×4×4, B×512×2×2]",
        ),
        ("student.taps.stages=[layer2,layer3]", "[B×32×16×16, B×64×8×8]", "[B×256×2×2, B×512×2×2]"),
        (
            "student.taps.stages=[relu,layer1,layer2,layer3]",
            "[B×16×32×32, B×16×32×32, B×32×16×16, B×64×8×8]",
            "[B×64×8×8, B×128×4×4, B×256×2×2, B×512×2×2]",
        ),
    ],
)
def test_the_configuration_has_the_last_word(taps: str, student: str, teacher: str):
    assert pairing([*DEEPER_TEACHER, taps], "at", "at") == {"student": student, "teacher": teacher}


def test_what_the_configuration_names_is_never_cut():
    both = ["student.taps.stages=[layer2,layer3]", "teacher.taps.stages=[layer1,layer2,layer3]"]
    with pytest.raises(ValueError, match="The student gives 2 feature maps and the teacher 3"):
        build([*DEEPER_TEACHER, *both], "vid")


def test_ofd_measures_the_margins_of_a_teacher_without_batch_norms_before_its_activations():
    check(build(["model@teacher=shufflev2", "model@student=resnet8"], "ofd"))


def test_a_place_that_is_not_known_is_asked_for():
    # torchvision's blocks use one ReLU twice: what lies before the second cannot be tapped.
    with pytest.raises(
        ValueError, match=r"no submodule 'preacts'.* Or say where it is: teacher\.taps\.preacts=\[...\]"
    ):
        build(["model@teacher=tv_resnet18", "model@student=resnet8"], "ab")


def test_the_command_line_knows_every_place_of_the_anatomy():
    assert tuple(field.name for field in fields(Anatomy)) == PLACES


def test_the_pairing_is_printed_at_start(cli):
    outcome = cli(
        *TINY, *TIMM, "teacher.fit=null", "data.image_size=32", "job=train", "method=at", "trainer.max_epochs=1"
    )
    assert outcome.code == 0, outcome.text
    assert "paired are the last 3, layer2, layer3, layer4" in outcome.text
    assert "at: student [B×16×32×32, B×32×16×16, B×64×8×8], teacher [B×128×4×4," in outcome.text
