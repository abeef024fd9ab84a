"""The one W&B workspace that fits every run, and the names that make it fit.

    python -m kd_lightning.report.loggers.wandb --entity me --project kd_lightning

Every training logs ``train/<term>``, ``val/<metric>`` and ``grad/<term>``; every comparison logs the tables and media
below. Runs of one pipeline share a group; the job type is teacher, alone, distilled or compare.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

# Tables that `KDWandbLogger.log_report` logs, as far as there is something to put in.
RESULTS = "report/results"  # an arm per row, as the report writes it
METRICS = "report/metrics"  # arm, kind, metric, mean, sd, n: numbers for charts
TESTS = "report/tests"
CLASSES = "report/classes"
ROBUSTNESS = "report/robustness"
LIKENESS = "report/likeness"
GRADIENTS = "report/gradients"
PAIRS = "report/confused_pairs"
SAMPLES = "report/samples"
TABLES = (RESULTS, METRICS, TESTS, CLASSES, ROBUSTNESS, LIKENESS, GRADIENTS, PAIRS, SAMPLES)
PAGE = "report/page"  # report.html
# Summary values of a comparison: `test/<metric>/<kind>`, the first distilled arm, and what it gains.
SUMMARISED = ("top1", "nll", "perplexity", "spearman", "cosine", "ece", "ece_calibrated", "agreement", "corrupted_top1")
KINDS = ("teacher", "alone", "distilled")


def build_workspace(project: str = "kd_lightning", entity: str | None = None, name: str = "Distillation") -> str:
    """Build the workspace and save it as a view of the project; gives its address.

    Args:
        project: W&B project.
        entity: User or team; None: the one that is logged in.
        name: Of the view.

    Raises:
        ModuleNotFoundError: Where wandb-workspaces is not installed.
        ValueError: Where nobody is logged in, or W&B is set to offline.
    """
    import wandb

    workspaces = _package()
    if os.environ.get("WANDB_MODE", "online") != "online" or not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "A workspace is kept by W&B, so it needs a login: run `wandb login` (or set WANDB_API_KEY), and unset"
            " WANDB_MODE. Offline runs can be sent first: see docs/wandb.md."
        )
    owner = entity or wandb.Api().default_entity
    if owner is None:
        raise ValueError("W&B names no default entity; give one: --entity <user or team>.")
    view = workspaces.Workspace(entity=owner, project=project, name=name, sections=sections())
    view.runset_settings = workspaces.RunsetSettings(
        groupby=[workspaces.Metric("Group"), workspaces.Metric("JobType")], order=[]
    )
    return str(view.save().url)


def sections() -> list[Any]:
    """The sections of the workspace.

    Raises:
        ModuleNotFoundError: Where wandb-workspaces is not installed.
    """
    workspaces = _package()
    import wandb_workspaces.reports.v2 as panels

    def line(title: str, *keys: str, regex: str | None = None) -> Any:
        return panels.LinePlot(title=title, x="epoch", y=list(keys), metric_regex=regex)

    def bar(title: str, metric: str) -> Any:
        return panels.BarPlot(title=title, metrics=[f"test/{metric}/{kind}" for kind in KINDS])

    tables = [panels.WeavePanelSummaryTable(table_name=key) for key in TABLES]
    confusion = panels.MediaBrowser(title="Report", media_keys=[PAGE])
    return [
        workspaces.Section(
            name="Did it help?",
            is_open=True,
            panels=[
                panels.ScalarChart(title="Gain in top-1", metric="gain/top1"),
                panels.ScalarChart(title="p-value", metric="gain/p"),
                bar("Test top-1", "top1"),
                bar("Calibration error", "ece"),
                bar("Top-1 under corruption", "corrupted_top1"),
                bar("Agreement with the teacher", "agreement"),
            ],
        ),
        workspaces.Section(name="Report", is_open=True, panels=[confusion, *tables]),
        workspaces.Section(
            name="Training",
            is_open=True,
            panels=[
                line("Validation top-1", "val/top1"),
                line("Loss", "train/loss"),
                line("Loss by term", regex="^train/"),
                line("Gradient norm by term", regex="^grad/(?!cosine)"),
                line("Cosine of task and distillation gradient", "grad/cosine"),
            ],
        ),
    ]


def _package() -> Any:
    try:
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Building a W&B workspace needs {error.name}: pip install 'kd-lightning[workspaces]' (wandb-workspaces)."
        ) from None
    return workspaces


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kd_lightning.report.loggers.wandb", description="Save the W&B workspace."
    )
    parser.add_argument("--project", default="kd_lightning")
    parser.add_argument("--entity", default=None, help="user or team; by default the one that is logged in")
    parser.add_argument("--name", default="Distillation", help="name of the view")
    chosen = parser.parse_args(arguments)
    try:
        print(build_workspace(chosen.project, chosen.entity, chosen.name))
    except (ModuleNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
