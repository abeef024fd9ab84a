"""From arm folders to a comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.module import KDDataModule
from kd_lightning.jobs._arm import FittedArm, save_predictions, shipped
from kd_lightning.jobs._assemble import build_loggers
from kd_lightning.jobs._load import ARM
from kd_lightning.jobs._predictions import predict
from kd_lightning.jobs._probes import probe_arms
from kd_lightning.jobs._two_tokenizers import likelihood_remarks, two_tokenizers
from kd_lightning.report.console import console as report_console
from kd_lightning.report.html import write_reports
from kd_lightning.report.measure import count_parameters, flops, latency
from kd_lightning.report.results import Arm, Comparison, Cost, Run, compare
from kd_lightning.report.tables import console_table


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a finished arm.

    Raises:
        FileNotFoundError: Where the folder is none.
    """
    try:
        record: dict[str, Any] = json.loads((folder / ARM).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not the folder of a finished training (no {ARM}).") from None
    return record


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Rows of the CSV log. A training that was resumed has several; what a later one logged again counts once."""
    rows: list[dict[str, Any]] = []
    logs = sorted((folder / "logs").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    for path in logs:
        with path.open(newline="") as handle:
            new = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(handle)]
        if new:
            start = min(row.get("step", 0.0) for row in new)
            rows = [row for row in rows if row.get("step", 0.0) < start] + new
    return rows


def read_run(folder: Path, name: str) -> Run:
    """One finished training as the report needs it."""
    record = read_record(folder)
    predictions = load_file(folder / "test.safetensors")
    return Run(
        name=name,
        seed=int(record["seed"]),
        folder=str(folder),
        logits=predictions["logits"],
        target=predictions["target"],
        index=predictions["index"],
        curves=read_curves(folder),
        train_seconds=record["train_seconds"],
        validation=read_validation(folder),
        whole=record.get("whole", {}),
        choices=record["test"],
        epochs=record["epochs"],
        energy_joules=record.get("energy_joules"),
    )


def read_validation(folder: Path) -> tuple[Tensor, Tensor] | None:
    """Logits and targets of the validation split; None where there was none."""
    try:
        found = load_file(folder / "validation.safetensors")
    except FileNotFoundError:
        return None
    return found["logits"], found["target"]


def cost_of(net: nn.Module, call: Any, data: SplitDataModule, folder: Path | None, cfg: DictConfig) -> Cost:
    """What a net costs: counted, weighed and timed on this machine's CPU."""
    example = call.arguments(data.ready(next(iter(data.loader("test", whole=True)))))
    net = shipped(net.cpu().eval())
    weights = None if folder is None else folder / "student.safetensors"
    cost = Cost(
        parameters=count_parameters(net),
        flops=flops(net, example),
        file_bytes=weights.stat().st_size if weights is not None and weights.is_file() else None,
    )
    if cfg.compare.latency:
        batch = cfg.compare.latency_batch
        cost.latency_ms_batch1 = latency(net, example, 1)
        cost.latency_ms_batched, cost.batched = latency(net, example, batch), batch
    return cost


def build_arm(name: str, kind: Any, folders: Iterable[Path], cost: Cost) -> Arm:
    """An arm of several seeds."""
    return Arm(name, kind, [read_run(folder, name) for folder in folders], cost)


def build_teacher_arm(
    cfg: DictConfig, folder: Path, data: SplitDataModule, net: nn.Module, arm: FittedArm | None
) -> Arm:
    """The teacher as an arm; one that was not trained here is measured now.

    Args:
        cfg: The whole configuration.
        folder: The run's folder, for the predictions.
        data: Prepared data.
        net: The teacher's net.
        arm: Where it was trained, here or before; else None.
    """
    call = instantiate(cfg.teacher.call)
    if arm is not None:
        return build_arm("teacher", "teacher", [arm.folder], cost_of(net, call, data, arm.folder, cfg))
    found = predict(net, call, "test", data)
    place = folder / "teacher"
    place.mkdir(exist_ok=True)
    save_predictions(net, call, data, place, found)
    rows = found.rows
    run = Run("teacher", cfg.teacher.seed, str(place), rows["logits"], rows["target"], rows["index"])
    run.validation, run.whole = read_validation(place), found.whole
    return Arm("teacher", "teacher", [run], cost_of(net, call, data, None, cfg))


def build_comparison(
    arms: list[Arm],
    data: SplitDataModule,
    cfg: DictConfig,
    reference: str | None,
    pairs: Sequence[tuple[str, str]] | None = None,
    teacher: nn.Module | None = None,
) -> Comparison:
    """The comparison of arms on the data's test split, with its pictures.

    Args:
        arms: Teacher and students.
        data: Prepared data.
        cfg: Settings of the comparison.
        reference: Name of the student trained alone.
        pairs: (arm, reference) that are tested; None: every student against ``reference``.
        teacher: The teacher's net, for where it was not trained here.
    """
    if isinstance(data, KDDataModule):
        probe_arms(arms, data, cfg, teacher)
    remarks = []
    if two_tokenizers(cfg) and teacher is not None:
        arms = [arm for arm in arms if arm.kind != "teacher"]
        remarks = likelihood_remarks(cfg, data, teacher, arms)
    options = {"alpha": cfg.compare.alpha, "pairs": pairs, "task": data.task}
    # Few enough for a report to choose from.
    looks = data.shown("test") if len(data.split.test) <= 20_000 else {}
    comparison = compare(arms, data.class_names, reference, images=looks, **options)
    comparison.remarks += remarks
    return comparison


def show(comparison: Comparison, folder: Path, cfg: DictConfig) -> None:
    """Print table and verdicts, write the reports, tell the loggers that take reports."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    paths = write_reports(folder, comparison, settings)
    console = report_console()
    console.print(console_table(comparison))
    for verdict in comparison.verdicts:
        console.print(verdict, highlight=False, markup=False)
    for remark in comparison.remarks:
        console.print(remark, highlight=False, markup=False)
    for warning in comparison.warnings:
        console.print(warning, style="yellow", highlight=False, markup=False)
    console.print(f"Report: {paths['html']}", soft_wrap=True, highlight=False, markup=False)
    for logger in build_loggers(cfg, folder, "compare", "compare"):
        if hasattr(logger, "log_report"):
            logger.log_report(comparison, paths)
        logger.finalize("success")
