"""``job=compare runs=<folder or glob>``: put finished runs side by side."""

from __future__ import annotations

from pathlib import Path

from kd_lightning.comparison.records import Arm
from kd_lightning.comparison.results import check_same_samples
from kd_lightning.config.command import Command
from kd_lightning.config.schema import Config
from kd_lightning.config.values import plain
from kd_lightning.experiment.compare import build_arm, build_comparison
from kd_lightning.experiment.found import control_of, find_arms, finished_below, is_control, shown_validation
from kd_lightning.experiment.settle import reopen
from kd_lightning.files.artifact import Artifact
from kd_lightning.report.console import console as report_console
from kd_lightning.report.show import show
from kd_lightning.training.trainer import build_loggers


def run(command: Command, folder: Path) -> None:
    """Rank every training below the given folders; those that differ in the seed only are one arm.

    The order is that of the validation metric, teachers first: the test split judges, it does not choose. Every student
    is tested against the same student trained alone, where that is among them.
    """
    settings = command.settings
    found = find_arms(finished_below(_asked(settings)))
    _check_comparable(found)
    data = reopen(found[0].runs[0]).data
    arms = [build_arm(arm.name, arm.runs, data, settings) for arm in found]
    pairs = [(arm.name, base.name) for arm in found if (base := control_of(arm, found)) is not None]
    reference = next((arm.name for arm in found if is_control(arm)), None)
    loggers = build_loggers(settings, folder, "compare", "compare")
    show(build_comparison(arms, data, settings, reference, pairs), folder, plain(settings), loggers)
    students = [arm for arm in found if not arm.teaches]
    ranks = "; ".join(f"{rank}. {arm.name}, {shown_validation(arm)}" for rank, arm in enumerate(students, 1))
    report_console().print(f"Ranked on validation: {ranks}", highlight=False, markup=False)


def _asked(settings: Config) -> list[str]:
    """What ``runs`` (or ``run``) asks for.

    Raises:
        ValueError: Where nothing was asked for.
    """
    asked = settings.run if settings.runs is None else settings.runs
    patterns = [asked] if isinstance(asked, str) else list(asked or [])
    if not patterns:
        raise ValueError("job=compare needs run folders, such as runs='outputs/digits_resnet/*' (or a list of them).")
    return [str(pattern) for pattern in patterns]


def _check_comparable(found: list[Arm]) -> None:
    """Refuse runs that saw other samples, or other pictures of them, before any of them is measured.

    Raises:
        ValueError: Names two that differ.
    """
    check_same_samples([Artifact(run.folder, run.record, arm.name) for arm in found for run in arm.runs])
    looks = {arm.name: [arm.runs[0].settings.data.get(key) for key in ("image_size", "channels")] for arm in found}
    first, look = next(iter(looks.items()))
    for name, other in looks.items():
        if other != look:
            raise ValueError(
                f"'{first}' takes pictures of data.image_size={look[0]}, data.channels={look[1]}, and '{name}' of"
                f" {other[0]}, {other[1]}: their costs and answers are not of the same pictures. Compare those of one"
                " size, or train them on it."
            )
