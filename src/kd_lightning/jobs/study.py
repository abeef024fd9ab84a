"""``job=study``: the student alone, with label smoothing, plain KD and the methods; equal budget, equal seeds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.config.trust import carried
from kd_lightning.core.ranks import is_main_process
from kd_lightning.experiment.experiment import Experiment
from kd_lightning.experiment.recipes import study_recipes
from kd_lightning.experiment.study import announce, check_workers, open_study, without_bars
from kd_lightning.experiment.workers import failures, finished, work, work_in_processes
from kd_lightning.files.runs import write_json
from kd_lightning.report.study import show_study, study_numbers


def run(command: Command, folder: Path) -> float | None:
    """Train what is missing and compare; returns the best judged method's mean of ``metrics.monitor`` on validation.

    Raises:
        ValueError: Where a training failed; the others are finished and compared before.
    """
    settings = command.settings
    check_workers(settings)
    recipes = study_recipes(command)
    experiment = open_study(command, recipes)
    if is_main_process():
        experiment.settled.data.save_split(folder)
    announce(experiment)
    if settings.study.workers > 1:
        work_in_processes(settings, carried(partial(open_study, without_bars(command), recipes)))
    else:
        work(experiment)
    if not is_main_process():
        return None
    result, failed = _conclude(experiment, folder), failures(experiment)
    if failed:
        reasons = "\n".join(f"  {label}: {why}" for label, why in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(experiment.trainings)} trainings did not finish. The same command trains only what"
            f" is missing.\n{reasons}"
        )
    return result


def _conclude(experiment: Experiment, folder: Path) -> float | None:
    """Comparison, tables and study.json of the trainings that are finished."""
    artifacts = finished(experiment)
    if not artifacts:
        return None
    comparison = experiment.compare(artifacts, folder)
    experiment.choose(artifacts, folder)
    experiment.show(comparison, folder)
    trained = {name: [one.artifact] for name, one in experiment.sources.items() if one.artifact is not None}
    rows = study_numbers(trained | artifacts, comparison.score)
    show_study(comparison, rows, list(trained))
    missing = failures(experiment)
    write_json(folder / "study.json", {"arms": rows, "verdicts": comparison.verdicts, "missing": missing})
    return experiment.best(artifacts)[1]
