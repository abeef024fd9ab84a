"""What cannot go well is said before anything is trained."""

import pytest
from hydra import compose

from kd_lightning.config.command import Command
from kd_lightning.experiment.rehearsal import rehearse_all
from kd_lightning.experiment.settle import settle
from tests.conftest import TINY


@pytest.fixture(scope="module")
def settled_with(composing):
    def settled(*arguments):
        return settle(Command(compose("config", [*TINY, *arguments])))

    return settled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=at", "student.taps.stages=[layer9]"], r"no submodule .layer9. to tap"),
        (["teacher.cache=of"], r"teacher.cache=of: choose auto, off, read, write"),
        (["teacher.cache_dtype=float16"], r"teacher.cache_dtype=float16: choose fp16"),
        (["teacher.placement=gpu"], r"teacher.placement=gpu: choose auto, null"),
        (["teacher.check=loud"], r"check=loud of a frozen role: choose stop, warn, off"),
        (["teacher.precision=half"], r"teacher.precision=half: choose bf16, fp16 or null"),
        (["teacher.topk=0"], r"teacher.topk must be at least 1"),
        (["+data.select={agree: 1}"], r"agree"),
        (["data.test_fraction=0"], r"synthetic has no test split, which every net is measured on"),
        (["teacher.net.num_classes=4"], r"The training of the teacher .teacher.fit.: .* answers with 4 classes"),
        (["student.net.num_classes=4"], r"The student answers with 4 classes, the data .synthetic. has 3"),
        (["method.terms.kd.inputs.teacher=teacher.embedding"], r"unequal|shape"),
        (["metrics.monitor=val/top2"], r"validation does not measure that. Did you mean val/top1"),
        (["optimizer.lr=-1"], r"learning rate|lr"),
        (["teacher.fit.method.terms.ce.inputs.student=student.logit"], r"The training of the teacher .*logit"),
    ],
)  # fmt: skip
def test_what_cannot_go_well_is_said(settled_with, arguments, message):
    settled = settled_with(*arguments)
    with pytest.raises(ValueError, match=message):
        rehearse_all(settled, ["teacher"], {"student + kd": settled.settings})


def test_nothing_of_it_is_left_on_the_nets(settled_with):
    settled = settled_with("teacher.fit=null", "method=at")
    nets = rehearse_all(settled, ["teacher"], {"student + at": settled.settings})
    assert list(nets) == ["teacher"]
    hooks = [module for module in nets["teacher"].modules() if module._forward_hooks]
    assert hooks == []
