"""Weights & Biases: online when logged in, offline otherwise; never a prompt."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from kd_lightning.comparison.records import Arm
from kd_lightning.comparison.results import Comparison
from kd_lightning.report.loggers import wandb as names
from kd_lightning.report.plots.balance import class_rows
from kd_lightning.report.plots.pictures import samples
from kd_lightning.report.probe_tables import cka_rows, gradient_rows, pair_rows, robust_rows
from kd_lightning.report.tables import main_table, test_table

MOST_CLASSES = 100  # W&B shows tables of up to 10,000 rows, a row for each cell of a confusion matrix
SAMPLE_COLUMNS = ["arm", "side", "index", "sample", "true class", "reference says", "arm says"]


def logged_in() -> bool:
    """Whether W&B knows a key, from the environment or from ``wandb login``; asks nobody."""
    import wandb

    return wandb.login(prompt=False, verify=False)


class KDWandbLogger(WandbLogger):
    """Lightning's logger for pipelines: several runs in one process, and the comparison at the end.

    Args:
        project: W&B project.
        entity: User or team; None for the default.
        save_dir: Folder below which offline runs lie (``wandb sync`` sends them later).
        name: Which arm it is.
        group: What the runs of one pipeline share.
        job_type: teacher, alone, distilled or compare.
        tags: Free tags.
        config: What the runs are told apart by: model, method, seed, data.
        offline: None: online where W&B knows a key and WANDB_MODE does not say otherwise.
        options: Further arguments of ``wandb.init``.
    """

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        save_dir: str = ".",
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        config: dict[str, Any] | None = None,
        offline: bool | None = None,
        **options: Any,
    ) -> None:
        import wandb

        if offline is None:
            offline = os.environ.get("WANDB_MODE", "online") != "online" or not logged_in()
        super().__init__(
            project=project,
            entity=entity,
            save_dir=save_dir,
            name=name,
            group=group,
            job_type=job_type,
            tags=tags,
            config=None if config is None else dict(config),  # Hydra gives its own kind of dictionary
            offline=offline,
            # Lightning asks for "dryrun" through the environment, a name that current W&B no longer knows.
            mode="offline" if offline else "online",
            settings=wandb.Settings(silent=True),
            **options,
        )

    def finalize(self, status: str) -> None:
        """Close the run: the next arm in this process opens its own."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None

    def log_report(self, comparison: Comparison, files: Mapping[str, Path]) -> None:
        """Tables, confusion matrices, summary and files of a comparison, named the same way in every run.

        Args:
            comparison: What was found.
            files: Report files to keep; the one called ``html`` is shown too.
        """
        import wandb

        run = self.experiment
        media: dict[str, Any] = {
            key: wandb.Table(columns=list(head), data=rows) for key, (head, rows) in tables(comparison).items() if rows
        }
        if rows := _samples(comparison):
            media[names.SAMPLES] = wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)
        if "html" in files:
            media[names.PAGE] = wandb.Html(Path(files["html"]).read_text(encoding="utf-8"), inject=False)
        few = comparison.kind.classes and len(comparison.class_names) <= MOST_CLASSES
        for kind, arm in _of_kind(comparison).items() if few else ():
            first = arm.runs[0]
            media[f"confusion/{kind}"] = wandb.plot.confusion_matrix(
                y_true=first.target.tolist(),
                preds=first.logits.argmax(1).tolist(),
                class_names=comparison.class_names,
            )
        run.log(media)
        run.summary.update(summary(comparison))
        artifact = wandb.Artifact(name="report", type="report")
        for path in files.values():
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def tables(comparison: Comparison) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Name -> head and rows of every table but that of the samples."""
    columns = main_table(comparison)
    results = [[arm.name, *(c.cells[i] for c in columns)] for i, arm in enumerate(comparison.arms)]
    numbers = [
        [arm.name, arm.kind.value, metric, found.mean, found.sd, found.n]
        for arm in comparison.arms
        for metric in sorted({key for row in arm.metrics for key in row})
        if (found := arm.summary(metric))
    ]
    rows, _ = class_rows(comparison) if comparison.kind.classes else ([], 0)
    classes = [[row.name, row.support, *(_number(value) for value in row.accuracy)] for row in rows]
    every: dict[str, tuple[list[str], list[Any]]] = {
        names.RESULTS: (["arm", *(c.title for c in columns)], results),
        names.METRICS: (["arm", "kind", "metric", "mean", "sd", "n"], numbers),
        names.TESTS: test_table(comparison),
        names.CLASSES: (["class", "samples", *(arm.name for arm in comparison.arms)], classes),
        names.ROBUSTNESS: robust_rows(comparison),
        names.LIKENESS: cka_rows(comparison),
        names.GRADIENTS: gradient_rows(comparison),
        names.PAIRS: pair_rows(comparison),
    }
    # The first column of a report's table has no name; W&B needs one.
    return {key: ([one or "arm" for one in head], list(data)) for key, (head, data) in every.items()}


def summary(comparison: Comparison) -> dict[str, Any]:
    """Single values by which pipelines are compared: ``test/<metric>/<kind>``, ``gain/...`` and the verdict."""
    values: dict[str, Any] = {"verdict": " ".join(comparison.verdicts)}
    for kind, arm in _of_kind(comparison).items():
        for metric in names.SUMMARISED:
            if one := arm.summary(metric):
                values[f"test/{metric}/{kind}"] = one.mean
    contrast = next(iter(comparison.headlines), None)
    if contrast is not None and contrast.differences:
        values[f"gain/{comparison.score.key}"] = sum(contrast.differences) / len(contrast.differences)
        values["gain/p"] = contrast.p
    return {key: value for key, value in values.items() if value is not None}


def _of_kind(comparison: Comparison) -> dict[str, Arm]:
    """The teacher, the reference and the first distilled arm, as far as there are any."""
    found: dict[str, Arm] = {}
    for arm in comparison.arms:
        if not arm.alone or comparison.reference in (None, arm.name):
            found.setdefault(arm.kind.value, arm)
    return found


def _samples(comparison: Comparison) -> list[list[Any]]:
    """Samples won and lost, with their pictures or texts."""
    import wandb

    rows: list[list[Any]] = []
    for contrast in comparison.contrasts if comparison.kind.classes else ():
        for side, which in (("won", contrast.won), ("lost", contrast.lost)):
            for one in samples(comparison, contrast, which):
                shown = comparison.images.get(one.index)
                look = one.text if shown is None or isinstance(shown, str) else wandb.Image(_pixels(shown))
                rows.append([contrast.name, side, one.index, look, one.target, one.reference_says, one.arm_says])
    return rows


def _pixels(image: Tensor) -> Any:
    """(H, W, C) as W&B takes pictures."""
    pixels = image.detach().cpu()
    pixels = pixels if pixels.ndim == 3 else pixels.reshape(-1, *pixels.shape[-2:])
    pixels = pixels if len(pixels) in (1, 3) else pixels[:1]
    return pixels.permute(1, 2, 0).numpy()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
