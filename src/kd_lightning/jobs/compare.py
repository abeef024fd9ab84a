"""``job=compare runs=<folder or glob>``: put finished runs side by side."""

from __future__ import annotations

import glob
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from kd_lightning.jobs._arms_found import FoundArm, find_arms
from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._comparison import build_arm, build_comparison, cost_of, show
from kd_lightning.jobs._load import ARM, load_run
from kd_lightning.report.console import console as report_console


def run(cfg: DictConfig, folder: Path) -> None:
    """Rank every training below the given folders; those that differ in the seed only are one arm.

    The order is that of the validation metric, teachers first: the test split judges, it does not choose. Every student
    is tested against the same student trained alone, where that is among them.
    """
    found = find_arms(_arm_folders(_patterns(cfg)))
    data = build_data(load_run(found[0].folders[0]).cfg)
    arms = []
    for one in found:
        loaded = load_run(one.folders[0])
        cost = cost_of(loaded.net, instantiate(loaded.cfg.student.call), data, loaded.folder, cfg)
        arms.append(build_arm(one.name, one.kind, one.folders, cost))
    pairs = [(one.name, base.name) for one in found if (base := _alone(one, found)) is not None]
    reference = next((one.name for one in found if one.control), None)
    show(build_comparison(arms, data, cfg, reference, pairs), folder, cfg)
    students = [one for one in found if one.kind != "teacher"]
    ranks = "; ".join(f"{rank}. {one.name}, {one.shown_validation}" for rank, one in enumerate(students, 1))
    report_console().print(f"Ranked on validation: {ranks}", highlight=False, markup=False)


def _alone(arm: FoundArm, found: list[FoundArm]) -> FoundArm | None:
    """The control of an arm: the same model trained alone, the first of several."""
    if arm.kind == "teacher":
        return None
    controls = [one for one in found if one.control and one.model == arm.model]
    return None if not controls or controls[0] is arm else controls[0]


def _patterns(cfg: DictConfig) -> list[str]:
    """What ``runs`` (or ``run``) asks for.

    Raises:
        ValueError: Where nothing was asked for.
    """
    asked = cfg.run if cfg.runs is None else cfg.runs
    patterns = [asked] if isinstance(asked, str) else list(asked or [])
    if not patterns:
        raise ValueError("job=compare needs run folders, such as runs='outputs/digits_resnet/*' (or a list of them).")
    return [str(pattern) for pattern in patterns]


def _arm_folders(patterns: list[str]) -> list[Path]:
    """Folders of finished trainings at or below the patterns.

    Raises:
        FileNotFoundError: Where a pattern leads to none.
    """
    found: list[Path] = []
    for pattern in patterns:
        below = [p.parent for match in glob.glob(pattern, recursive=True) for p in sorted(Path(match).rglob(ARM))]
        if not below:
            raise FileNotFoundError(f"runs: no finished training at or below '{pattern}'.")
        found.extend(below)
    return list(dict.fromkeys(found))
