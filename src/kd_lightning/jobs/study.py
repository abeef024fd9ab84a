"""``job=study``: the student alone, with label smoothing, plain KD and the methods; equal budget, equal seeds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from kd_lightning.jobs._check import check_targets
from kd_lightning.jobs._comparison import build_arm, build_comparison, build_teacher_arm, cost_of, read_record, show
from kd_lightning.jobs._load import load_run
from kd_lightning.jobs._study import ALONE, PLAIN_KD, Cell, Recipe, Study, open_study, study_recipes
from kd_lightning.jobs._study_tables import cost_sentence, study_numbers, study_table
from kd_lightning.jobs._study_work import failures, work, work_in_processes
from kd_lightning.report.choices import paper_protocol
from kd_lightning.report.console import console as report_console
from kd_lightning.report.results import Comparison
from kd_lightning.runs import is_main_process, write_json, write_status

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> float | None:
    """Train what is missing and compare; returns the best judged method's mean of ``metrics.monitor`` on validation.

    Raises:
        ValueError: Where a training failed; the others are finished and compared before.
    """
    check_targets(cfg)
    _check_workers(cfg)
    recipes = study_recipes(cfg)
    study = open_study(cfg, recipes)
    if is_main_process():
        study.data.save_split(folder)
    _announce(study, recipes, cfg)
    if cfg.study.workers > 1:
        work_in_processes(cfg, recipes)
    else:
        work(study)
    if not is_main_process():
        return None
    failed = failures(study)
    result = _conclude(cfg, folder, study, recipes)
    if failed:
        reasons = "\n".join(f"  {label}: {why}" for label, why in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(study.cells)} trainings did not finish. The same command trains only what is"
            f" missing.\n{reasons}"
        )
    return result


def _check_workers(cfg: DictConfig) -> None:
    if cfg.study.workers < 1:
        raise ValueError(f"study.workers={cfg.study.workers}: at least one process is needed.")
    if cfg.study.workers > 1 and str(cfg.trainer.strategy) in ("ddp", "ddp_spawn", "fsdp"):
        raise ValueError(
            f"study.workers={cfg.study.workers} with trainer.strategy={cfg.trainer.strategy}: either several trainings"
            " at once or several processes in one. Take trainer=gpu: each process uses a GPU of its own."
        )


def _announce(study: Study, recipes: list[Recipe], cfg: DictConfig) -> None:
    seeds = list(dict.fromkeys(cell.seed for cell in study.cells))
    done = sum(cell.done for cell in study.cells)
    length = f"{cfg.trainer.max_epochs} epochs" if cfg.trainer.max_steps < 0 else f"{cfg.trainer.max_steps} steps"
    log.info(
        f"Plan: {len(recipes)} arms ({', '.join(recipe.name for recipe in recipes)}) x seeds {seeds}, {length} each:"
        f" {len(study.cells)} trainings of {cfg.student.name}" + (f", {done} finished earlier" if done else "")
    )


def _conclude(cfg: DictConfig, folder: Path, study: Study, recipes: list[Recipe]) -> float | None:
    """Comparison, tables and study.json of the cells that are finished."""
    done = {r.name: [c for c in study.cells if c.arm == r.name and c.done] for r in recipes}
    done = {name: cells for name, cells in done.items() if cells}
    if not done:
        return None
    comparison = _compare(cfg, folder, study, recipes, done)
    judged = {r.name: done[r.name] for r in recipes if r.judged and r.name in done}
    scores = {name: _mean_validation(cells) for name, cells in judged.items()}
    known = {name: score for name, score in scores.items() if score is not None}
    sign = 1.0 if cfg.metrics.mode == "max" else -1.0
    best = max(known, key=lambda name: sign * known[name]) if known else None
    if best is not None:  # so that job=export, predict and evaluate take run=<this folder>
        chosen = max(judged[best], key=lambda cell: sign * (_validation(cell) or 0.0))
        write_status(folder, student=os.path.relpath(chosen.folder, folder))
    show(comparison, folder, cfg)
    rows = study_numbers(study, comparison.score)
    console = report_console()
    console.print(study_table(comparison))
    console.print(cost_sentence(rows), highlight=False, markup=False)
    if (note := paper_protocol(comparison)) is not None:
        console.print(note, style="yellow", highlight=False, markup=False)
    write_json(folder / "study.json", {"arms": rows, "verdicts": comparison.verdicts, "missing": failures(study)})
    return None if best is None else known[best]


def _compare(
    cfg: DictConfig, folder: Path, study: Study, recipes: list[Recipe], done: dict[str, list[Cell]]
) -> Comparison:
    """Every student against the student alone; every judged method against plain KD too."""
    log.info("Comparing on the test split ...")
    arms = [build_teacher_arm(cfg, folder, study.data, study.teacher, study.teacher_arm)]
    for name, cells in done.items():
        loaded = load_run(cells[0].folder)
        kind = "distilled" if cells[0].taught else "alone"
        cost = cost_of(loaded.net, instantiate(loaded.cfg.student.call), study.data, loaded.folder, cfg)
        arms.append(build_arm(name, kind, [c.folder for c in cells], cost))
    reference = ALONE if ALONE in done else None
    pairs = [(name, ALONE) for name in done if name != ALONE and reference]
    plain = next((r.name for r in recipes if r.method.name == PLAIN_KD and r.name in done), None)
    pairs += [(r.name, plain) for r in recipes if plain and r.judged and r.name in done and r.name != plain]
    return build_comparison(arms, study.data, cfg, reference, pairs, study.teacher)


def _validation(cell: Cell) -> float | None:
    value = next(iter(read_record(cell.folder)["validation"].values()))
    return None if value is None else float(value)


def _mean_validation(cells: list[Cell]) -> float | None:
    values = [value for cell in cells if (value := _validation(cell)) is not None]
    return sum(values) / len(values) if values else None
