"""Lightning's rich progress bar, less what says nothing, and drawn no faster than one can read."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

# Seconds between two drawings. Each costs a millisecond, and on a GPU a synchronisation where it shows a metric.
INTERVAL = 0.5


class ProgressBar(RichProgressBar):
    """Shows epoch, speed, loss and validation metrics; not the number of the log folder."""

    _next = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Draw, where it is time."""
        if self._due(trainer.is_last_batch):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def _due(self, last: bool) -> bool:
        now = time.monotonic()
        if not last and now < self._next:
            return False
        self._next = now + INTERVAL
        return True

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Metrics to show."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
