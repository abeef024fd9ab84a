"""``job=train``: one student with the chosen method, and the frozen roles that the method needs."""

from __future__ import annotations

import logging
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.config.roles import with_roles
from kd_lightning.core.ranks import is_main_process
from kd_lightning.experiment.experiment import first_roles
from kd_lightning.experiment.rehearsal import rehearse_all
from kd_lightning.experiment.selection import select_training
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.upstream import check_asked, nets, obtain_roles, prepare_student
from kd_lightning.files.runs import write_status
from kd_lightning.training.fit import fit
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.training import Training
from kd_lightning.tuning.objectives import check_objectives, objectives
from kd_lightning.tuning.stop import STOPPED, TrialStoppedError, watched

log = logging.getLogger("kd_lightning")


def run(command: Command, folder: Path) -> float | list[float | None] | str | None:
    """Train; returns what ``tune.objectives`` asks for: by default the best value of ``metrics.monitor`` on validation.

    None without a validation, and ``"stopped"`` for a trial that a sweep stopped early.
    """
    check_objectives(command.settings.tune.objectives)
    settled = settle(command)
    data, settings = settled.data, settled.settings
    if is_main_process():
        data.save_split(folder)
    label = f"student {settings.student.name} + {settings.method.name}"
    asked, chosen = asked_roles(settings), settings.data.get("select") is not None
    check_asked(settings, asked)
    names = first_roles(settings, asked, selects=True) if chosen else list(asked)
    given = rehearse_all(settled, names, {label: with_roles(settings, asked)})
    sources = obtain_roles(settled, names, given=given)
    settled = prepare_student(settled)
    if chosen:
        select_training(settled, data, next(iter(sources.values())), folder)
    frozen = nets({name: source for name, source in sources.items() if name in asked})
    training = Training(watched(with_roles(settled.settings, asked), folder), data, frozen, label)
    try:
        artifact = fit(training, folder)
    except TrialStoppedError as stop:
        log.info(str(stop))
        return STOPPED
    result = objectives(training, artifact)
    if not is_main_process():
        return result
    write_status(folder, student=".")
    for which, metrics in artifact.choices.items():
        log.info(f"test ({which}): " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return result
