"""``job=cache``: store what the method asks of frozen roles, for every training that will ask the same."""

from __future__ import annotations

from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.config.roles import TEACHER, with_roles, with_serving
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.upstream import check_asked, nets, obtain_roles
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import student_net
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.training import Training


def run(command: Command, folder: Path) -> None:
    """Train or load the frozen roles, and write what is missing of their signals."""
    settled = settle(command)
    asked = asked_roles(settled.settings)
    check_asked(settled.settings, asked)
    frozen = nets(obtain_roles(settled, asked))
    settings = with_serving(with_roles(settled.settings, asked), cache="write")
    build_distiller(Training(settings, settled.data, frozen), student_net(settings, frozen.get(TEACHER)))
    if settled.data.signals is None:
        raise ValueError(
            f"The method {settings.method.name} asks for no signals of a teacher: there is nothing to store."
        )
