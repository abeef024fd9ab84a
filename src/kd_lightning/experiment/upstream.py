"""Trainings before the main ones: the teacher's, and that of the student's body."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from kd_lightning.config.schema import Config
from kd_lightning.config.two_tokenizers import check_prefix
from kd_lightning.experiment.settle import Settled
from kd_lightning.files.artifact import Artifact
from kd_lightning.training.nets import build_net, load_net
from kd_lightning.training.objective import needs_teacher
from kd_lightning.training.store import shared_nets
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")


def obtain_teacher(settled: Settled) -> tuple[nn.Module, Artifact | None]:
    """The teacher's net in eval mode, and its artifact where it was trained here or before."""
    settings = settled.settings
    check_prefix(settings)
    if is_given(settings):
        net = build_net(settings.teacher, settings.teacher.seed)
        log.info(f"teacher {settings.teacher.name}: {settings.teacher.checkpoint or 'used as it is built'}")
        return net.eval(), None
    artifact = shared_nets(settings.teacher.store).obtain(_of_teacher(settled))
    return load_net(artifact), artifact


def is_given(settings: Config) -> bool:
    """Whether the teacher comes from elsewhere, not from the store."""
    return settings.teacher.checkpoint is not None or settings.teacher.fit is None


def teacher_place(settled: Settled) -> Path:
    """Where the teacher lies in the store, or will lie."""
    return shared_nets(settled.settings.teacher.store).place(_of_teacher(settled))


def _of_teacher(settled: Settled) -> Training:
    own = settled.of_teacher()
    return Training(own.settings, own.data, None, f"teacher {settled.settings.teacher.name}", "teacher")


def prepare_student(settled: Settled) -> Settled:
    """Train the body of the student where ``student.fit`` says so, or find it finished; it is ``student.body`` then.

    Its data and metrics are those of ``student.fit``. The teacher is the one that ``model@teacher`` builds, before it
    is trained on the task; student and teacher are built for the task of ``student.fit.data``.
    """
    if settled.settings.student.fit is None:
        return settled
    own = settled.of_body()
    settings = own.settings
    teacher = build_net(settings.teacher, settings.teacher.seed).eval() if needs_teacher(settings.method) else None
    label = f"student {settings.student.name} before the task ({settings.method.name} on {settings.data['name']})"
    training = Training(settings, own.data, teacher, label, "distilled")
    return settled.with_body(shared_nets(settings.teacher.store).obtain(training).folder)
