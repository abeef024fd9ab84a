"""Trackio: a local page of curves in a SQLite file, for people without W&B. ``trackio show`` opens it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from kd_lightning.comparison.results import Comparison


class TrackioLogger(Logger):
    """Lightning's logger interface on trackio; nothing is sent anywhere.

    Args:
        project: Project of the page.
        name: Which arm it is.
        group: What the runs of one pipeline share.
        config: What the runs are told apart by: model, method, seed, data.

    Raises:
        ModuleNotFoundError: Where trackio is not installed.
    """

    def __init__(
        self,
        project: str = "kd_lightning",
        name: str | None = None,
        group: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            import trackio  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"logger=trackio needs {error.name}: pip install 'kd-lightning[trackio]', or choose logger=csv."
            ) from None
        self._project, self._name, self._group, self._config = project, name, group, dict(config or {})
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The trackio run, opened on first use."""
        if self._run is None:
            import trackio

            # Runs of several pipelines may share a label; the group makes the name one of its own.
            name = " · ".join(part for part in (self._group, self._name) if part) or None
            self._run = trackio.init(
                project=self._project, name=name, group=self._group, config=self._config, embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are given when the run is opened; nothing more is kept."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_report(self, comparison: Comparison, files: Mapping[str, Path]) -> None:
        """Mean of every measure of every arm, as ``test/<metric>/<arm>``."""
        found = {
            f"test/{metric}/{arm.name}": one.mean
            for arm in comparison.arms
            for metric in sorted({key for row in arm.metrics for key in row})
            if (one := arm.summary(metric))
        }
        self.experiment.log(found)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run: the next arm in this process opens its own."""
        if self._run is not None:
            self._run.finish()
            self._run = None
