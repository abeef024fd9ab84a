"""``protocol=paper``: the test split is looked at after every epoch, as much of the literature does.

The best of these looks is an optimistic number: the epoch is chosen on the data it is judged on. It is recorded as
``best_on_test`` beside the honest ones, so that a published table can be compared with; it never chooses the weights.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from kd_lightning.core.distiller import Distiller
from kd_lightning.data.base import SplitDataModule
from kd_lightning.training.predictions import predict


class BestOnTest(pl.Callback):
    """Measures the student on test after every training epoch and remembers the epoch of the best score.

    Args:
        data: Prepared data.
    """

    def __init__(self, data: SplitDataModule) -> None:
        self.data = data
        self.best: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure; the training does not notice: same modes, same random state."""
        assert isinstance(pl_module, Distiller)
        role = pl_module.roles.learner
        modes = {module: module.training for module in role.net.modules()}
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers
            found = predict(role.net, lambda _, batch: role(batch), "test", self.data)
        for module, mode in modes.items():
            module.training = mode
        metrics, score = found.metrics(self.data.task), self.data.task.score
        if not self.best or score.better(metrics[score.key] - self.best[score.key]):
            self.best = {**metrics, "epoch": float(trainer.current_epoch)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best = dict(state_dict["best"])


def looks_on_test(trainer: pl.Trainer) -> dict[str, dict[str, float]]:
    """``{"best_on_test": metrics}`` under ``protocol=paper``, else nothing."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return {"best_on_test": one.best for one in callbacks if isinstance(one, BestOnTest) and one.best}  # noqa: B035
