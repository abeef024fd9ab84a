"""Weights & Biases: online when logged in, offline otherwise; never a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from kd_lightning.report.results import Comparison
from kd_lightning.report.tables import main_table


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
        """The comparison as a table, confusion matrices and the report as an artifact.

        Args:
            comparison: What was found.
            files: Report files to keep.
        """
        import wandb

        run = self.experiment
        columns = main_table(comparison)
        rows = [[arm.name, *(c.cells[i] for c in columns)] for i, arm in enumerate(comparison.arms)]
        run.log({"comparison": wandb.Table(columns=["arm", *(c.title for c in columns)], data=rows)})
        for measured in comparison.arms:
            first = measured.arm.runs[0]
            run.log(
                {
                    f"confusion/{measured.name}": wandb.plot.confusion_matrix(
                        y_true=first.target.tolist(),
                        preds=first.logits.argmax(1).tolist(),
                        class_names=comparison.class_names,
                    )
                }
            )
        run.summary["verdict"] = " ".join(comparison.verdicts)
        artifact = wandb.Artifact(name="report", type="report")
        for path in files.values():
            artifact.add_file(str(path))
        run.log_artifact(artifact)
