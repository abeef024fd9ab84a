"""Stopping a trial early: it is worse than half of the earlier ones were at the same epoch.

The median stopping rule of Golovin et al., Google Vizier, KDD 2017, with the values of single epochs as in Optuna's
``MedianPruner``. The trial knows the medians from a file, so it needs no database, on whatever machine it runs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from kd_lightning.config.schema import Config

CURVE = "curve.json"
# What a job returns whose trial was stopped.
STOPPED = "stopped"


class TrialStoppedError(Exception):
    """The trial was stopped early."""


class MedianStop(pl.Callback):
    """Writes the validation of every epoch beside the run, and stops where it falls behind.

    Args:
        monitor: The metric.
        mode: ``max`` or ``min``.
        folder: Where ``curve.json`` goes.
        medians: JSON file with epoch -> median of the earlier trials; None: only write the curve.
    """

    def __init__(self, monitor: str, mode: str, folder: str, medians: str | None = None) -> None:
        self.monitor, self.sign, self.folder = monitor, 1.0 if mode == "max" else -1.0, Path(folder)
        self.medians: dict[str, float] = {} if medians is None else json.loads(Path(medians).read_text())
        self.curve: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the epoch.

        Raises:
            TrialStoppedError: The best so far is worse than the median was at this epoch.
        """
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None or not getattr(pl_module, "in_last_stage", True):
            return
        epoch = str(trainer.current_epoch)
        self.curve[epoch] = float(value)
        (self.folder / CURVE).write_text(json.dumps(self.curve))
        best = max(self.sign * seen for seen in self.curve.values())
        if epoch in self.medians and best < self.sign * self.medians[epoch]:
            median = self.medians[epoch]
            raise TrialStoppedError(
                f"Stopped after epoch {trainer.current_epoch}: {self.monitor} {float(value):.4f}, the median of the"
                f" earlier trials was {median:.4f}."
            )

    def state_dict(self) -> dict[str, Any]:
        """The curve so far, for a resumed training."""
        return {"curve": dict(self.curve)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curve."""
        self.curve = dict(state_dict["curve"])


def watched(settings: Config, folder: Path) -> Config:
    """The settings with the callback that a trial of a sweep needs; as they are where none asks for it."""
    if not settings.tune.curve and settings.tune.medians is None:
        return settings
    node: dict[str, Any] = {"_target_": f"{MedianStop.__module__}.{MedianStop.__qualname__}", "folder": str(folder)}
    node |= {"monitor": settings.metrics.monitor, "mode": settings.metrics.mode, "medians": settings.tune.medians}
    return replace(settings, callbacks={**settings.callbacks, "median_stop": node})
