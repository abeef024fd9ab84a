"""``job=cache``: store what the method asks of the teacher, for every training that will ask the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.upstream import obtain_teacher
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import student_net
from kd_lightning.training.objective import needs_teacher
from kd_lightning.training.training import Training


def run(command: Command, folder: Path) -> None:
    """Train or load the teacher, and write what is missing of its signals."""
    settled = settle(command)
    settings = settled.settings
    teacher = obtain_teacher(settled)[0] if needs_teacher(settings.method) else None
    settings = replace(settings, teacher=replace(settings.teacher, cache="write"))
    build_distiller(Training(settings, settled.data, teacher), student_net(settings, teacher))
    if settled.data.signals is None:
        raise ValueError(
            f"The method {settings.method.name} asks for no signals of a teacher: there is nothing to store."
        )
